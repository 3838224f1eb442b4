"""A folder of one diffusers network: its config describes it, and a scheduler or a spec describes its training."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "num_class_embeds": 6,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "attention_head_dim": 8,
}
SPEC = {"prediction": "flow", "schedule": {"kind": "flow", "timesteps": 1000}}


@pytest.fixture(scope="module")
def parent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parent with `denoiser` and `scheduler`. Tests must not change it."""
    home = tmp_path_factory.mktemp("component")
    torch.manual_seed(0)
    diffusers.UNet2DModel(**UNET).save_pretrained(home / "denoiser")
    diffusers.DDIMScheduler(prediction_type="v_prediction", beta_start=2e-4).save_pretrained(home / "scheduler")
    return home


@pytest.fixture
def alone(parent_folder: Path, tmp_path: Path) -> Path:
    """The network's folder, with nothing around it."""
    return Path(shutil.copytree(parent_folder / "denoiser", tmp_path / "alone" / "denoiser"))


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_scheduler_of_the_same_parent_says_what_it_was_trained_on(parent_folder: Path) -> None:
    source = load_source(str(parent_folder / "denoiser"))
    spec = source.spec
    assert (spec.name, spec.x_shape, spec.prediction) == ("denoiser", (3, 8, 8), "v")
    assert spec.schedule == ScheduleSpec("linear", 1000, 2e-4, 0.02)
    assert source.scheduler is not None and source.scheduler["_class_name"] == "DDIMScheduler"


@pytest.mark.slow
def test_a_spec_says_it_before_the_scheduler(parent_folder: Path, alone: Path, tmp_path: Path) -> None:
    """Without a spec, the folder alone gives it. The module is the same."""
    file = written(tmp_path / "spec.json", {**SPEC, "name": "mine"})
    sources = [load_source(str(folder), file) for folder in (parent_folder / "denoiser", alone)]
    for source in sources:
        assert (source.spec.name, source.spec.prediction) == ("mine", "flow") and source.scheduler is None
    assert sources[0].sha256 == sources[1].sha256
    modules = [source.module for source in sources if isinstance(source, TorchSource)]
    x, time, label = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 900.0]), torch.tensor([1, 5])
    torch.testing.assert_close(modules[0](x, time, label), modules[1](x, time, label))
    assert modules[0](x, time, label).shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_its_guided_samples_need_a_null_value(parent_folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(ExportOptions(str(parent_folder / "denoiser"), bundle, null=("class=5",)))
    manifest = open_bundle(bundle).manifest
    (label,) = manifest.conditions
    assert (label.null, label.low, label.high) == (5, 0, 4)
    assert manifest.provenance.commands == ("fewstep export denoiser -o BUNDLE --null class=5",)
    sampler = load(bundle)
    guided, none = (sampler.sample("ddim:2", [1], {"class": [2]}, guidance=weight) for weight in (3.0, 0.0))
    unconditional = sampler.sample("ddim:2", [1], {"class": [5]})
    assert abs(none - unconditional).max() < 1e-5 < abs(guided - unconditional).max()


def test_without_either_it_says_what_to_give(alone: Path) -> None:
    with pytest.raises(UserError, match=r"denoiser is only a UNet2DModel, and .* has no scheduler/") as failure:
        load_source(str(alone))
    assert "--spec SPEC.json" in failure.value.fix


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_shape": [3, 8, 8]}, "unknown field 'x_shape'; use only name, prediction, schedule"),
        ({"schedule": {"kind": "flows"}}, "field 'schedule' of spec 'denoiser' is wrong"),
        ({"schedule": None}, "has no field 'schedule'"),
    ],
)
def test_a_wrong_spec_is_named(change: dict[str, Any], says: str, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        spec = {field: value for field, value in {**SPEC, **change}.items() if value is not None}
        load_source(str(alone), written(tmp_path / "spec.json", spec))


def test_another_network_is_named(alone: Path) -> None:
    written(alone / "config.json", {"_class_name": "AutoencoderKL"})
    with refuses(("AutoencoderKL", "UNet2DModel")):
        load_source(str(alone))


def test_weights_in_a_component_name_its_folder(alone: Path) -> None:
    with pytest.raises(UserError) as failure:
        load_source(str(alone / "diffusion_pytorch_model.safetensors"))
    assert failure.value.fix == f"give its folder, {alone}"


def test_a_component_of_a_pipeline_is_taken_without_it(parent_folder: Path, tmp_path: Path) -> None:
    """Its pipeline's class still decides how the scheduler is used."""
    home = tmp_path / "pipeline"
    shutil.copytree(parent_folder, home)
    written(home / "model_index.json", {"_class_name": "DDIMPipeline", "denoiser": ["diffusers", "UNet2DModel"]})
    made: Source = load_source(str(home / "denoiser"))
    assert made.companions is None and made.scheduler is not None and "DDIMPipeline" in made.scheduler.values()


def test_a_component_of_a_recorded_pipeline_is_refused_without_a_spec(parent_folder: Path, tmp_path: Path) -> None:
    """The latent upscaler scales its network's input, time and output by itself."""
    home = tmp_path / "pipeline"
    shutil.copytree(parent_folder, home)
    name = "StableDiffusionLatentUpscalePipeline"
    written(home / "model_index.json", {"_class_name": name, "denoiser": ["diffusers", "UNet2DModel"]})
    with refuses((name, "only a recording"), (str(home), "--spec SPEC.json")):
        load_source(str(home / "denoiser"))
    assert load_source(str(home / "denoiser"), written(tmp_path / "spec.json", SPEC)).spec.prediction == "flow"


def test_a_learned_variance_that_the_scheduler_reads_is_a_second_output(tmp_path: Path) -> None:
    diffusers.UNet2DModel(**{**UNET, "out_channels": 6}).save_pretrained(tmp_path / "denoiser")
    diffusers.DDPMScheduler(variance_type="learned_range").save_pretrained(tmp_path / "scheduler")
    assert load_source(str(tmp_path / "denoiser")).spec.heads == 2
