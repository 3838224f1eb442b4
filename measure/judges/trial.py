"""The first call of a judge: with two samples of float32, before the work whose results it decides on.

A judge that fails, or returns anything but a score and a limit, would otherwise be noticed only after minutes.
"""

from fewstep.measure.judges.judge import Judge, SamplePairs
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.record_sizes import records_of_one_size
from fewstep.measure.rollouts.reference_check import require_usable_reference
from fewstep.measure.rollouts.seeds import OPERATION_SEEDS, SeedBatch
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.finite_checks import finite_sample  # warns of no range
from fewstep.runtime.sampling.sampler import Sampler


def try_judge(judge: Judge, sampler: Sampler, plan: AnyPlan, records: ConditionRecords | None) -> None:
    """Let a judge score float32's samples of OPERATION_SEEDS along a plan. Raises UserError if it fails; if the samples
    are useless, which may be the cause, the error says so.

    Errors of sampling are ignored: the work that follows raises them again, and says more. sampler: the sampler of
    float32. records: user-supplied conditions, or None.
    """
    batch = SeedBatch.from_manifest(sampler.bundle.manifest, OPERATION_SEEDS, records_of_one_size(records))
    try:
        samples = finite_sample(plan, batch.at_size(sampler).steps(plan, batch.seeds, batch.conditions))
    except UserError:
        return
    try:
        judge.judge(SamplePairs(samples, samples, batch.conditions))
    except UserError:
        if isinstance(plan, Plan):
            require_usable_reference(sampler, plan, batch)
        raise
