"""The time and memory that a choice takes at most, estimated before it begins."""

from collections.abc import Iterable, Mapping

from fewstep.evaluation.choosing.deployments import ROUNDS, Judging
from fewstep.evaluation.choosing.engines import bodies_here, candidates
from fewstep.evaluation.cost import sampling_needs
from fewstep.evaluation.sampling_job import FEW
from fewstep.evaluation.speed.duel import SECONDS
from fewstep.evaluation.speed.turns import TURN
from fewstep.evaluation.speed.worker import AHEAD
from fewstep.evaluation.teacher import CHECKED
from fewstep.graph.needs import Needs
from fewstep.plans.plan import Plan


def evaluations(judging: Judging, plans: Mapping[str, Mapping[str, Plan]]) -> int:
    """How often a network runs for one sample to judge the plans of all bodies, and for the teacher and its check, if
    the first teacher suffices."""
    tried = [plan for own in plans.values() for plan in own.values()]
    long, checked = len(judging.teacher.steps), min(CHECKED, judging.seeds)
    return judging.seeds * (_steps(tried) + long) + checked * (len(judging.plan.steps) + 3 * long)


def timing(judging: Judging, plans: Mapping[str, Mapping[str, Plan]], seconds: float, threads: int) -> float:
    """Seconds that turns take, where an evaluation of one sample takes `seconds`: engines in pairs, then the plans."""
    tried = [plan for own in plans.values() for plan in own.values()]
    pairs = len(plans) * (len(list(candidates(threads))) - 1)
    calls = 2 * seconds * judging.batch * _steps(tried)  # one of a turn that is not counted, and one behind its end
    return pairs * SECONDS + 2 * ROUNDS * (len(tried) * (AHEAD + TURN) + calls)


def needs(judging: Judging) -> Needs:
    """Memory of float32 beside two engines of the largest body."""
    bundle = judging.bundle
    each = [
        sampling_needs(bundle, (name, name), judging.plan, max(FEW, judging.batch), ()) for name in bodies_here(bundle)
    ]
    return max(each, key=lambda need: need.memory)


def _steps(plans: Iterable[Plan]) -> int:
    return sum(len(plan.steps) for plan in plans)
