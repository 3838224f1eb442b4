"""The times of a plan's steps, by trying others: each one is moved, and stays where samples come nearer to the teacher.

AutoDiffusion (Li et al. 2023, arXiv 2309.10438) searches times by evolution, and GITS (Chen et al. 2024, arXiv
2405.11326) by dynamic programming over errors of single steps. Here the search is by coordinates, and looks at the end.
"""

from collections.abc import Callable, Sequence

from fewstep.literature.fits.setting import FitSetting
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time

MOVES = (0.25, 0.1)  # of the gap to the next time in lambda, one sweep over all times for each
TRIES = 4  # of one time in one direction
LONGEST = 2.0  # of such a gap in lambda: those to the ends may be infinite


def fit_times(
    times: Sequence[Time],
    schedule: NoiseSchedule,
    compiled: Callable[[Sequence[Time]], Plan],
    quality: Callable[[Plan], float | None],
) -> Plan:
    """The best plan over times between the same ends.

    Args:
        times: of N steps and the end, to begin at.
        compiled: the solver's plan over other times; UserError where there is none.
        quality: of a plan, more is better; None for one whose samples are not finite. It is asked for at most
            1 + 16 (N - 1) plans.
    """
    best, times = compiled(times), list(times)
    highest = quality(best)
    if highest is None:
        raise UserError(f"the samples of {best.name} are not finite", "begin at other times")
    for share in MOVES:
        for i in range(1, len(times) - 1):
            for way in (1, -1):
                for _ in range(TRIES):
                    gap = min(abs(times[i + way].lam - times[i].lam), LONGEST)
                    moved = [*times[:i], schedule.at_lam(times[i].lam + way * share * gap), *times[i + 1 :]]
                    try:
                        plan = compiled(moved)
                    except UserError:  # two times are one
                        break
                    new = quality(plan)
                    if new is None or new <= highest:
                        break
                    best, highest, times = plan, new, moved
    return best


def fitted(setting: FitSetting) -> Plan:
    """The nominal plan's solver over times that are nearest to the teacher at the end."""

    def compiled(times: Sequence[Time]) -> Plan:
        return setting.compiled(setting.parsed.solver, times, f"{setting.nominal.name} over other times")

    return fit_times(setting.times(setting.evaluations), setting.schedule, compiled, setting.quality)
