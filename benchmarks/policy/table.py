"""The table of contenders: success with intervals, differences on the same episodes, routes, and seams."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.policy.confidence_intervals import Paired, wilson
from benchmarks.policy.experts import ROUTES, WALL
from benchmarks.policy.simulator import TASKS
from benchmarks.policy.verdicts import Contender, Verdict, Verdicts

PAGE = Path(__file__).parents[2] / "lab/measured/policy.md"
HEAD = (
    "who",
    "episodes",
    "success %",
    "95 %",
    *TASKS,
    "less reference (pairs, differ, at least, p)",
    "ticks",
    "routes",
    "seam",
    "jerk",
)


def row(contender: Contender, verdicts: Verdicts, reference: Verdicts | None) -> tuple[str, ...]:
    """Return the cells of a contender. `reference` has the verdicts that it is compared with, or None."""
    all_ = list(verdicts.values())
    won = [each for each in all_ if each.solved is not None]
    low, high = wilson(len(won), len(all_))
    tasks = [_task(task, all_) for task in TASKS]
    ticks = "" if not won else f"{np.median([each.solved for each in won if each.solved is not None]):.0f}"
    return (
        contender.name,
        str(len(all_)),
        f"{100 * len(won) / max(1, len(all_)):.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        *tasks,
        "" if reference is None else _compare(verdicts, reference),
        ticks,
        _routes(won),
        _mean([each.seam for each in all_]),
        _mean([each.jerk_contrast for each in all_]),
    )


def pair_episodes(verdicts: Verdicts, reference: Verdicts) -> Paired:
    """A contender and the reference on the episodes that both have."""
    both = verdicts.keys() & reference.keys()
    won = [(verdicts[each].solved is not None, reference[each].solved is not None) for each in both]
    return Paired(len(won), won.count((True, False)), won.count((False, True)))


def _task(task: str, verdicts: Sequence[Verdict]) -> str:
    own = [verdict for verdict in verdicts if verdict.task == task]
    return "" if not own else f"{100 * sum(each.solved is not None for each in own) / len(own):.1f}"


def _compare(verdicts: Verdicts, reference: Verdicts) -> str:
    pair = pair_episodes(verdicts, reference)
    if not pair.pairs:
        return ""
    figures = f"{pair.pairs}, {100 * pair.discordant:.1f} %, {100 * pair.bound:+.1f}, {pair.p_value:.2g}"
    return f"{100 * pair.difference:+.1f} ({figures})"


def _routes(won: Sequence[Verdict]) -> str:
    """Shares of the routes among the successes past the wall."""
    taken = [each.route for each in won if each.task == WALL]
    return "" if not taken else " / ".join(f"{100 * taken.count(route) / len(taken):.0f}" for route in ROUTES)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return "" if not known else f"{np.mean(known):.2f}"
