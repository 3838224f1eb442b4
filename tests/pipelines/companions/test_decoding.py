"""The part of a pipeline's call after its last step: from the final x to pictures, a video or sound."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.export.companions.companion import add_companion
from fewstep.export.companions.networks import add_with_sizes
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.files.commit import open_for_update
from fewstep.pipelines.companions import decoding
from fewstep.pipelines.companions.decoding import (
    NONE,
    OUT_OF_RANGE,
    RecordedDecoder,
    RecordedDecoding,
    find_decoding,
    read_companions,
)
from fewstep.pipelines.companions.picture_encoder import find_latents
from fewstep.pipelines.companions.recorded_conditions import read_conditions
from fewstep.pipelines.companions.stored_network import ReadNetwork, read_from_memory, read_stored
from fewstep.pipelines.encode import EncodeOptions, encode
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import load_network
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording import components
from fewstep.pipelines.recording.element_map import ElementMap
from fewstep.pipelines.recording.ending import Ending
from fewstep.pipelines.recording.record import place
from fewstep.pipelines.recording.record import record as record_call
from fewstep.pipelines.recording.settings import PICTURE, CallSettings
from fewstep.pipelines.source import load_pipeline, record_folder
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.manifest import Description, Size
from fewstep.runtime.sampling.loading import load
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS

diffusers = pytest.importorskip("diffusers")


def record(folder: Path, name: str) -> RecordedPipeline:
    read = Folder(getattr(recorded_pipelines, name)(folder / name))
    return record_folder(read, CALLS[name])


def find(recorded: RecordedPipeline, read: ReadNetwork | None = None) -> RecordedDecoding | str:
    return find_decoding(recorded, read or partial(read_from_memory, recorded.built.pipeline))


def map_of(recorded_decoding: RecordedDecoding, autoencoder: Any) -> ElementMap:
    with place(recorded_decoding.built.pipeline, {"vae": autoencoder}):
        latents = find_latents(autoencoder, recorded_decoding.finish, recorded_decoding.x_shape)
    assert latents is not None
    return latents


def latent_map(seed: int = 0) -> ElementMap:
    """Map x [6, 4] to z [2, 3, 4], with a scale for each channel."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    scale = torch.tensor([2.0, 4.0]).reshape(2, 1, 1).expand(2, 3, 4)
    return ElementMap(order, (6, 4), (2, 3, 4), scale, torch.full((2, 3, 4), 0.5))


def test_elements_are_rearranged_then_scaled_and_shifted() -> None:
    latents, x = latent_map(), torch.arange(24.0).reshape(1, 6, 4)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).float().reshape(2, 3, 4)
    expected = torch.stack([2 * order[0], 4 * order[1]]) + 0.5
    assert torch.equal(latents(x)[0], expected)


def test_the_way_back_is_the_inverse() -> None:
    x = torch.arange(48.0).reshape(2, 6, 4)
    assert torch.equal(latent_map().undo(latent_map()(x)), x)


def test_constant_axes_of_a_scale_are_not_stored() -> None:
    latents = latent_map()
    assert (latents.scale.shape, latents.shift.shape) == ((1, 2, 1, 1), (1, 1, 1, 1))


def test_latents_that_a_pipeline_packs_are_scaled_and_shifted(tmp_path: Path) -> None:
    recorded = record(tmp_path, "bria")
    recorded_decoding, pipeline = find(recorded), recorded.built.pipeline
    assert isinstance(recorded_decoding, RecordedDecoding)
    x = torch.randn(1, *recorded.x_shape, generator=torch.Generator().manual_seed(1))
    latents = map_of(recorded_decoding, pipeline.vae)
    torch.testing.assert_close(latents(x), x / 0.18215 + 0.1)
    assert latents.is_of_any_size


def test_a_decoder_does_what_the_call_does_with_a_decoded_picture(tmp_path: Path) -> None:
    recorded = record(tmp_path, "cogview3")
    processor, vae = recorded.built.pipeline.image_processor, load_network(tmp_path / "cogview3" / "vae")[0]
    plain = processor.postprocess
    processor.postprocess = lambda image, output_type: plain(-image, output_type=output_type)
    recorded_decoding = find(recorded)
    assert isinstance(recorded_decoding, RecordedDecoding)
    assert (recorded_decoding.components, recorded_decoding.outputs[0].role, recorded_decoding.outputs[0].shape) == (
        ("vae",),
        "image",
        (1, 3, 16, 16),
    )
    x = torch.randn(1, *recorded.x_shape, generator=torch.Generator().manual_seed(1))
    (picture,) = RecordedDecoder(recorded_decoding, {"vae": vae})(x)
    expected = -vae.decode(x / vae.config.scaling_factor).sample
    torch.testing.assert_close(picture, expected.clamp(-1, 1))


def test_a_decoder_takes_x_of_other_sizes(tmp_path: Path) -> None:
    recorded, vae = record(tmp_path, "latte"), load_network(tmp_path / "latte" / "vae")[0]
    recorded_decoding = find(recorded)
    assert isinstance(recorded_decoding, RecordedDecoding) and recorded.x_shape == (4, 1, 4, 4)
    wide = recorded_decoding.at((4, 1, 8, 16))
    assert (wide.settings["height"], wide.settings["width"], wide.outputs[0].shape) == (16, 32, (1, 1, 3, 16, 32))
    x = torch.randn(1, 4, 1, 8, 16, generator=torch.Generator().manual_seed(1))
    (video,) = RecordedDecoder(recorded_decoding, {"vae": vae})(x)
    torch.testing.assert_close(video[0], vae.decode(x[:, :, 0] / vae.config.scaling_factor).sample.clamp(-1, 1))


@pytest.mark.slow
def test_the_graph_of_a_decoder_has_free_sizes(tmp_path: Path) -> None:
    recorded = record(tmp_path, "latte")
    companions = read_companions("mine", recorded, partial(read_stored, Folder(tmp_path / "latte")))
    assert companions is not None and companions.autoencoder is not None
    sizes = Size("height", 2, 4, 16, 4), Size("width", 3, 4, 16, 4)
    takes = Description("mine", (4, 1, 4, 4), (), "v", ScheduleSpec("flow"), sizes=sizes)
    with open_for_update(tmp_path / "bundle", must_exist=False) as writer:
        graph = add_with_sizes(partial(add_companion, writer), takes, companions.autoencoder.decoder).graph
    assert [port.shape for port in (*graph.inputs, *graph.outputs)] == [
        (1, 4, 1, "height", "width"),
        (1, 1, 3, "height*2", "width*2"),
    ]


def test_tensors_in_model_range_are_cut_off_as_the_arrays_of_the_call(tmp_path: Path) -> None:
    """As in Kandinsky, whose tensors are neither converted to [0, 1] nor cut off."""
    recorded = record(tmp_path, "cogview3")
    processor, vae = recorded.built.pipeline.image_processor, load_network(tmp_path / "cogview3" / "vae")[0]
    plain = processor.postprocess
    processor.postprocess = lambda image, output_type: image if output_type == "pt" else plain(image, output_type)
    recorded_decoding = find(recorded)
    assert isinstance(recorded_decoding, RecordedDecoding) and recorded_decoding.is_raw
    x = torch.randn(1, *recorded.x_shape, generator=torch.Generator().manual_seed(1))
    (picture,) = RecordedDecoder(recorded_decoding, {"vae": vae})(x)
    torch.testing.assert_close(picture, vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1))


@pytest.mark.parametrize("is_small", [True, False])
def test_a_value_that_is_read_before_the_loop_is_the_stored_one(
    is_small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_small:  # a stand-in without weights
        monkeypatch.setattr(components, "is_small", lambda network: type(network).__name__ != "AutoencoderKL")
    recorded = record(tmp_path, "cogview3")
    pipeline, vae = recorded.built.pipeline, load_network(tmp_path / "cogview3" / "vae")[0]
    processor, prepare, scales = pipeline.image_processor, pipeline.prepare_latents, list[torch.Tensor]()
    plain = processor.postprocess

    def prepare_latents(*args: Any) -> Any:
        scales[:] = [pipeline.vae.decoder.conv_in.bias[0].clone()]
        return prepare(*args)

    pipeline.prepare_latents = prepare_latents
    processor.postprocess = lambda image, output_type: plain(image * scales[0], output_type=output_type)
    recorded_decoding = find(recorded, partial(read_stored, Folder(tmp_path / "cogview3")))
    assert isinstance(recorded_decoding, RecordedDecoding)
    x = torch.randn(1, *recorded.x_shape, generator=torch.Generator().manual_seed(1))
    expected = (vae.decode(x / vae.config.scaling_factor).sample * vae.decoder.conv_in.bias[0]).clamp(-1, 1)
    decoder = RecordedDecoder(recorded_decoding, {"vae": vae}).eval()
    (picture,) = torch.export.export(decoder, (x,), strict=False).module()(x)
    torch.testing.assert_close(picture, expected)


def test_pictures_outside_their_range_are_refused_without_arrays_to_compare(tmp_path: Path) -> None:
    recorded = record(tmp_path, "cogview3")
    processor = recorded.built.pipeline.image_processor
    processor.postprocess = lambda image, output_type: {"pt": 3 * image}[output_type]
    assert find(recorded) == OUT_OF_RANGE


def test_a_pipeline_without_an_autoencoder_returns_x(tmp_path: Path) -> None:
    assert find(record(tmp_path, "wan")) == NONE


def test_an_output_that_is_not_a_function_of_x_is_refused(tmp_path: Path) -> None:
    recorded = record(tmp_path, "cogview3")
    processor = recorded.built.pipeline.image_processor
    plain = processor.postprocess
    processor.postprocess = lambda image, output_type: plain(image + torch.rand(()), output_type=output_type)
    assert find(recorded) == "its output depends on the seed besides x"


def test_an_output_that_x_does_not_change_is_refused(tmp_path: Path) -> None:
    recorded = record(tmp_path, "cogview3")
    processor = recorded.built.pipeline.image_processor
    processor.postprocess = lambda image, output_type: torch.full_like(image, 0.5)
    assert find(recorded) == "its output does not depend on x"


@pytest.mark.slow
def test_a_first_frame_is_an_input_of_the_decoder(tmp_path: Path) -> None:
    """The pipeline puts its encoded picture before x after the last step."""
    recorded = record(tmp_path, "ltx_image_to_video")
    recorded_decoding = find(recorded)
    assert isinstance(recorded_decoding, RecordedDecoding)
    assert list(recorded_decoding.conditions) == ["image"]
    changed = recorded.settings.variants[PICTURE]
    run = record_call(recorded.built, {**recorded_decoding.settings, **changed}, 0)
    x = torch.randn(1, *recorded.x_shape)
    frame = {"image": read_conditions(recorded, run)["cond"]["image"]}
    (expected,), ((own,), _) = recorded_decoding.finish(x, **changed), recorded_decoding.finish_with(x, frame)
    torch.testing.assert_close(own, expected)
    assert not torch.allclose(recorded_decoding.finish(x)[0], expected)


DEPENDS = "its output depends on its texts and pictures besides x"


def find_with_mask(mask: Any, monkeypatch: pytest.MonkeyPatch, holds: bool = True) -> RecordedDecoding | str:
    """Return the decoding of a call whose output depends on all of its masks but those that keep nothing."""
    settings = CallSettings({"mask_image": mask}, {PICTURE: {"mask_image": mask}})

    def finish(_: Any, changed: CallSettings, usual: Mapping[str, Any], *__: Any) -> RecordedDecoding | str:
        for each in (usual["mask_image"], changed.variants[PICTURE]["mask_image"]):
            if each is None or np.min([np.asarray(one) for one in (each if isinstance(each, list) else [each])]) == 0:
                return DEPENDS
        return RecordedDecoding(Mock(), usual, (4,), Ending(torch.zeros(1, 4), 1, True), ("vae",), (), None, None)

    monkeypatch.setattr(decoding, "_find_decoding", finish)
    return find_decoding(Mock(settings=settings, holds=holds), Mock())


MASK = Image.fromarray(np.eye(4, dtype=np.uint8) * 255)


def test_a_pipeline_that_keeps_a_part_of_x_is_traced_with_a_mask_that_keeps_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The final x has the kept part, which would otherwise be that of the recorded picture."""
    recorded_decoding = find_with_mask(MASK, monkeypatch)
    assert isinstance(recorded_decoding, RecordedDecoding) and recorded_decoding.settings["mask_image"].size == (4, 4)


def test_a_list_of_masks_becomes_a_list_of_masks_that_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded_decoding = find_with_mask([MASK, MASK], monkeypatch)
    assert isinstance(recorded_decoding, RecordedDecoding) and len(recorded_decoding.settings["mask_image"]) == 2


def test_the_mask_of_a_pipeline_that_keeps_no_part_of_x_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_with_mask(MASK, monkeypatch, holds=False) == DEPENDS


def test_no_mask_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_with_mask(None, monkeypatch) == DEPENDS


def test_a_mask_of_another_type_is_refused_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_with_mask(0, monkeypatch) == "its mask is of type int, not a picture or a tensor"


@pytest.mark.slow
@pytest.mark.parametrize("is_small", [True, False])
def test_the_scale_and_the_shift_that_an_autoencoder_stores_are_found(
    is_small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_small:  # a stand-in without weights
        monkeypatch.setattr(components, "is_small", lambda network: type(network).__name__ != "AutoencoderKLFlux2")
    recorded = record(tmp_path, "flux2_klein")
    recorded_decoding = find(recorded, partial(read_stored, Folder(tmp_path / "flux2_klein")))
    assert isinstance(recorded_decoding, RecordedDecoding)
    latents = map_of(recorded_decoding, load_network(tmp_path / "flux2_klein" / "vae")[0])
    z = latents(torch.ones(1, *latents.source_shape))[0, 0]
    variances, means = torch.tensor([4.0, 9.0, 0.25, 1.0]), torch.tensor([0.5, -0.5, 1.0, 2.0])
    torch.testing.assert_close(z[:2, :2].flatten(), variances.add(1e-4).sqrt() + means)


def test_a_call_that_fails_after_its_last_step_has_that_reason(tmp_path: Path) -> None:
    recorded = record(tmp_path, "bria")
    recorded.built.pipeline._unpack_latents = lambda *given: 1 / 0
    failure = r"its call fails after the last step: ZeroDivisionError: division by zero \(pipeline_bria.py:\d+\)"
    assert re.fullmatch(failure, str(find(recorded)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "role", "rates"),
    [
        ("bria", "image", (None, None)),
        ("cogview3", "image", (None, None)),
        ("longcat_audio", "sound", (None, 8000)),
    ],
)
def test_the_output_of_a_bundle_is_that_of_the_pipeline(
    name: str, role: str, rates: tuple[float | None, int | None], tmp_path: Path
) -> None:
    folder, call = getattr(recorded_pipelines, name)(tmp_path / name), CALLS[name]
    options = tuple(f"{key}={value}" for key, value in call.items())
    bundle = tmp_path / "bundle"
    export(ExportOptions(str(folder), bundle, call=options, verify="quick"))
    encoded = encode(EncodeOptions(str(folder), ("a cat",), "a dog", call=options, output=tmp_path / "p.npz"))
    prefix = "uncond."
    conditions = {name: rows for name, rows in encoded.items() if not name.startswith(prefix)}
    branches = {
        "uncond": {name.removeprefix(prefix): rows for name, rows in encoded.items() if name.startswith(prefix)}
    }
    sampler = load(bundle)
    x = sampler.sample("scheduler:3", [0], conditions, guidance=4.0, branches=branches)
    noise = torch.from_numpy(sampler.draws([0])(0).copy())
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    settings = {"negative_prompt": "a dog", "guidance_scale": 4.0, "num_inference_steps": 3, "return_dict": False}
    packing = record(tmp_path / "recorded", name).built.packing
    latents = noise if packing is None else packing.pack(noise)
    expected = pipeline("a cat", latents=latents, output_type="pt", **settings, **call)[0].numpy()
    autoencoder = load_autoencoder(bundle)
    assert (autoencoder.described.decoder.outputs[0].role, len(autoencoder.described.decoder.outputs)) == (role, 1)
    assert (autoencoder.described.frame_rate, autoencoder.described.sample_rate) == rates
    decoded = autoencoder.decode(x)
    np.testing.assert_allclose(decoded if role == "sound" else decoded / 2 + 0.5, expected, atol=1e-3)
    assert expected.std() > 0.01


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
    np.testing.assert_allclose(autoencoder.decode(autoencoder.encode(image)), expected.clip(-1, 1), atol=1e-4)


@pytest.mark.slow
def test_the_encoder_of_a_bfloat16_pipeline_is_found(tmp_path: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        recorded_pipelines.bria(tmp_path / "bria"), torch_dtype=torch.bfloat16
    )
    companions = load_pipeline(pipeline, "mine", "0", CALLS["bria"]).companions
    assert companions is not None and companions.autoencoder is not None and companions.autoencoder.encoder is not None
    assert pipeline.vae.dtype == torch.bfloat16
