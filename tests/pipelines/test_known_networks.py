"""Pipelines whose networks fewstep reads from their configs, compared with recordings of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fewstep.export.sources.torch_module import TorchSource
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.folder import load_diffusers_folder, read_recorded_scheduler
from fewstep.pipelines.source import load_recorded_folder
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import PIPELINE
from fewstep.plans.plan import Plan
from tests.tiny_pipelines import (
    SCHEDULER,
    UNCONDITIONAL_UNET,
    WITHOUT_CHECKER,
    attention_unet,
    clip_components,
    randomize,
    stable_diffusion,
    write_clip_tokenizer,
)

diffusers = pytest.importorskip("diffusers")


def write_unconditional(folder: Path, pipeline: str, scheduler: Any) -> None:
    torch.manual_seed(0)
    network = randomize(diffusers.UNet2DModel(**UNCONDITIONAL_UNET))
    getattr(diffusers, pipeline)(unet=network, scheduler=scheduler).save_pretrained(folder)


def ddpm(folder: Path) -> None:
    write_unconditional(folder, "DDPMPipeline", diffusers.DDPMScheduler())


def ddim(folder: Path) -> None:
    write_unconditional(folder, "DDIMPipeline", diffusers.DDIMScheduler(**SCHEDULER))


def latent_consistency(folder: Path) -> None:
    files = write_clip_tokenizer(folder.with_name("vocabulary"))
    components = clip_components(files, attention_unet(mid_block_type=None, time_cond_proj_dim=8))
    components["scheduler"] = diffusers.LCMScheduler()
    diffusers.LatentConsistencyModelPipeline(**components, **WITHOUT_CHECKER).save_pretrained(folder)


def load_both(folder: Path) -> tuple[TorchSource, TorchSource]:
    """The source that is read from configs, and the recorded one."""
    read = Folder(folder)
    known = load_diffusers_folder(folder)
    assert isinstance(known, TorchSource)
    return known, load_recorded_folder(read, read_recorded_scheduler(read), {})


def plan_of(source: TorchSource, steps: int) -> Plan:
    assert source.scheduler is not None
    pipeline = source.scheduler[PIPELINE]
    return plan_from_scheduler_config(source.scheduler, steps=steps, pipeline=pipeline, x_shape=source.spec.x_shape)


def assert_same_graph(graph: Graph, other: Graph) -> None:
    assert graph.nodes == other.nodes and graph.inputs == other.inputs and graph.outputs == other.outputs
    assert graph.constants.keys() == other.constants.keys()
    for name, array in graph.constants.items():
        assert array.dtype == other.constants[name].dtype and np.array_equal(array, other.constants[name])


@pytest.mark.slow
@pytest.mark.parametrize("write", [ddpm, ddim])
def test_an_unconditional_network_is_recorded_to_the_same_bits(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "model")
    known, recorded = load_both(tmp_path / "model")
    assert recorded.spec == known.spec and recorded.batch_limit == known.batch_limit
    assert_same_graph(recorded.trace().graph, known.trace().graph)
    for steps in (3, 8, 20):
        assert plan_of(recorded, steps) == plan_of(known, steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "write, names",
    [
        (stable_diffusion, {"encoder_hidden_states": "text"}),
        (latent_consistency, {"encoder_hidden_states": "text", "timestep_cond": "guidance"}),
    ],
)
def test_a_network_with_texts_is_recorded_under_other_names(
    write: Callable[[Path], Any], names: dict[str, str], tmp_path: Path
) -> None:
    """The values are the same. The config is read because texts then have names of their own."""
    write(tmp_path / "model")
    known, recorded = load_both(tmp_path / "model")
    own = {each.name: each for each in known.spec.conditions}
    assert {each.name: own[names[each.name]].shape for each in recorded.spec.conditions} == {
        each.name: each.shape for each in recorded.spec.conditions
    }
    assert known.companions is not None and known.companions.encoders == ("text_encoder",)
    assert recorded.companions is not None and recorded.companions.encoders == ("text_encoder",)
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((2, *known.spec.x_shape), np.float32),
        "time": np.array([999, 1], np.float32),
        **{each.input: rng.standard_normal((2, *each.shape), np.float32) for each in known.spec.conditions},
    }
    outputs = [open_session(source.trace().graph)(feeds)["output"] for source in (known, recorded)]
    np.testing.assert_array_equal(*outputs)
    for steps in (3, 8):
        plans = [msgspec.structs.replace(plan_of(source, steps), name="") for source in (known, recorded)]
        assert plans[0] == plans[1]
