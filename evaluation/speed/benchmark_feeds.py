"""What a body is timed on."""

from fewstep.plans.plan import Plan
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.trajectories import roll_out
from fewstep.runtime.backends import Arrays
from fewstep.runtime.sampler import Sampler


def feeds(sampler: Sampler, plan: Plan, samples: int, rows: ConditionRecords | None = None) -> Arrays:
    """What the body is fed at the middle step of a plan: every branch of `samples` samples."""
    own = None if rows is None else held_out_conditions(sampler.bundle.manifest.conditions, range(samples), rows)
    evaluations = roll_out(sampler, plan, range(samples), batch=samples, conditions=own)
    return next(e.feeds for e in evaluations if e.state.index == len(plan.steps) // 2)
