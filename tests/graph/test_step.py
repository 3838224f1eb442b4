"""The fused form of a step is the reference, bit by bit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.graph import Array, Graph
from fewstep.graph.session import open_session
from fewstep.graph.step import fuse_step
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.plan import Step, regroup
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.shaping import Clip, Shaping, Threshold
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer
from fewstep.runtime.execute import combine, execute
from tests.graph.small import node, small, value

B, X_SHAPE, NULL = 3, (2, 4, 4), -1.0
COSINE = DenoiserFacts(ScheduleSpec("cosine"), "v")
LABEL = np.float32([1, 2, 3])


def denoiser(grouped: bool) -> Graph:
    """output = conv(x) * row, and with groups a factor that the group chooses."""
    rng = np.random.default_rng(0)
    inputs = [value("x", "batch", *X_SHAPE), value("row", "batch", 2, 1, 1)]
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Mul", "a row", "b" if grouped else "output"),
    ]
    if grouped:
        inputs.append(value("group", 1, dtype="int64"))
        nodes += [node("Gather", "factors group", "factor"), node("Mul", "b factor", "output")]
    w = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    return small(inputs, [value("output", "batch", *X_SHAPE)], nodes, w=w, factors=[0.5, 2.0])


def rows(step: Step) -> Array:
    """[branches * B, 2, 1, 1]: the conditional branch first."""
    labels = [LABEL if branch == "cond" else np.full(B, NULL, np.float32) for branch in step.branches]
    row = np.concatenate(labels) * np.float32(1 + step.time / 1000)
    return np.stack([row, -row], axis=1)[:, :, None, None]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("shape", [None, Clip(-1, 1), Threshold(0.9)], ids=str)
@pytest.mark.parametrize("name", ["ddim:3", "dpmpp_2m:4", "heun:2"])
def test_the_fused_form_equals_the_reference(
    name: str, shape: Shaping | None, guidance: float | None, grouped: bool
) -> None:
    body = denoiser(grouped)
    plan = regroup(compile_plan(name, COSINE, guidance, shape), groups=(0.0,))
    session = open_session(body)
    noise = np.random.default_rng(1).standard_normal((16, B, *X_SHAPE)).astype(np.float32)

    def network(index: int, step: Step, u: Array) -> list[Array]:
        n = len(step.branches)
        given = {"x": np.concatenate([u] * n), "row": rows(step), "group": np.array([step.group])}
        return np.split(session(given)["output"], n)

    state = [combine(row, [noise[d] for d in plan.start_draws], np.float32) for row in plan.start]
    for step, expected in zip(plan.steps, execute(plan, network, lambda d: noise[d]), strict=True):
        fused = fuse_step(body, step)
        given = {f"state_{k}": row for k, row in enumerate(state)} | {f"draw_{d}": noise[d] for d in step.draws}
        outputs = open_session(fused)({**given, "row": rows(step)})
        state = [outputs[f"next_{k}"] for k in range(plan.rows)]
        np.testing.assert_array_equal(state, expected.after)


def test_the_update_is_multiplications_and_additions() -> None:
    body = denoiser(grouped=True)
    plan = compile_plan("dpmpp_2m:4", COSINE, guidance=2.0)
    fused = fuse_step(body, plan.steps[1])
    added = set(fused.ops()) - set(body.ops())
    assert added == {"Concat", "Split", "Add", "Identity"}  # of Mul there was one already
    assert [v.name for v in fused.inputs] == ["state_0", "state_1", "row"]
    assert [v.name for v in fused.outputs] == ["next_0", "next_1"]


def test_heads_and_tensor_coefficients_have_their_fused_form() -> None:
    """A network of two heads, and a solver that multiplies by a tensor and adds one."""
    gain, bias = np.linspace(-1, 1, 16).reshape(X_SHAPE[1:]), np.full(X_SHAPE[1:], 0.25)

    def solver(trace: Tracer, times: Sequence[Time]) -> Lin:
        x = trace.start()
        for s in times[:-1]:
            x, (first, second) = trace.outputs(x, s)
            x = gain * x + 0.5 * first - second + bias * trace.ones()
        return x

    spec = ScheduleSpec("cosine")
    denoising = DenoiserFacts(spec, "v", heads=2)
    plan = trace_plan("test:2", solver, trailing(NoiseSchedule(spec), 2), denoising, guidance=2.0)
    nodes = [node("Mul", "x row", "a"), node("Concat", "a x", "output", axis=1)]
    inputs = [value("x", "batch", *X_SHAPE), value("row", "batch", 2, 1, 1)]
    body = small(inputs, [value("output", "batch", 2 * X_SHAPE[0], *X_SHAPE[1:])], nodes)
    noise = np.random.default_rng(1).standard_normal((B, *X_SHAPE)).astype(np.float32)

    def network(index: int, step: Step, u: Array) -> list[Array]:
        u = np.concatenate([u, u])
        branches = np.split(np.concatenate([u * rows(step), u], axis=1), 2)
        return [head for branch in branches for head in np.split(branch, 2, axis=1)]

    state = [plan.start[0][0] * noise]
    for step, expected in zip(plan.steps, execute(plan, network, lambda d: noise), strict=True):
        fused = open_session(fuse_step(body, step, plan.tensors))
        state = [fused({"state_0": state[0], "row": rows(step)})["next_0"]]
        np.testing.assert_allclose(state, expected.after, rtol=1e-6, atol=1e-6)


def test_a_shaping_of_a_free_size_is_refused() -> None:
    plan = compile_plan("ddim:2", COSINE, shaping=Threshold())
    body = denoiser(False)
    free = replace(body, inputs=tuple(replace(v, shape=("batch", 1, "height", 4)) for v in body.inputs))
    with pytest.raises(UserError, match="Threshold.* looks at a whole sample, whose size height is free"):
        fuse_step(free, plan.steps[0])
