"""Autoencoders of diffusers in a bundle: their scale and shift are folded in, in both directions."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

from fewstep.export.companions.autoencoder import AutoencoderSource
from fewstep.export.companions.companion import Companion, add_companion
from fewstep.export.companions.networks import add_autoencoder, add_with_sizes
from fewstep.graph.files.commit import open_for_update
from fewstep.pipelines.companions.autoencoder import read_autoencoder
from fewstep.pipelines.files.folder import Folder
from fewstep.plans.schedule import ScheduleSpec
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bands.banded_decoder import BandedDecoder
from fewstep.runtime.bands.cut import cut
from fewstep.runtime.bands.onnx_file import read_onnx
from fewstep.runtime.bundle.manifest import Description, Size
from tests.refusals import refuses
from tests.tiny_pipelines import autoencoder, randomize

MEAN, DEVIATION = [0.1, -0.2, 0.3, 0.4], [1.5, 2.0, 0.5, 1.0]
TINY = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}

DOWN, UP = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
SIZES = (Size("height", 1, 4, 16, 2), Size("width", 2, 4, 16, 2))
FREE = Description("latents", (4, 8, 8), (), "v", ScheduleSpec("cosine"), sizes=SIZES)


def folder(home: Path, vae: Any) -> Folder:
    vae.save_pretrained(home / "vae")
    (home / "model_index.json").write_text(json.dumps({"vae": ["diffusers", type(vae).__name__]}))
    return Folder(home)


def quantizing(vae: Any) -> int:
    """Return the bytes of the convolution after the encoder, which few autoencoders have."""
    layer = getattr(vae, "quant_conv", None)
    return 0 if layer is None else 4 * sum(each.numel() for each in layer.parameters())


def run(source: AutoencoderSource, way: str, given: torch.Tensor) -> np.ndarray:
    companion = getattr(source, way)
    made = run_way(companion, given)
    assert made.shape[1:] == companion.outputs[0].shape[1:]
    return made


def run_way(companion: Companion, given: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        (made,) = companion.load().eval()(given)
    result: np.ndarray = made.numpy()
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "scale"),
    [
        (lambda: autoencoder(scaling_factor=0.2), lambda z: z * 0.2),
        (lambda: autoencoder(scaling_factor=1.5, shift_factor=0.06), lambda z: (z - 0.06) * 1.5),
        (
            lambda: autoencoder(scaling_factor=0.5, latents_mean=MEAN, latents_std=DEVIATION),
            lambda z: (z - torch.tensor(MEAN)[:, None, None]) * 0.5 / torch.tensor(DEVIATION)[:, None, None],
        ),
        (lambda: randomize(diffusers.AutoencoderTiny(**TINY)), lambda z: z),
    ],
    ids=["scale", "scale-and-shift", "by-channel", "tiny"],
)
def test_latents_are_those_of_the_sampler(made: Any, scale: Any, tmp_path: Path) -> None:
    """x = scale(z) of the autoencoder's own latents z, and the image of x is that of z."""
    vae = made()
    source = read_autoencoder(folder(tmp_path, vae), (4, 8, 8))
    assert source is not None
    assert source.encoder.weights == 4 * sum(each.numel() for each in vae.encoder.parameters()) + quantizing(vae)
    assert source.encoder.weights + source.decoder.weights == 4 * sum(each.numel() for each in vae.parameters())
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        (encoded,) = vae.encode(image, return_dict=False)
        z = encoded if isinstance(encoded, torch.Tensor) else encoded.mode()
        decoded = vae.decode(z, return_dict=False)[0].numpy()
    np.testing.assert_allclose(run(source, "encoder", image), scale(z).numpy(), atol=1e-5)
    np.testing.assert_allclose(run(source, "decoder", scale(z)), decoded, atol=1e-4 * np.abs(decoded).max())


@pytest.mark.slow
def test_the_graphs_of_free_sizes_compute_as_torch_and_in_bands(tmp_path: Path) -> None:
    """At three sizes, of which one is the largest."""
    vae = autoencoder(block_out_channels=(8, 8, 8), down_block_types=DOWN, up_block_types=UP, scaling_factor=0.2)
    source = read_autoencoder(folder(tmp_path, vae), (4, 8, 8))
    assert source is not None and source.encoder is not None
    with open_for_update(tmp_path / "bundle", must_exist=False) as writer:
        described = add_autoencoder(source, partial(add_with_sizes, partial(add_companion, writer), FREE))
        assert described is not None and described.encoder is not None
        assert described.decoder.outputs[0].shape == ("batch", 3, "height*4", "width*4")
        paths = [tmp_path / "bundle" / graph.file for graph in (described.decoder, described.encoder)]
        decode, encode = (OnnxRuntime(1).open(path) for path in paths)
        file = read_onnx(paths[0])
        parts = cut(file, "latent", 4)
        assert parts is not None and len(parts.segments) == 16
        banded = BandedDecoder(file, parts, OnnxRuntime(1), "latent", False, lambda: decode)
        for height, width in ((4, 6), (10, 4), (16, 12)):
            x = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(height))
            image = run_way(source.decoder, x)
            for network in (decode, banded):
                found = network({"latent": x.numpy()})["image"]
                np.testing.assert_allclose(found, image, rtol=0, atol=1e-5 * np.abs(image).max())
            latent = run_way(source.encoder, torch.from_numpy(image))
            found = encode({"image": image})["latent"]
            np.testing.assert_allclose(found, latent, rtol=0, atol=1e-5 * np.abs(latent).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "denoiser", "shift"),
    [
        ("StableDiffusionPipeline", "UNet2DConditionModel", 0.0),
        ("StableDiffusionXLPipeline", "UNet2DConditionModel", MEAN[0]),
        ("FluxPipeline", "FluxTransformer2DModel", 0.06),
    ],
)
def test_a_field_that_the_pipeline_does_not_read_is_ignored(
    pipeline: str, denoiser: str, shift: float, tmp_path: Path
) -> None:
    """Only pipelines of XL read latents_mean, and only those of FLUX shift_factor."""
    home = folder(tmp_path, autoencoder(shift_factor=0.06, latents_mean=MEAN, latents_std=DEVIATION))
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
    source = read_autoencoder(home, (4, 8, 8), denoiser)
    assert source is not None
    assert float(source.decoder.load().scale.shift.flatten()[0]) == pytest.approx(shift)  # type: ignore[arg-type,union-attr]


def test_the_upscaler_has_the_scale_that_its_pipeline_sets(tmp_path: Path) -> None:
    folder(tmp_path, autoencoder())
    index = json.loads((tmp_path / "model_index.json").read_text())
    upscaler = {**index, "_class_name": "StableDiffusionUpscalePipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(upscaler))
    source = read_autoencoder(Folder(tmp_path), (4, 8, 8))
    assert source is not None
    assert float(source.decoder.load().scale.factor) == pytest.approx(0.08333)  # type: ignore[arg-type,union-attr]


def test_a_scale_that_the_file_leaves_out_is_that_of_the_class(tmp_path: Path) -> None:
    """Configs of early versions of diffusers, such as Stable Diffusion 1.5's, have no scaling_factor."""
    home, config = folder(tmp_path, autoencoder()), tmp_path / "vae" / "config.json"
    content = json.loads(config.read_text())
    del content["scaling_factor"]
    config.write_text(json.dumps(content))
    source = read_autoencoder(home, (4, 8, 8))
    assert source is not None
    assert float(source.decoder.load().scale.factor) == pytest.approx(0.18215)  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize(
    ("changes", "x_shape"), [({"_class_name": "VQModel"}, (4, 8, 8)), ({}, (16, 8, 8)), ({}, (4, 8))]
)
def test_what_does_not_fit_is_left_out(
    changes: dict[str, Any], x_shape: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = folder(tmp_path, autoencoder())
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    assert read_autoencoder(home, x_shape) is None
    assert "is left out: decode x" in caplog.text


@pytest.mark.parametrize("changes", [{"block_out_channels": 4}, {"block_out_channels": None}, {"out_channels": "x"}])
def test_a_damaged_config_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    home = folder(tmp_path, autoencoder())
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with refuses(("config.json", "not the config of an AutoencoderKL")):
        read_autoencoder(home, (4, 8, 8))
