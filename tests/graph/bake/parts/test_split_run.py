"""A run in three parts has bitwise the samples of the executor, in a program that keeps the loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fewstep.runtime
from fewstep.graph.bake.bake import assemble_run
from fewstep.graph.bake.draws import DRAWN, NOISE, draw_input
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.split_run import fix_shapes, split_run
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError

LABELS = np.array([0, 2, 1])


@pytest.mark.parametrize("plan", ["ddim:3", "dpmpp_2m:8", "heun:3", "ddim(eta=1):4", "sa_solver:4"])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_the_samples_are_those_of_the_executor(tiny_bundle: Path, plan: str, guidance: float | None) -> None:
    run, _ = assemble_run(BakeOptions(tiny_bundle, plan, tiny_bundle.with_name("run.onnx"), "int8", guidance=guidance))
    parts, values = split_run(run), {"class": LABELS}
    for port in run.inputs:
        if port.meaning in DRAWN:
            sample = port.shape[1 + (port.meaning != NOISE) :]
            values[port.name] = draw_input(port.meaning, run.draws, range(3), [*map(int, sample)])
    values |= open_session(parts.before, optimize=True)(values)
    (steps,) = parts.steps
    fixed = {name: values[name] for name in steps.constant_inputs}
    state = dict(zip(steps.state, (values[name] for name in parts.start), strict=True))
    step = open_session(fix_shapes(steps, fixed | state), optimize=True)
    for number in range(steps.count):
        nexts = step({**fixed, **state, steps.number: np.array(number)})
        state = dict(zip(steps.state, (nexts[name] for name in steps.nexts), strict=True))
    values |= dict(zip(steps.after, state.values(), strict=True))
    (samples,) = open_session(parts.after, optimize=True)(values).values()
    with fewstep.runtime.load(tiny_bundle, "int8") as sampler:
        expected = sampler.sample(plan, range(3), {"class": LABELS}, guidance)
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"unroll": True}, "an unrolled run has no repeated step"), ({"batch": 2}, "a fixed batch cannot be split")],
)
def test_a_run_without_a_step_of_any_batch_is_refused(tiny_bundle: Path, changes: dict[str, int], message: str) -> None:
    options = BakeOptions(tiny_bundle, "ddim:2", tiny_bundle.with_name("run.onnx"))
    run, _ = assemble_run(replace(options, **changes))
    with pytest.raises(UserError, match=message):
        split_run(run)
