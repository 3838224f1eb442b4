"""Whole runs: files of `fewstep bake --unroll` that a sampler calls in place of its steps."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.graph.bake.assemble import BakedRun
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.hold import HeldAs
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.graph import Node
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.shaping import Clip
from fewstep.runtime import Hold, Sampler
from fewstep.runtime.arrays import Arrays
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.sampling.whole_runs import HOLDS, RunFacts, RunPort, WholeRun, read_facts
from tests.bundles import write_graphs
from tests.cuda_forms import NORM
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

PLAN = "dpmpp_2m:4"
CALL: dict[str, Any] = {"seeds": [5, 6], "condition": {"class": [0, 2]}, "guidance": 2.0}
AROUND = f"{__file__}:negate"


def negate(run: BakedRun) -> BakedRun:
    """A program for `bake --around`, whose samples are the negatives."""
    graph, name = run.graph, run.output.name
    nodes = [
        replace(node, outputs=tuple("positive" if out == name else out for out in node.outputs)) for node in graph.nodes
    ]
    return replace(run, graph=graph.with_nodes([*nodes, Node("Neg", ("positive",), (name,))]))


def bake_run(bundle: Path, plan: str = PLAN, **options: Any) -> Path:
    """Bake a file of two samples, next to the bundle."""
    file = bundle.with_name(f"run-{plan.replace(':', '-')}-{len(options)}.onnx")
    given = {"guidance": 2.0, "batch": 2, "unroll": True, **options}
    bake(BakeOptions(bundle, parse_plan_text(plan), file, **given))
    return file


def steps_and_whole(bundle: Path, *files: Path, **options: Any) -> tuple[Sampler, Sampler]:
    """Return the sampler without and with the files."""
    return fewstep.runtime.load(bundle, **options), fewstep.runtime.load(bundle, whole_runs=files, **options)


def only_run(sampler: Sampler) -> WholeRun:
    assert sampler.whole_runs is not None
    (run,) = sampler.whole_runs.runs.values()
    return run


def count_calls(sampler: Sampler) -> list[Arrays]:
    """Count the calls of its only file from now on."""
    run, calls = only_run(sampler), list[Arrays]()
    inner = run.call

    def call(feeds: Arrays) -> Any:
        calls.append(feeds)
        return inner(feeds)

    run.call = call
    return calls


@pytest.mark.parametrize("plan", [PLAN, "ddim:3", "sa_solver:4", "euler_ancestral:3"])
def test_a_whole_run_has_the_samples_of_the_steps(tiny_bundle: Path, plan: str) -> None:
    """Deterministic plans, and plans with noise in their steps, from the same draws."""
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle, plan))
    calls = count_calls(whole)
    for seeds in ([5, 6], [7, 2**40], [5, 6]):
        call = {**CALL, "seeds": seeds}
        np.testing.assert_allclose(whole.sample(plan, **call), steps.sample(plan, **call), rtol=0, atol=1e-5)
    assert len(calls) == 3


def test_one_call_has_all_inputs_and_the_network_none(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle))
    calls = count_calls(whole)
    whole = replace(whole, denoiser=replace(whole.denoiser, networks={
        name: replace(network, graph=lambda feeds: pytest.fail("a step ran"), prologue=None)
        for name, network in whole.denoiser.networks.items()
    }))  # fmt: skip
    assert whole.sample(PLAN, **CALL).shape == (2, 1, 4, 4)
    assert [{name: value.shape for name, value in call.items()} for call in calls] == [
        {"noise": (2, 1, 4, 4), "class": (2,)}
    ]


@pytest.mark.parametrize(("kind", "flags"), [("noised", {}), ("fresh", {"fresh": True}), ("clean", {"clean": True})])
def test_a_file_with_a_hold_computes_calls_with_that_hold_and_without(
    tiny_bundle: Path, kind: str, flags: dict[str, bool]
) -> None:
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle, hold=kind))
    value = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4)
    hold = Hold(value, (value > 0.2).astype(np.float32), **flags)
    calls = count_calls(whole)
    for each in (hold, None):
        found, right = (sampler.sample(PLAN, **CALL, hold=each) for sampler in (whole, steps))
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)
    assert len(calls) == 2


def test_a_hold_that_no_file_takes_runs_the_steps(tiny_bundle: Path) -> None:
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle, hold="noised"))
    calls, value = count_calls(whole), np.zeros((2, 1, 4, 4), np.float32)
    for hold in (Hold(value, value, fresh=True), Hold((value,) * 5, value)):
        np.testing.assert_array_equal(*(sampler.sample(PLAN, **CALL, hold=hold) for sampler in (whole, steps)))
    assert calls == []


def holding(x: np.ndarray) -> Hold:
    return Hold(np.zeros_like(x), np.zeros_like(x))


STEPWISE: dict[str, Callable[[Sampler], Any]] = {
    "a hold": lambda sampler: sampler.sample(PLAN, **CALL, hold=holding(np.ones((2, 1, 4, 4), np.float32))),
    "an event": lambda sampler: sampler.sample(PLAN, **CALL, cancel=Event()),
    "a deadline": lambda sampler: sampler.sample(PLAN, **CALL, cancel=lambda: False),
    "conditions of a branch": lambda sampler: sampler.sample(PLAN, **CALL, branches={"uncond": {"class": [1, 1]}}),
    "previews": lambda sampler: [*sampler.steps(PLAN, **CALL)][-1].after[0],
    "a hook": lambda sampler: replace(sampler, on_call=lambda index, call: None).sample(PLAN, **CALL),
    "a plan for each sample": lambda sampler: sampler.sample_each([PLAN, PLAN], **CALL),
    "another number of samples": lambda sampler: sampler.sample(PLAN, [5], {"class": [0]}, 2.0),
    "another plan": lambda sampler: sampler.sample("ddim:4", **CALL),
    "another guidance": lambda sampler: sampler.sample(PLAN, **{**CALL, "guidance": 3.0}),
    "another network": lambda sampler: sampler.with_network_parts(nulls={}).sample(PLAN, **CALL),
}


@pytest.mark.parametrize("call", STEPWISE.values(), ids=STEPWISE)
def test_all_other_calls_run_their_steps_bit_for_bit(tiny_bundle: Path, call: Callable[[Sampler], Any]) -> None:
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle))
    calls = count_calls(whole)
    np.testing.assert_array_equal(call(whole), call(steps))
    assert calls == []


def test_a_compiled_plan_finds_its_file_too(tiny_bundle: Path) -> None:
    _, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle), bake_run(tiny_bundle, "ddim:4"))
    assert whole.whole_runs is not None and len(whole.whole_runs.runs) == 2
    plan = whole.compile(PLAN, 2.0)
    assert whole.whole_runs.find(plan, (2, 1, 4, 4)) is not None
    assert whole.whole_runs.find(plan, (3, 1, 4, 4)) is None
    (run,) = [each for each in whole.whole_runs.runs.values() if "dpmpp" in each.name]
    assert whole.whole_runs.find(plan, (2, 1, 4, 4)) is run


def failing(sampler: Sampler, reason: str) -> list[int]:
    """Let the calls of its only file fail, and count them."""
    calls = list[int]()

    def call(feeds: Arrays) -> Any:
        calls.append(1)
        raise RuntimeError(reason)

    only_run(sampler).call = call
    return calls


def test_a_file_that_fails_is_replaced_by_its_steps(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps, whole = steps_and_whole(tiny_bundle, file := bake_run(tiny_bundle))
    calls = failing(whole, "CUDA failure 700")
    with caplog.at_level(logging.WARNING, "fewstep"):
        for _ in range(3):
            np.testing.assert_array_equal(whole.sample(PLAN, **CALL), steps.sample(PLAN, **CALL))
    assert len(calls) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{file.name}: calls run step by step: CUDA failure 700"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value[:1], "its output is float32 [1, 1, 4, 4], not float32 [2, 1, 4, 4]"),
        (lambda value: value.astype(float), "its output is float64 [2, 1, 4, 4], not float32 [2, 1, 4, 4]"),
    ],
)
def test_an_output_unlike_the_metadata_is_replaced_by_the_steps(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    steps, whole = steps_and_whole(tiny_bundle, file := bake_run(tiny_bundle))
    run, inner = only_run(whole), only_run(whole).call
    run.call = lambda feeds: {name: change(value) for name, value in inner(feeds).items()}
    with caplog.at_level(logging.WARNING, "fewstep"):
        np.testing.assert_array_equal(whole.sample(PLAN, **CALL), steps.sample(PLAN, **CALL))
    assert caplog.messages == [f"{file.name}: calls run step by step: {reason}"]


@pytest.mark.parametrize(
    ("plan", "call", "difference"),
    [
        ("ddim:4", {}, "plan ddim:4, not dpmpp_2m:4"),
        (PLAN, {"guidance": 3.0}, "guidance 3, not 2"),
        (PLAN, {"seeds": [5], "condition": {"class": [0]}}, "samples 1, not 2"),
        (PLAN, {"shaping": Clip(-1.0, 1.0)}, "other numbers of the plan, such as a clip"),
    ],
)
def test_a_call_without_a_file_says_once_how_it_differs(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, plan: str, call: dict[str, Any], difference: str
) -> None:
    _, whole = steps_and_whole(tiny_bundle, file := bake_run(tiny_bundle))
    with caplog.at_level(logging.INFO, "fewstep"):
        for _ in range(3):
            whole.sample(plan, **{**CALL, **call})
    found = [message for message in caplog.messages if "step by step" in message]
    assert found == [f"calls with another plan or shape than {file.name} run step by step: {difference}"]


def test_a_lack_of_memory_is_tried_again(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle))
    calls = failing(whole, "CUDA failure 2: out of memory")
    with caplog.at_level(logging.WARNING, "fewstep"):
        for _ in range(3):
            np.testing.assert_array_equal(whole.sample(PLAN, **CALL), steps.sample(PLAN, **CALL))
    assert len(calls) == 3 and not caplog.records


def test_values_that_are_not_finite_are_named_by_their_step(tiny_bundle: Path) -> None:
    """The steps run, and their error names the step; here they are finite."""
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle))
    only_run(whole).call = lambda feeds: {"sample": np.full((2, 1, 4, 4), np.nan, np.float32)}
    np.testing.assert_array_equal(whole.sample(PLAN, **CALL), steps.sample(PLAN, **CALL))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch": None}, "has no fixed batch or size; bake it with --unroll --batch N"),
        (
            {"body": "int8-cpu-x86"},
            "was baked from another body or another bundle; bake it from this bundle with --body float32",
        ),
        ({"body": "float16"}, "runs the float32 body in the form float16; bake it with --body float32, or"),
        ({"body": "float16-cuda"}, "runs the float32 body in the form float16; bake it with --body float32, or"),
        ({"around": (AROUND,)}, "was baked with --around, whose program may change the samples; bake it without"),
    ],
)
def test_files_that_cannot_replace_the_steps_are_refused(
    tiny_bundle: Path, options: dict[str, Any], reason: str
) -> None:
    file = bake_run(tiny_bundle, **options)
    with pytest.raises(UserError, match=reason):
        fewstep.runtime.load(tiny_bundle, whole_runs=[file])


def test_a_file_with_weights_in_int8_is_refused(exported_fashion_mnist: Path, tmp_path: Path) -> None:
    file, plan = tmp_path / "run.onnx", parse_plan_text("ddim:2")
    bake(BakeOptions(exported_fashion_mnist, plan, file, batch=2, unroll=True, body="int8-weights"))
    with refuses("int8-weights", "--body float32"):
        fewstep.runtime.load(exported_fashion_mnist, whole_runs=[file])


def test_a_file_of_an_older_version_is_refused(tmp_path: Path) -> None:
    """Without a form the file does not say whether its network is that of the body."""
    port = RunPort("sample", "sample", (2, 4), "float32")
    content = msgspec.json.encode(RunFacts((), port, plan_sha256="1", graphs_sha256="2"))
    with refuses((), "bake it again"):
        read_facts(tmp_path, {"fewstep": content.decode()})


def test_one_path_is_no_list_of_files(tiny_bundle: Path) -> None:
    with refuses(("whole_runs", "'run8.onnx'"), "whole_runs=['run8.onnx']"):
        fewstep.runtime.load(tiny_bundle, whole_runs="run8.onnx")


def test_a_missing_file_is_named(tiny_bundle: Path) -> None:
    with refuses(("whole_runs", "missing.onnx"), "check the path"):
        fewstep.runtime.load(tiny_bundle, whole_runs=["missing.onnx"])


def test_a_file_of_the_cuda_provider_is_refused_on_the_cpu(tmp_path: Path) -> None:
    constants = {"mix": np.eye(4, dtype=np.float32)[:, :, None, None], "groups": np.int64([0, 2, 18])}
    graph = graph_of_text(NORM, **constants, ones=[1.0, 2.0], zeros=[0.0, 0.5], whole=np.int64([0, 4, 3, 3]))
    bundle, file = write_graphs(tmp_path / "norm", {"body": graph}, {"float32": {}}), tmp_path / "run.onnx"
    bake(BakeOptions(bundle, parse_plan_text("ddim:2"), file, batch=2, unroll=True, body="float32-cuda"))
    with refuses("CUDA provider", "backend=OnnxRuntimeCuda"):
        fewstep.runtime.load(bundle, whole_runs=[file])


def test_a_graph_of_a_bundle_is_no_whole_run(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="is not a file of `fewstep bake`"):
        fewstep.runtime.load(tiny_bundle, whole_runs=[tiny_bundle / "graphs/body.onnx"])


def test_a_backend_without_whole_runs_says_so(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRt, "load", lambda self, bundle, name: OnnxRuntime().load(bundle, name))
    with refuses("TensorRt", "leave whole_runs out"):
        fewstep.runtime.load(tiny_bundle, backend=TensorRt(), whole_runs=["run.onnx"])


def test_a_sampler_knows_each_hold_of_a_baked_file() -> None:
    assert get_args(HeldAs) == HOLDS
