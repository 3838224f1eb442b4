"""The fused form of a step is the reference, bit by bit."""

import numpy as np
import pytest
from small import node, small, value

from fewstep.graph.graph import Array, Graph
from fewstep.graph.session import open_session
from fewstep.graph.step import fuse_step
from fewstep.runtime.manifest import ScheduleSpec
from fewstep.runtime.plan import Denoising, Step, compile_plan, regroup
from fewstep.runtime.step import combine, execute

B, X_SHAPE, NULL = 3, (2, 4, 4), -1.0
COSINE = Denoising(ScheduleSpec("cosine"), "v")
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
@pytest.mark.parametrize("clip", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("name", ["ddim:3", "dpmpp_2m:4", "heun:2"])
def test_the_fused_form_equals_the_reference(
    name: str, clip: tuple[float, float] | None, guidance: float | None, grouped: bool
) -> None:
    body = denoiser(grouped)
    plan = regroup(compile_plan(name, COSINE, guidance, clip), groups=(0.0,))
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
