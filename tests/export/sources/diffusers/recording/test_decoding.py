"""The path from the final x to an image, found in recordings."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.export.encode import EncodeOptions, encode
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.sources.diffusers.files import Folder
from fewstep.export.sources.diffusers.folder import read_recorded_scheduler
from fewstep.export.sources.diffusers.recording import components
from fewstep.export.sources.diffusers.recording.decoding import (
    LatentMap,
    RecordedDecoding,
    find_decoding,
    read_stored,
)
from fewstep.export.sources.diffusers.recording.recorded_pipeline import RecordedPipeline
from fewstep.export.sources.diffusers.recording.source import record_folder
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.sampling.loading import load
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS

diffusers = pytest.importorskip("diffusers")


def record(folder: Path, name: str) -> RecordedPipeline:
    read = Folder(getattr(recorded_pipelines, name)(folder / name))
    return record_folder(read, read_recorded_scheduler(read), CALLS[name])


def find_in(recorded: RecordedPipeline, folder: Path) -> RecordedDecoding | str:
    settings = recorded.settings.of_one_sample()
    return find_decoding(recorded.built, settings, recorded.x_shape, partial(read_stored, Folder(folder)))


def find(folder: Path, name: str) -> RecordedDecoding | str:
    return find_in(record(folder, name), folder / name)


def latent_map(seed: int = 0) -> LatentMap:
    """Map x [6, 4] to z [2, 3, 4], with a scale for each channel."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    scale = torch.tensor([2.0, 4.0]).reshape(2, 1, 1).expand(2, 3, 4)
    return LatentMap(order, scale, torch.full((2, 3, 4), 0.5), (6, 4))


def test_elements_are_rearranged_then_scaled_and_shifted() -> None:
    made, x = latent_map(), torch.arange(24.0).reshape(1, 6, 4)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).float().reshape(2, 3, 4)
    expected = torch.stack([2 * order[0], 4 * order[1]]) + 0.5
    assert torch.equal(made.to_latents(x)[0], expected)


def test_the_way_back_is_the_inverse() -> None:
    x = torch.arange(48.0).reshape(2, 6, 4)
    assert torch.equal(latent_map().to_x(latent_map().to_latents(x)), x)


def test_constant_axes_of_a_scale_are_not_stored() -> None:
    made = latent_map()
    assert (made.scale.shape, made.shift.shape) == ((1, 2, 1, 1), (1, 1, 1, 1))


def test_packed_latents_are_unpacked_scaled_and_shifted(tmp_path: Path) -> None:
    recorded = record(tmp_path, "bria")
    found = find_in(recorded, tmp_path / "bria")
    assert isinstance(found, RecordedDecoding)
    x = torch.randn(1, *recorded.x_shape, generator=torch.Generator().manual_seed(1))
    unpacked = recorded.built.pipeline._unpack_latents(x, 16, 16, recorded.built.pipeline.vae_scale_factor)
    torch.testing.assert_close(found.latents.to_latents(x), unpacked / 0.18215 + 0.1)


def test_the_image_has_the_size_of_the_call(tmp_path: Path) -> None:
    found = find(tmp_path, "cogview3")
    assert isinstance(found, RecordedDecoding) and (found.component, found.image_shape) == ("vae", (3, 16, 16))
    assert found.latents.order is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wan", "it has no autoencoder"),
        ("text_to_video", "its vae decodes 4 rows for one sample"),
        ("cogvideox_image_to_video", r"its autoencoder returns [1, 3, 9, 16, 16], which is not an image"),
    ],
)
def test_other_outputs_have_a_reason(name: str, reason: str, tmp_path: Path) -> None:
    assert find(tmp_path, name) == reason


def test_a_changed_image_has_a_reason(tmp_path: Path) -> None:
    recorded = record(tmp_path, "cogview3")
    processor: Any = recorded.built.pipeline.image_processor
    plain = processor.postprocess
    processor.postprocess = lambda image, output_type: plain(-image, output_type=output_type)
    found = find_in(recorded, tmp_path / "cogview3")
    assert found == "its call changes the decoded image"


@pytest.mark.parametrize("is_small", [True, False])
def test_the_scale_and_the_shift_that_an_autoencoder_stores_are_found(
    is_small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_small:  # a stand-in without weights
        monkeypatch.setattr(components, "is_small", lambda network: type(network).__name__ != "AutoencoderKLFlux2")
    found = find(tmp_path, "flux2_klein")
    assert isinstance(found, RecordedDecoding)
    z = found.latents.to_latents(torch.ones(1, *found.latents.x_shape))[0, 0]
    variances, means = torch.tensor([4.0, 9.0, 0.25, 1.0]), torch.tensor([0.5, -0.5, 1.0, 2.0])
    torch.testing.assert_close(z[:2, :2].flatten(), variances.add(1e-4).sqrt() + means)


def test_a_call_that_fails_after_its_last_step_has_that_reason(tmp_path: Path) -> None:
    recorded = record(tmp_path, "bria")
    recorded.built.pipeline._unpack_latents = lambda *given: 1 / 0
    assert find_in(recorded, tmp_path / "bria") == (
        "its call fails after the last step: ZeroDivisionError: division by zero"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bria", "cogview3"])
def test_images_of_a_bundle_are_those_of_the_pipeline(name: str, tmp_path: Path) -> None:
    folder, call = getattr(recorded_pipelines, name)(tmp_path / name), CALLS[name]
    options = tuple(f"{key}={value}" for key, value in call.items())
    bundle = tmp_path / "bundle"
    export(ExportOptions(str(folder), bundle, call=options, verify="quick"))
    made = encode(EncodeOptions(folder, ("a cat",), "a dog", call=options, output=tmp_path / "p.npz"))
    prefix = "uncond."
    conditions = {name: rows for name, rows in made.items() if not name.startswith(prefix)}
    branches = {"uncond": {name.removeprefix(prefix): rows for name, rows in made.items() if name.startswith(prefix)}}
    sampler = load(bundle)
    x = sampler.sample("scheduler:3", [0], conditions, guidance=4.0, branches=branches)
    noise = torch.from_numpy(sampler.draws([0])(0).copy())
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    expected = pipeline(
        "a cat",
        negative_prompt="a dog",
        guidance_scale=4.0,
        num_inference_steps=3,
        latents=noise,
        output_type="np",
        **call,
    ).images[0]
    pixels = np.clip(load_autoencoder(bundle).decode(x)[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1)
    np.testing.assert_allclose(pixels, expected, atol=1e-3)
    assert expected.std() > 0.05


@pytest.mark.slow
def test_an_encoded_image_decodes_as_the_autoencoder_decodes_it(tmp_path: Path) -> None:
    folder, call = recorded_pipelines.bria(tmp_path / "bria"), CALLS["bria"]
    bundle = tmp_path / "bundle"
    options = tuple(f"{key}={value}" for key, value in call.items())
    export(ExportOptions(str(folder), bundle, call=options, verify="quick"))
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        expected = vae.decode(vae.encode(torch.from_numpy(image)).latent_dist.mode()).sample.numpy()
    autoencoder = load_autoencoder(bundle)
    np.testing.assert_allclose(autoencoder.decode(autoencoder.encode(image)), expected, atol=1e-4)
