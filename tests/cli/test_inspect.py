"""What `inspect` prints of a bundle: a policy's rhythm and units, fitted plans, and the samples that judged a body."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fewstep.cli.describe.bundle import build_tree
from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.runtime.bundle.manifest import Affine, Policy, Trial
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, with_body, write_graphs
from tests.cli.conftest import Command, Document
from tests.onnx_text import graph_of_text
from tests.runtime.sampling.test_fitted_plans import give


@pytest.fixture
def lines(fewstep: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """A function that returns the lines of a bundle's tree, without its branches."""
    monkeypatch.setenv("COLUMNS", "400")
    return lambda bundle: [line.strip("│├└─ ") for line in fewstep("inspect", bundle).out.splitlines()]


def test_a_policy_is_described_by_rhythm_units_and_scheduler(
    tiny_bundle: Path, lines: Callable[[Path], list[str]], document: Document
) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    high, width = manifest.x_shape[0], manifest.x_shape[-1]
    policy = Policy(2, 0, 1)
    units = Affine((2.0,) * width, (0.5,) * width)
    config = {"plans/scheduler.json": json.dumps({"_class_name": "DDIMScheduler"}).encode()}
    change_bundle(tiny_bundle, config, policy=policy, units=units, scheduler="plans/scheduler.json")
    printed = lines(tiny_bundle)
    scale, shift = ", ".join(["2"] * width), ", ".join(["0.5"] * width)
    assert [line for line in printed if line.startswith(("policy", "units", "scheduler"))] == [
        f"policy: sees 2 observations, executes 1 of {high} actions from place 0, counted from 0",
        f"units: scale * x + shift along axis -1; scale {scale}; shift {shift}",
        "scheduler: DDIMScheduler of diffusers, for the plan scheduler:STEPS",
    ]
    found = document("inspect", tiny_bundle)
    assert found["manifest"]["policy"]["observations"] == 2 and found["manifest"]["units"]["scale"] == [2.0] * width
    assert found["scheduler"] == "DDIMScheduler"
    known = inspect(InspectOptions(tiny_bundle))
    policy = Policy(1, 1, 8, "former", "delay", 4, {2: (-1.0, 1.0)})
    manifest = msgspec.structs.replace(known.manifest, policy=policy, x_shape=(16, 3))
    shown = build_tree(msgspec.structs.replace(known, manifest=manifest), lists_operations=False)
    assert (
        "policy: sees 1 observation, executes 8 of 16 actions from place 1, counted from 0; continues up to 4 decided "
        "actions (former, delay); action[2] is one of -1, 1"
    ) in [str(child.label) for child in shown.children]


def test_a_line_has_guidance_and_teacher(tiny_bundle: Path, lines: Callable[[Path], list[str]]) -> None:
    give(tiny_bundle, guidance=2.0)
    give(tiny_bundle, guidance=None)
    give(tiny_bundle, body="int8-cpu-x86", graph="1" * 64)
    printed = lines(tiny_bundle)
    gain = "24.0 dB PSNR against the teacher ddim:20, where dpmpp_2m:3 has 20.0 dB"
    assert [line for line in printed if line.startswith("plan fitted")] == [
        f"plan fitted:3 for float32, guidance 2: {gain}",
        f"plan fitted:3 for float32, guidance none: {gain}",
        f"plan fitted:3 for int8-cpu-x86, guidance 2: {gain}",
    ]


def test_the_deployed_body_has_the_line_of_its_trial(tiny_bundle: Path, lines: Callable[[Path], list[str]]) -> None:
    """Earlier versions stored several."""
    trials = (
        Trial("channels", 41.25, 36.5, 32, is_chosen=False),
        Trial("channels", 46.0, 40.25, 32, is_chosen=True, has_bias=True, shift=0.02, in_float=("h2",)),
        Trial("minmax", 38.0, 30.0, 16, is_chosen=False),
    )
    with_body(tiny_bundle, "int8-cpu-x86", trials=trials)
    printed = lines(tiny_bundle)
    place = printed.index("quality on samples, measured by calibration")
    assert (
        printed[place + 1]
        == "Good to ship: int8 has 46.0 dB PSNR against float32, the mean of 32 seeds, 5th percentile 40.2 dB"
    )
    on = "on 32 seeds"
    assert printed[place + 2] == on and "41.2 dB" not in str(printed)


def test_attention_that_is_no_single_operation_has_its_reason(
    tmp_path: Path, lines: Callable[[Path], list[str]]
) -> None:
    text = """(float[batch, 5, 5] x) => (float[batch, 5, 5] v) {
        scores = MatMul(x, x) shares = Softmax <axis = 1> (scores) v = MatMul(shares, x)
    }"""
    bundle = write_graphs(tmp_path / "bundle", {"body": graph_of_text(text)}, {"float32": {}})
    assert "attention that CUDA computes in parts (1): its softmax is not along the last axis" in lines(bundle)
