"""How much a search of a precision map runs, told before it starts: in evaluations of AT_ONCE samples."""

from dataclasses import dataclass

from fewstep.calibration.precision.refine import MOST_GRAPHS
from fewstep.calibration.precision.search import prefixes
from fewstep.calibration.precision.sensitivity import ROUNDS
from fewstep.measure.rollouts.closed_loop import AT_ONCE, JUDGE_SEEDS
from fewstep.plans.plan import Plan

TIMED = 2 * (1 + ROUNDS)  # evaluations in which one graph is timed against another
JUDGES = -(-len(JUDGE_SEEDS) // AT_ONCE)  # runs in which a choice is judged


@dataclass(frozen=True)
class Effort:
    """Evaluations of one search: `least` where float32 is all there is to try and all int8 is deployed, `most` where
    every choice is timed and judged before one holds, each of them of graphs of its own."""

    least: int
    most: int


def effort(plan: Plan, operations: int) -> Effort:
    """Of a search that finds nothing measured before. `plan` has the range groups of the body, `operations` is how many
    may be int8 or float."""
    steps, groups = len(plan.steps), 1 + max(step.group for step in plan.steps)
    # a run in which one group differs is computed from the first step that is not before it
    shared = [next(i for i, step in enumerate(plan.steps) if step.group >= group) for group in range(groups)]
    measured = steps + operations * sum(steps - same for same in shared) + (operations + 1) * TIMED
    references = (1 + JUDGES) * steps
    choices = len(prefixes(operations * groups)) + 2  # all int8 and float32 too
    least = references + measured + (1 + JUDGES) * steps
    trimmed = operations + 1  # tried, and the last of them settled as the others are
    settled = (choices + 1) * (MOST_GRAPHS * TIMED + JUDGES * steps)
    return Effort(least, references + measured + (choices + trimmed) * steps + settled)
