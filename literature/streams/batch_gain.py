"""Measure whether one call for all steps of a plan is faster than a call for each: engines and CPUs differ."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.machine.turns import so_many, take_turns
from fewstep.runtime.mixed_plans import joined
from fewstep.runtime.step_call import Call, Feeds

REPEATS = 3  # after one call that warms up


def batch_gain(
    plan: Plan,
    call: Call,
    fed: Feeds,
    shape: Sequence[int],
    shared: Sequence[str],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of a plan's steps in single calls, divided by their seconds in joined calls.

    Steps of different range groups or networks are in different calls in both cases. The gain is 0 for an engine that
    refuses joined calls because it was built for fewer samples.
    """
    x = [np.zeros((len(step.branches), *shape), np.float32) for step in plan.steps]
    groups: dict[tuple[int, str], list[int]] = {}
    for index, step in enumerate(plan.steps):
        groups.setdefault((step.group, step.network), []).append(index)

    def singly() -> None:
        for index, step in enumerate(plan.steps):
            call(x[index], fed(index), step.group, step.network)

    def together() -> None:
        for group, indices in groups.items():
            call(np.concatenate([x[index] for index in indices]), joined([fed(i) for i in indices], shared), *group)

    def seconds(run: Callable[[], None]) -> float:
        began = clock()
        run()
        return clock() - began

    singly()
    try:
        together()
    except UserError:
        return 0.0
    times = take_turns([partial(seconds, singly), partial(seconds, together)], so_many(REPEATS))
    return min(single for single, _ in times) / max(min(joint for _, joint in times), 1e-9)
