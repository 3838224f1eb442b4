"""How often a policy's command to the fingers is neither of the expert's, and what it costs.

    python -m benchmarks.policy.lerobot_fingers WORK/policy-* --episodes 100

The expert of `fetch-pick-and-place` says -1 (close) or 1 (open). A mean of both is what one step makes where either
may come. The same episodes are run again with each command rounded to the nearer of the two.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.markdown import put_part, table
from benchmarks.options import add_page, parser_of, positive
from benchmarks.policy.confidence_intervals import Paired, wilson
from benchmarks.policy.fetch import Fetch
from benchmarks.policy.lerobot_success import FEW, PAGE, SCHEDULER, world_of
from benchmarks.policy.rollouts import episodes_of, run_courses
from benchmarks.policy.verdicts import Contender
from benchmarks.policy.worlds import Float64, Observation, Simulation
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

TASK = "fetch-pick-and-place"
HEAD = ("int8", "episodes", "between, % of ticks", "success %", "rounded, %", "gained, lost", "difference, 95 %")
BETWEEN = 0.5  # commands of a smaller amount are neither
PLANS = (f"scheduler:{SCHEDULER}", *(f"dpmpp_2m:{steps}" for steps in FEW))


class RoundedFingers(Fetch):
    """The task, whose fingers are told to open or to close, and nothing between."""

    def step(self, action: Float64) -> tuple[Observation, bool]:
        return super().step(round_fingers(action))


def round_fingers(action: Float64) -> Float64:
    """Return the action [4] with its last element at -1 or 1."""
    return np.append(action[:-1], 1.0 if action[-1] > 0 else -1.0)


def share_between(sent: Float64) -> float:
    """Return the share of actions [N, 4] whose command to the fingers is neither."""
    return float((np.abs(sent[:, -1]) < BETWEEN).mean())


def run_plan(
    plan: str, sampler: Sampler, count: int, simulate: Callable[[str], Simulation]
) -> tuple[dict[int, bool], float]:
    """Return which seeds are solved, and the share of commands that are neither."""
    contender = Contender(plan, "", plan, precision="int8", clipped=plan in PLANS[1:])
    world = dataclasses.replace(world_of(TASK), simulate=simulate)
    solved, sent = dict[int, bool](), list[Float64]()
    for course, is_solved in run_courses(world, contender, sampler, episodes_of(count, (TASK,))):
        solved[course.episode[1]] = is_solved
        sent.extend(course.sent)
    return solved, share_between(np.array(sent))


def row(plan: str, sampler: Sampler, count: int) -> tuple[str, ...]:
    """Return the cells of a plan."""
    (plain, between), (rounded, _) = (run_plan(plan, sampler, count, each) for each in (Fetch, RoundedFingers))
    changes = [(rounded[seed], plain[seed]) for seed in plain]
    pair = Paired(count, changes.count((True, False)), changes.count((False, True)))
    low, high = pair.interval
    return (
        plan,
        str(count),
        f"{100 * between:.1f}",
        *(f"{100 * sum(each.values()) / count:.0f} ({_interval(each)})" for each in (plain, rounded)),
        f"{pair.gained}, {pair.lost}",
        f"{100 * pair.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
    )


def _interval(solved: dict[int, bool]) -> str:
    low, high = wilson(sum(solved.values()), len(solved))
    return f"{100 * low:.0f} to {100 * high:.0f}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=positive, default=100)
    add_page(parser, PAGE)
    given = parser.parse_args()
    with load(given.bundle, precision="int8", backend=OnnxRuntime(threads=1, spinning=False)) as sampler:
        made = table(HEAD, [row(plan, sampler, given.episodes) for plan in PLANS])
    print(made)
    if given.page:
        put_part(PAGE, "benchmarks/policy/lerobot_fingers.py", made)


if __name__ == "__main__":
    main()
