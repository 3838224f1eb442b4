"""Denoisers of other families: each is exported, prepared and verified, and its conditioning leaves the body."""

import pytest
import torch

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.graph.prepare import prepare
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.export.denoisers import Painter, Policy, Transformer, Upscaler
from tests.export.verifying import verify

LABEL = Condition("class", "class", null=10, low=0, high=9)
OBSERVATION = Condition("observation", "observation", shape=(2, 5), dtype="float32")
SMALL = Condition("small", "small", shape=(1, 4, 4), dtype="float32", low=-1, high=1)
IMAGE = Condition("image", "image", shape=(2, 4, 4), dtype="float32", low=-1, high=1)
MASK = Condition("mask", "mask", shape=(1, 4, 4), dtype="bool")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "spec", "rows", "linear"),
    [
        (Transformer(), Spec("dit", (3, 8, 8), (LABEL,), "v", ScheduleSpec("cosine")), 3, 5),
        (Policy(), Spec("policy", (16, 7), (OBSERVATION,), "epsilon", ScheduleSpec("cosine", timesteps=100)), 2, 2),
        (Upscaler(), Spec("upscaler", (1, 8, 8), (SMALL,), "flow", ScheduleSpec("flow")), 2, 1),
    ],
    ids=["transformer", "policy", "upscaler"],
)
def test_a_family(module: torch.nn.Module, spec: Spec, rows: int, linear: int) -> None:
    """`rows` made once a call, `linear` operations with weights or of attention left at each step."""
    source = TorchSource(module.requires_grad_(False), spec, spec.name, "0" * 64)
    traced = source.trace()
    prepared = prepare(traced.graph)
    assert verify(spec, traced, prepared).worst.relative < 1e-5
    assert len(prepared.body.inputs) == 1 + rows
    assert sum(op in ("Conv", "MatMul", "Gemm") for op in prepared.body.ops()) == linear
    assert not {"Shape", "Cast", "Unsqueeze", "Squeeze", "Expand", "Slice"} & set(prepared.body.ops())


@pytest.mark.slow
def test_a_denoiser_that_reads_a_mask_at_each_step_is_given_it_directly() -> None:
    """Rows are float32, which a mask is not; what is made of it beforehand is a row all the same."""
    module, spec = Painter(), Spec("painter", (2, 4, 4), (IMAGE, MASK), "sample", ScheduleSpec("cosine"))
    source = TorchSource(module.requires_grad_(False), spec, spec.name, "0" * 64)
    traced = source.trace()
    prepared = prepare(traced.graph)
    assert verify(spec, traced, prepared).worst.relative < 1e-5
    assert prepared.prologue is not None
    assert [v.name for v in prepared.body.inputs if v.name in ("x", "time", "image", "mask")] == ["x", "mask", "image"]
    assert prepared.body.ops().count("Conv") == 2  # the first is split in three, of which two are the prologue's
