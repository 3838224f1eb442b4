"""What a plan costs: compiling one of 50 steps, and the executor's own time in a step of a 3x32x32 state.

    python -m benchmarks.plans [--json]

Every solver, on the cosine schedule unless it is made for another. Bars: 10 ms to compile, 50 microseconds a step
beyond the network (which here answers at once; its noise is drawn beforehand, and timed by itself). The exit code is 0
if all solvers meet both. The machine should do nothing else.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks import options
from fewstep.plans import noise, solvers
from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Plan
from fewstep.plans.solvers.published import facts_of
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import execute

STEPS = 50
SHAPE = (3, 32, 32)
ROUNDS = 9
COMPILE_BAR = 10e-3
STEP_BAR = 50e-6
ANY = DenoiserFacts(ScheduleSpec("cosine"), "v")


@dataclass(frozen=True)
class Cost:
    """Seconds, medians: to compile, and of one step of the executor."""

    name: str
    rows: int
    evaluations: int
    compile: float
    step: float


def seconds(run: Callable[[], object]) -> float:
    """Seconds of the processor, which other work does not add to: the median over rounds behind a first one."""
    run()
    taken = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        run()
        taken.append(time.process_time() - begun)
    return median(taken)


def measure(name: str) -> Cost:
    denoising = facts_of(getattr(solvers, name)).made_for or ANY

    def make() -> Plan:
        return compile_plan(f"{name}:{STEPS}", denoising)

    plan = make()
    x = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    answers = [[x] * (len(step.branches) * step.heads) for step in plan.steps]
    given = dict.fromkeys(plan.given, x)

    def run() -> None:
        deque(execute(plan, lambda index, step, u: answers[index], lambda number: x, given=given), maxlen=1)

    with np.errstate(all="ignore"):  # answers that are the same at every time lead nowhere, and far
        step = seconds(run) / len(plan.steps)
    return Cost(name, plan.rows, len(plan.steps), seconds(make), step)


def table(costs: list[Cost], draw: float) -> str:
    lines = [f"{'solver':22} {'rows':>4} {'evaluations':>11} {'compile':>10} {'step':>10}"]
    for cost in sorted(costs, key=lambda each: -each.compile):
        late = " <- misses a bar" * (cost.compile > COMPILE_BAR or cost.step > STEP_BAR)
        times = f"{1e3 * cost.compile:7.2f} ms {1e6 * cost.step:7.1f} us"
        lines.append(f"{cost.name:22} {cost.rows:4} {cost.evaluations:11} {times}{late}")
    lines.append(f"one draw of noise: {1e6 * draw:.0f} us")
    return "\n".join(lines)


def main() -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("solvers", nargs="*", default=solvers.__all__, help="all by default")
    options.add_json(parser)
    arguments = parser.parse_args()
    costs = [measure(name) for name in arguments.solvers]
    draw = seconds(lambda: noise.normal(0, 0, SHAPE))
    met = all(cost.compile <= COMPILE_BAR and cost.step <= STEP_BAR for cost in costs)
    if arguments.json:
        found: dict[str, Any] = {"steps": STEPS, "shape": SHAPE, "draw": draw, "met": met}
        print(json.dumps(found | {"solvers": [asdict(cost) for cost in costs]}))
    else:
        print(table(costs, draw))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
