"""The time and memory that a report takes, estimated before it begins."""

from collections.abc import Iterable, Sequence

from fewstep.evaluation.cost import BATCH, sampling_needs, sees_rows
from fewstep.evaluation.distances.judged_batch import Candidate
from fewstep.evaluation.report.options import ReportOptions
from fewstep.evaluation.teacher import CHECKED
from fewstep.graph.needs import Needs
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle

ROOM = 2**23  # bytes of a page with its pictures and figures, which are seldom more


def evaluations(plan: Plan, teacher: Plan | None, candidates: Sequence[Candidate], options: ReportOptions) -> int:
    """How often a network runs for one sample: of all bodies and float32, and of the teacher and its check, if
    the first teacher suffices. Tokens have no teacher; a body sees float32's states, and runs by itself."""
    if teacher is None:
        return 3 * len(plan.steps) * sum(each.seeds for each in candidates)
    steps, long, taught = len(plan.steps), len(teacher.steps), min(options.teacher_seeds, options.seeds)
    # a forced seed also runs both bodies under another condition
    judged = options.seeds + sum(each.seeds + 3 * each.forced_seeds for each in candidates)
    check = min(CHECKED, taught) * (steps + 3 * long)
    return judged * steps + taught * long + check


def needs(bundle: Bundle, bodies: Iterable[str], plan: Plan, options: ReportOptions) -> Needs:
    """Memory and disk space of a report: the page, its figures and its address."""
    names, workers = tuple(bodies), (options.workers, options.dask)
    by_rows = sees_rows(bundle, names, plan, *workers)
    return sampling_needs(bundle, names, plan, BATCH, (ROOM, 0, 0), *workers, by_rows=by_rows)
