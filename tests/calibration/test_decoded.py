"""Decoders of videos and sounds in bodies of integers."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.decoded import decode, measure_decoded_psnr
from fewstep.calibration.picture_quality import PictureJudge
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER
from tests.calibration.latent_bundle import CONV, WIDTH, write_latent_bundle
from tests.calibration.test_replaced_companions import BODY, options, qualities
from tests.onnx_text import graph_of_text
from tests.runtime.text_bundle import LENGTH


def video_decoder() -> Graph:
    """A video [1, 2, 3, 8, 8] and a sound [1, 1, 384] of one sample, from latents and its text."""
    rng = np.random.default_rng(3)
    weights = {
        f"w{number}": (rng.standard_normal(shape) * (1.5 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
        for number, shape in enumerate([(32, 1, 3, 3), (32, 32, 3, 3), (6, 32, 3, 3)])
    }
    text = f"""(float[1, 1, 8, 8] latent, float[1, {LENGTH}, {WIDTH}] text) => (float[1, 2, 3, 8, 8] video,
        float[1, 1, 384] sound) {{
        mean = ReduceMean<keepdims=0>(text, axes) c0 = {CONV}(latent, w0) sum = Add(c0, mean) a0 = Relu(sum)
        c1 = {CONV}(a0, w1) a1 = Relu(c1) c2 = {CONV}(a1, w2) y = Tanh(c2) video = Reshape(y, frames)
        flat = Reshape(y, samples) sound = Mul(flat, quiet)
    }}"""
    numbers = {"axes": np.array([1, 2]), "frames": np.array([1, 2, 3, 8, 8]), "samples": np.array([1, 1, -1])}
    return graph_of_text(text, **weights, **numbers, quiet=np.float32(0.01))


def test_a_decoder_gets_the_conditions_of_its_samples() -> None:
    graph, rng = video_decoder(), np.random.default_rng(0)
    latents = rng.standard_normal((2, 1, 8, 8)).astype(np.float32)
    conditions = {"text": rng.random((2, LENGTH, WIDTH), np.float32), "other": np.zeros(2)}
    video, sound = decode(open_session(graph), graph, latents, conditions)
    assert (video.shape, sound.shape) == ((2, 2, 3, 8, 8), (2, 1, 384))
    np.testing.assert_array_equal(sound.ravel(), video.ravel() * np.float32(0.01))


def test_the_psnr_of_a_sound_is_relative_to_the_loudest_value() -> None:
    """An error of 0.001 of a sound with peak 0.5 is one of 0.002 in model range."""
    sound = np.full((2, 1, 100), 0.25, np.float32)
    sound[0, 0, 0] = 0.5
    off = sound + np.float32(0.001)
    assert measure_decoded_psnr([off], [sound]) == pytest.approx([20 * np.log10(2 / 0.002)] * 2, abs=1e-3)


def test_of_a_video_and_its_sound_the_worse_decides() -> None:
    video, sound = np.zeros((1, 2, 3, 8, 8), np.float32), np.ones((1, 1, 100), np.float32)
    near, far = video + np.float32(0.01), sound + np.float32(0.1)
    assert measure_decoded_psnr([near, far], [video, sound]) == pytest.approx([20 * np.log10(2 / 0.1)], abs=1e-3)
    assert measure_decoded_psnr([near, sound], [video, sound]) == pytest.approx(psnr(near, video))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_latent_bundle(tmp_path / "bundle", video_decoder())


def test_a_decoder_of_videos_with_a_condition_has_integers(bundle: Path) -> None:
    body = calibrate(options(bundle)).bodies[BODY]
    assert {*body.replaces} == {TEXT_ENCODER, DECODER} and not body.reasons
    assert (body.trials[0].picture_psnr or 0.0) > 35.0


def test_the_reason_of_a_decoder_in_float_speaks_of_videos(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PictureJudge, "judge_decoder", qualities(41.0, 39.2))
    reason = calibrate(options(bundle)).bodies[BODY].reasons[DECODER]
    assert reason.startswith("8 bits would cost 1.8 dB (1.8 to 1.8) of the videos of 4 seeds, for ")
