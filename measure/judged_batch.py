"""One batch of a comparison with float32: every body samples the same held-out seeds along the same plan.

A batch is a picklable question, which is answered in a process that has the bodies open.
"""

from dataclasses import dataclass

from fewstep.measure.judged_run import Contender, JudgedBodies, JudgedRun
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.sample_space import judging_of
from fewstep.measure.sampling import FLOAT
from fewstep.plans.any_plan import AnyPlan


@dataclass(frozen=True)
class JudgedBatch:
    """A request for the runs of float32 and of contenders from the same seeds, along the judged plan."""

    plan: AnyPlan
    contenders: tuple[Contender, ...]
    batch: SeedBatch

    def answer(self, bodies: JudgedBodies) -> dict[str, JudgedRun]:
        """Sample the batch with float32 and all contenders. Return their runs, by body name."""
        judging = judging_of(self.plan)
        sample, runs = judging.judge(
            self.plan, self.contenders, self.batch, lambda name: self.batch.at_size(bodies(name))
        )
        return {FLOAT: JudgedRun(sample, sample), **runs}
