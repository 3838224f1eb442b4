"""`fewstep run` writes videos and sound, on a decoder that can be computed by hand."""

import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.output import write_sounds
from fewstep.cli.run.sampling import run
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.runtime.bundle.manifest import AutoencoderEntry
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, content_of, entry, node, small, value
from tests.refusals import refuses

FRAMES, GRAY = (4, 1, 2, 2), "L"
SOUND = (2, 8)


def with_decoder(bundle: Path, frame_rate: float | None = 10, sample_rate: int | None = 8000) -> Path:
    """Give a bundle a decoder for one sample: to a video of its rows, and to a sound of half its values."""
    nodes = [
        node("Reshape", "latent frames", "video"),
        node("Reshape", "latent channels", "loud"),
        node("Mul", "loud half", "sound"),
    ]
    video, sound = value("video", 1, *FRAMES), value("sound", 1, *SOUND)
    constants = {"frames": np.array([1, *FRAMES]), "channels": np.array([1, *SOUND]), "half": 0.5}
    graph = small([value("latent", 1, 1, 4, 4)], [video, sound], nodes, **constants)
    described = entry("graphs/decoder.onnx", graph, video="video", sound="sound")
    (label,) = open_bundle(bundle).manifest.conditions
    return change_bundle(
        bundle,
        {"graphs/decoder.onnx": content_of(graph)},
        conditions=(msgspec.structs.replace(label, default=(0.0,)),),
        autoencoder=AutoencoderEntry(described, None, frame_rate, sample_rate),
    )


def options(bundle: Path, output: Path, samples: int = 1, rate: float | None = None) -> RunOptions:
    return RunOptions(bundle, plan="ddim:2", samples=samples, output=output, rate=rate)


def test_a_png_has_the_frames_of_each_video_in_a_row(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_decoder(tiny_bundle)
    x = run(options(bundle, tmp_path / "x.npy", 2)).x
    frames = run(options(bundle, tmp_path / "x.png", 2)).x
    np.testing.assert_allclose(frames, x.reshape(2, *FRAMES), rtol=1e-6)
    with Image.open(tmp_path / "x.png") as drawn:
        assert drawn.size == (3 * (4 * 3 - 1), 3 * (2 * 3 - 1))  # 4 columns, 2 rows, gaps of 1, enlarged by 3


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_has_the_frames_at_the_rate_of_the_bundle(suffix: str, tiny_bundle: Path, tmp_path: Path) -> None:
    frames = run(options(with_decoder(tiny_bundle), tmp_path / f"x{suffix}")).x
    with Image.open(tmp_path / f"x{suffix}") as drawn:
        assert (drawn.n_frames, drawn.size) == (4, (6, 6))
        drawn.seek(2)
        drawn.load()
        assert drawn.info["duration"] == 100
        pixels = np.asarray(drawn.convert(GRAY))[1::3, 1::3]
    np.testing.assert_allclose(pixels, np.clip((frames[0, 2, 0] + 1) * 127.5, 0, 255), atol=1)


def test_sounds_are_numbered_by_their_seeds(tiny_bundle: Path, tmp_path: Path) -> None:
    sounds = run(options(with_decoder(tiny_bundle), tmp_path / "x.wav", 2)).x
    for seed in range(2):
        with wave.open(str(tmp_path / f"x-{seed}.wav")) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
            heard = np.frombuffer(file.readframes(8), "<i2").reshape(8, 2).T
        np.testing.assert_array_equal(heard, np.rint(np.clip(sounds[seed], -1, 1) * 32767))


def test_loud_samples_are_clipped(tmp_path: Path) -> None:
    write_sounds(np.array([[[2.0, -2.0, 0.5]]]), tmp_path / "x.wav", 8000, 0)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [32767, -32767, 16384]


def test_an_unknown_rate_has_to_be_given(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_decoder(tiny_bundle, None, None)
    for name, parts in (("x.gif", "frames"), ("x.wav", "samples")):
        with refuses(names=(f"does not state the {parts} per second",), fix="give --rate NUMBER"):
            run(options(bundle, tmp_path / name))
    run(options(bundle, tmp_path / "x.wav", rate=16000))
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert file.getframerate() == 16000


def test_a_bundle_without_a_decoder_writes_no_sound(tiny_bundle: Path, tmp_path: Path) -> None:
    with refuses(names=("x.wav", "decodes no sound"), fix=".npy"):
        run(options(tiny_bundle, tmp_path / "x.wav"))


def test_a_rate_belongs_to_a_video_or_a_sound(tiny_bundle: Path, tmp_path: Path) -> None:
    with refuses(names=("--rate is 10", "x.png"), fix=".gif, .webp or .wav"):
        options(tiny_bundle, tmp_path / "x.png", rate=10)


@pytest.mark.parametrize(("name", "rate"), [("x.wav", 0.4), ("x.gif", 0.001), ("x.wav", float("nan"))])
def test_a_rate_that_a_file_cannot_state_is_refused(name: str, rate: float, tiny_bundle: Path, tmp_path: Path) -> None:
    with refuses(names=("--rate is", name), fix="give a number from 1 to"):
        options(tiny_bundle, tmp_path / name, rate=rate)


def test_a_video_is_not_baked(tiny_bundle: Path, tmp_path: Path) -> None:
    with refuses(names=("returns video",), fix="--latents"):
        bake(BakeOptions(with_decoder(tiny_bundle), plan="ddim:2", output=tmp_path / "x.onnx"))
