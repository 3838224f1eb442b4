"""Folders of unconditional pipelines with random weights: exported, verified, and sampled like the pipeline's loop."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.scheduler import read_scheduler
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.families import tiny
from tests.graph.bake.run_baked import run_file
from tests.refusals import refuses
from tests.tiny_pipelines import autoencoder

diffusers = pytest.importorskip("diffusers")

ONE_BLOCK: dict[str, Any] = {**tiny.UNET, "block_out_channels": (8,), "mid_block_type": None}
UNET = {**ONE_BLOCK, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
TRAILING = {"timestep_spacing": "trailing", "clip_sample": False}


def folder(path: Path, network: Any, scheduler: Any = None, pipeline: str = "DDIMPipeline") -> Path:
    scheduler = scheduler or diffusers.DDIMScheduler(**TRAILING)
    return Path(tiny.unconditional_folder(path, network, scheduler, pipeline))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a UNet2DModel. Tests must not change it."""
    made = diffusers.UNet2DModel(in_channels=3, out_channels=3, **UNET)
    return folder(tmp_path_factory.mktemp("diffusers"), made)


@pytest.fixture(scope="module")
def folder_bundle(unet: Path) -> Path:
    """The bundle of the folder, made without network access."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refuse_socket)
        export(ExportOptions(str(unet), unet.parent / "bundle"))
    return unet.parent / "bundle"


@pytest.mark.slow
def test_a_bundle_says_what_the_folder_does(unet: Path, folder_bundle: Path) -> None:
    manifest = open_bundle(folder_bundle).manifest
    assert (manifest.name, manifest.x_shape, manifest.prediction) == ("model", (3, 8, 8), "epsilon")
    assert manifest.schedule == ScheduleSpec("linear") and manifest.provenance.source == "model"
    assert str(unet.parent) not in (folder_bundle / "manifest.json").read_text()


def test_the_scheduler_goes_along_to_a_device(folder_bundle: Path, tmp_path: Path) -> None:
    pack(PackOptions(folder_bundle, tmp_path / "device", body=("float32",)))
    assert len(load(tmp_path / "device").compile("scheduler:7").steps) == 7


@pytest.mark.parametrize("plan", ["scheduler:", "scheduler:x", "scheduler:9999999"])
def test_a_scheduler_without_steps_is_one_line(plan: str, folder_bundle: Path) -> None:
    with refuses("number of steps", "scheduler:20"):
        load(folder_bundle).compile(plan)


def test_text_after_the_steps_of_a_scheduler_is_named(folder_bundle: Path) -> None:
    with refuses(("'scheduler:1e3'", "'e3'")):
        load(folder_bundle).compile("scheduler:1e3")


def test_a_bundle_without_a_scheduler_says_so(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="has no scheduler"):
        load(tiny_bundle).compile("scheduler:8")


def refuse_socket(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("export opened a socket")


@pytest.mark.slow
def test_ddpm_scales_its_noise_by_the_variance_that_the_network_predicts(tmp_path: Path) -> None:
    theirs = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    network = diffusers.UNet2DModel(in_channels=3, out_channels=6, **UNET)
    pipeline = diffusers.DDPMPipeline(network.eval(), theirs)
    export(ExportOptions(str(folder(tmp_path / "f", network, theirs, "DDPMPipeline")), tmp_path / "bundle"))
    draws = [normal(7, number, (3, 8, 8))[None] for number in range(4)]
    taken = iter(map(torch.from_numpy, draws))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("pipelines.ddpm.pipeline_ddpm", "schedulers.scheduling_ddpm"):
            patch.setattr(f"diffusers.{module}.randn_tensor", lambda *_, **__: next(taken))
        expected = pipeline(num_inference_steps=4, output_type="np").images.transpose(0, 3, 1, 2)
    sampler = load(tmp_path / "bundle")
    x = sampler.sample("scheduler:4", seeds=[7])
    np.testing.assert_allclose((x / 2 + 0.5).clip(0, 1), expected, atol=1e-5)
    for unroll in (False, True):
        bake(BakeOptions(tmp_path / "bundle", "scheduler:4", tmp_path / "s.onnx", unroll=unroll))
        np.testing.assert_allclose(run_file(tmp_path / "s.onnx", [7]), x, atol=1e-5)


def edit_folder(folder: Path, to: Path, file: str, changes: dict[str, Any]) -> Path:
    """A copy of the folder with fields of one JSON file changed."""
    shutil.copytree(folder, to)
    content = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps({**content, **changes}))
    return to


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("unet/config.json", {"_class_name": "StableCascadeUNet"}, "that it is a StableCascadeUNet"),
        ("unet/config.json", {"block_out_channels": [16]}, "cannot load .*unet: .*size mismatch"),
        ("model_index.json", {"unet": ["diffusers", "OwnModel"]}, "its unet is a OwnModel of diffusers"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "of-my-own"}, "of-my-own"),
        ("scheduler/scheduler_config.json", {"prediction_type": "of-my-own"}, "of-my-own"),
    ],
)
def test_what_fewstep_does_not_know_is_one_line(
    unet: Path, tmp_path: Path, file: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        load_source(str(edit_folder(unet, tmp_path / "f", file, changes)))


def test_two_classes_of_a_network_are_refused(unet: Path, tmp_path: Path) -> None:
    """diffusers loads the class of model_index.json."""
    edited = edit_folder(unet, tmp_path / "f", "model_index.json", {"unet": ["diffusers", "UNet1DModel"]})
    with refuses(("model_index.json", "UNet1DModel", "UNet2DModel"), "same class"):
        load_source(str(edited))


@pytest.mark.parametrize("file", ["model_index.json", "transformer/config.json", "both"])
def test_a_network_by_its_former_name_is_read(file: str, tmp_path: Path) -> None:
    """Folders published for DiT call its network Transformer2DModel."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "norm_num_groups": 4}
    network = diffusers.DiTTransformer2DModel(sample_size=8, in_channels=4, out_channels=8, **sizes)
    home = tmp_path / "dit"
    diffusers.DiTPipeline(network, autoencoder(), diffusers.DDIMScheduler()).save_pretrained(home)
    former = {
        "model_index.json": {"transformer": ["diffusers", "Transformer2DModel"]},
        "transformer/config.json": {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"},
    }
    for each, changes in former.items():
        if file in (each, "both"):
            (home / each).write_text(json.dumps({**json.loads((home / each).read_text()), **changes}))
    source = load_source(str(home))
    assert isinstance(source, TorchSource)
    assert type(source.module.network).__name__ == "DiTTransformer2DModel"  # type: ignore[union-attr]
    assert source.spec.conditions[0].name == "class_labels"


def test_the_scheduler_is_that_of_the_index(unet: Path, tmp_path: Path) -> None:
    changes = {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    scheduler = read_scheduler(Folder(edit_folder(unet, tmp_path / "f", "model_index.json", changes)))
    assert scheduler["_class_name"] == "EulerDiscreteScheduler"


def test_the_files_of_components_may_be_in_the_folder_itself(unet: Path, tmp_path: Path) -> None:
    for file in (unet / "model_index.json", *(unet / "unet").iterdir(), *(unet / "scheduler").iterdir()):
        shutil.copy(file, tmp_path)
    inner, outer = load_source(str(unet)), load_source(str(tmp_path))
    assert isinstance(inner, TorchSource) and isinstance(outer, TorchSource)
    assert (outer.spec.x_shape, outer.sha256) == (inner.spec.x_shape, inner.sha256)


def test_a_pickle_is_refused(unet: Path, tmp_path: Path) -> None:
    shutil.copytree(unet, tmp_path / "f")
    weights = tmp_path / "f" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with refuses("diffusion_pytorch_model.bin", "save_pretrained"):
        load_source(str(tmp_path / "f"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{"variant": "fp16"}, {"max_shard_size": "20KB"}, {"max_shard_size": "20KB", "variant": "fp16"}]
)
def test_weights_in_float16_or_in_shards_are_read(unet: Path, how: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(unet, tmp_path / "f", ignore=shutil.ignore_patterns("*.safetensors"))
    network = diffusers.UNet2DModel.from_pretrained(unet / "unet").requires_grad_(False)
    expected = network.conv_out.weight
    if "variant" in how:
        network, expected = network.half(), expected.half().float()
    network.save_pretrained(tmp_path / "f" / "unet", **how)
    source = load_source(str(tmp_path / "f"))
    whole = load_source(str(unet))
    assert isinstance(source, TorchSource) and source.sha256 != whole.sha256
    found: Any = source.module.network
    np.testing.assert_array_equal(found.conv_out.weight.float().numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"a": "../x.safetensors"}}, "names '../x.safetensors', in another folder; move the file"),
        ({"weight_map": {"a": "shards/x.safetensors"}}, "names 'shards/x.safetensors', in another folder; move"),
        ({"weight_map": {"a": "missing.safetensors"}}, "has no missing.safetensors, which"),
        ({"weight_map": {"a": "config.json"}}, "has no config.json, which"),
        ({"weight_map": []}, "names no files"),
    ],
)
def test_an_index_of_shards_that_are_not_there_is_one_line(unet: Path, index: Any, says: str, tmp_path: Path) -> None:
    shutil.copytree(unet, tmp_path / "f", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(unet / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "f" / "x.safetensors")
    (tmp_path / "f" / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=says):
        load_source(str(tmp_path / "f"))


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_a_file_that_is_missing_or_damaged_is_named(unet: Path, tmp_path: Path, file: str, content: Any) -> None:
    shutil.copytree(unet, tmp_path / "f")
    (tmp_path / "f" / file).unlink()
    if content is not None:
        (tmp_path / "f" / file).write_bytes(content)
    with pytest.raises(UserError, match=os.path.basename(file)):
        load_source(str(tmp_path / "f"))
