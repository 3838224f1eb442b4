"""Integer kernels against what their numbers stand for, operation by operation."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.count import count_activations, tabulate
from fewstep.calibration.lowering import agreement
from fewstep.calibration.lowering.agreement import agreements, warn_of_disagreement
from fewstep.calibration.lowering.quantize import lower_graph
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_arm import CPU_ARM
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from fewstep.calibration.lowering.targets.openvino import OPENVINO, as_compiled
from fewstep.calibration.lowering.targets.openvino_bf16 import OPENVINO_BF16
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.opening import open_task
from fewstep.calibration.options import CalibrateOptions
from fewstep.graph.graph import GROUP, Array, Graph
from fewstep.graph.session import GraphSession
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans.errors import UserError
from tests.calibration.every_target import change_target
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, feeds, table
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle


def lowered(target: Target) -> Graph:
    prepared = body()
    return lower_graph(prepared, table(prepared, EDGES), target)[0]


@pytest.mark.parametrize("target", [CPU_X86, CPU_X86_7BIT, CPU_ARM], ids=lambda target: target.name)
@pytest.mark.parametrize("group", [0, 2])
def test_every_integer_kernel_computes_what_its_numbers_stand_for(target: Target, group: int) -> None:
    found = agreements(lowered(target), [feeds(body()) | {GROUP: np.array([group])}])
    assert {each.tensor.removeprefix("int8(").removesuffix(")") for each in found} == set(SELECTED)
    assert all(each.is_close for each in found)
    assert all(each.steps < 0.01 for each in found if each.tensor == "mixed")  # which writes float32


def test_integer_kernels_are_checked_on_the_engine_of_their_target() -> None:
    assert {target.warns for target in (CPU_X86, CPU_X86_7BIT, CPU_ARM)} == {warn_of_disagreement}
    for target in (OPENVINO, OPENVINO_BF16):
        assert isinstance(target.warns, partial)
        assert target.warns.func is warn_of_disagreement and target.warns.keywords == {"engine": as_compiled}


@pytest.mark.slow
def test_every_kernel_of_the_shipped_model_agrees(exported_fashion_mnist: Path) -> None:
    """At most one step, where a sum lies on a half: 8 in 100 000 numbers where this was written."""
    options = CalibrateOptions(exported_fashion_mnist, plan="ddim:2", trajectories=4, groups="pooled")
    task = open_task(options)
    ranges = tabulate(count_activations(task), task.prepared, "0" * 64, task.plan.name, method="minmax")
    graph, ops, _ = lower_graph(task.prepared, ranges, CPU_X86)
    evaluation = next(iter(roll_out(task.sampler, task.plan, task.seeds[:1])))
    found = agreements(graph, [evaluation.feeds])
    assert len(found) == len(ops) > 30
    assert all(each.is_close for each in found), found[0]


@pytest.mark.parametrize("edges", [(), EDGES])
def test_openvino_computes_what_the_pairs_say_tensor_by_tensor(edges: tuple[float, ...]) -> None:
    """From the graph that it is given with more outputs, of which all operations are in int8 still."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    from fewstep.calibration.lowering.executed import as_compiled, integer_operations, watched
    from fewstep.calibration.lowering.targets.openvino import OPENVINO

    prepared, shown = body(), []

    def engine(graph: Graph, tensors: Sequence[str]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
        shown.append(watched(graph, tensors))
        return as_compiled(graph, tensors)

    def wrong_engine(graph: Graph, tensors: Sequence[str]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
        return lambda given: {k: np.minimum(v, 0.1) for k, v in as_compiled(graph, tensors)(given).items()}

    graph, ops, _ = lower_graph(prepared, table(prepared, edges), OPENVINO)
    given = feeds(prepared) | ({GROUP: np.array([2])} if edges else {})
    found = agreements(graph, [given], engine)
    assert len(found) == len(ops) and all(each.is_close for each in found), found[0]
    assert integer_operations(shown[0]) >= {each.tensor for each in found}
    assert not agreements(graph, [given], wrong_engine)[0].is_close


def test_what_a_gpu_runs_is_not_compared_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bodies for several targets, those that run on this kind of machine are."""
    asked: list[str] = []
    for target in (CPU_X86, CPU_ARM):
        change_target(monkeypatch, target.name, warns=lambda graph, feeds, body: asked.append(body))
    assert TENSORRT.warns is None
    targets = tuple(each.name for each in (TENSORRT, CPU_X86, CPU_ARM))
    calibrate(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser()), target=targets))
    assert asked == ["int8-cpu-x86", "int8-cpu-arm"]


def test_an_openvino_that_fails_is_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from fewstep.calibration.lowering.executed import as_compiled
    from fewstep.runtime.backends.openvino import OpenVino

    def failing(given: object) -> None:
        raise RuntimeError("Exception from src/cpu.cpp:1:\nno memory\n")

    monkeypatch.setattr(OpenVino, "compile", lambda *asked: failing)
    with pytest.raises(UserError, match=r"OpenVINO \S+ failed on graph 'body': no memory"):
        as_compiled(body(), ["h2"])(feeds(body()))


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> tuple[set[int], list[str]]:
    """A double of a CPU whose sums of one operation stop at 60, in the groups that the first set has; what follows it
    reads what it made. The graphs that were opened are in the list."""
    groups, made, opened = set[int](), list[str](), agreement.open_session

    def double(graph: Graph, also: Any = (), optimize: bool = False) -> Any:
        session: GraphSession = opened(graph, also, optimize)
        made.append(graph.name)

        def run(given: Mapping[str, Array]) -> dict[str, Array]:
            values = session(given)
            stops = optimize and int(given[GROUP][0]) in groups
            return {name: np.minimum(v, 60) if stops and name == "int8(h2)" else v for name, v in values.items()}

        return run

    monkeypatch.setattr(agreement, "open_session", double)
    return groups, made


def test_the_kernel_that_saturates_is_named_and_no_other(saturating: tuple[set[int], list[str]]) -> None:
    saturating[0].add(1)
    worst, *others = agreements(lowered(CPU_X86), [feeds(body()) | {GROUP: np.array([1])}])
    assert worst.tensor == "int8(h2)" and worst.steps > 10 and worst.off > 100 and not worst.is_close
    assert all(each.is_close for each in others)


def test_a_kernel_that_is_wrong_in_one_group_alone_is_warned_of(
    saturating: tuple[set[int], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Another group's scales may leave its sums no room; each graph is opened once for all of them."""
    groups, made = saturating
    groups.add(2)
    given = [feeds(body()) | {GROUP: np.array([group])} for group in range(3)]
    with caplog.at_level(logging.WARNING, "fewstep"):
        warn_of_disagreement(lowered(CPU_X86), given[:2], "int8-cpu-x86")
        assert not caplog.messages and len(made) == 2
        warn_of_disagreement(lowered(CPU_X86), given, "int8-cpu-x86")
    (said,) = caplog.messages
    assert "int8-cpu-x86" in said and "most in 'int8(h2)'" in said and len(made) == 4


def test_evaluations_may_have_fewer_branches_than_others() -> None:
    given = feeds(body())
    one = {name: value[:1] for name, value in given.items()}
    found = agreements(lowered(CPU_X86), [each | {GROUP: np.array([1])} for each in (given, one)])
    assert len(found) == 2 * len(SELECTED) and all(each.is_close for each in found)
    assert len({each.size for each in found if each.tensor == "int8(h2)"}) == 2
