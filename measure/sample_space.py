"""How bodies are compared with float32 in each sample space. `judging_of` returns what the space of a plan needs.

Continuous samples are compared with those of the float32 run. One different token changes all that follow, so tokens
are compared at the states of the float32 run, and the comparison of a contender includes that run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Protocol

from numpy.typing import NDArray

from fewstep.measure.judged_run import Contender, JudgedBodies, JudgedRun, judge_run, run_float32
from fewstep.measure.rollouts.recorded_token_run import check_counts, record_token_run
from fewstep.measure.rollouts.reference_check import check_reference
from fewstep.measure.rollouts.seeds import OTHER_SEEDS, PAIRED, SeedBatch
from fewstep.measure.sampling import FLOAT
from fewstep.plans.any_plan import AnyPlan, check_compiled, check_tokens, regroup
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.tokens.plan import TokenPlan

LOGITS_HELD = 2**26  # maximum number of logits of a run in memory, for each body


class Judging(Protocol):
    """The functions for comparing bodies with float32 that depend on the sample space."""

    def judge(
        self, plan: AnyPlan, contenders: Sequence[Contender], batch: SeedBatch, bodies: JudgedBodies
    ) -> tuple[NDArray[Any], Mapping[str, JudgedRun]]:
        """Return the float32 samples of a batch, and the runs of the contenders by name."""

    def batch_size(self, plan: AnyPlan, batch: int) -> int:
        """Return the number of seeds of a batch, at most `batch`."""

    def covers(self, count: int, seeds: Sequence[int]) -> bool:
        """Return whether the comparison of contenders that have these numbers of seeds already includes float32 samples
        of all `count` seeds."""

    def count_runs(self, count: int, contenders: Sequence[Contender], has_conditions: bool) -> int:
        """Return the number of runs of a network along the plan that a comparison needs: of float32 on `count` seeds,
        and of the contenders."""

    def has_teacher(self, plan: AnyPlan, reference: TextReference | None) -> bool:
        """Return whether plans of more steps come closer to an exact result, so that a teacher exists. Raises UserError
        for a plan along which no body can be compared, and if the user names a teacher although none can exist."""


class ContinuousJudging:
    """Compares continuous samples of int8 bodies with those of float32."""

    def judge(
        self, plan: AnyPlan, contenders: Sequence[Contender], batch: SeedBatch, bodies: JudgedBodies
    ) -> tuple[NDArray[Any], Mapping[str, JudgedRun]]:
        plan = check_compiled(plan)
        exact, runs, is_first = run_float32(plan, batch, bodies), {}, batch.seeds[0] == PAIRED[0]
        follow = any(contender.plan is None for contender in contenders)
        of_plan = check_reference(bodies(FLOAT), exact) if is_first and follow else None
        for contender in contenders:
            floats = exact if contender.plan is None else run_float32(contender.plan, batch, bodies)
            along = regroup(contender.plan or plan, contender.groups)
            run = judge_run(along, contender, bodies(contender.name), floats, bodies(FLOAT))
            if is_first:
                check = of_plan if contender.plan is None else check_reference(bodies(FLOAT), floats)
                run = replace(run, check=check)
            runs[contender.name] = run
        return exact.sample, runs

    def batch_size(self, plan: AnyPlan, batch: int) -> int:
        return batch

    def covers(self, count: int, seeds: Sequence[int]) -> bool:
        return True

    def count_runs(self, count: int, contenders: Sequence[Contender], has_conditions: bool) -> int:
        """Return the number of runs. Each seed that is also compared step by step adds runs of both bodies with other
        conditions. The check of float32's samples along each plan adds runs with other seeds and other conditions."""
        own_plans = sum(contender.plan is not None for contender in contenders)
        checks = own_plans + (own_plans < len(contenders))
        further = checks * (1 + has_conditions) * min(len(OTHER_SEEDS), count)
        return count + further + sum(contender.seeds + 3 * contender.forced_seeds for contender in contenders)

    def has_teacher(self, plan: AnyPlan, reference: TextReference | None) -> bool:
        return True


class TokenJudging:
    """Compares bodies of token denoisers with float32: their logits at the states of the float32 run, and their samples
    from separate runs."""

    def judge(
        self, plan: AnyPlan, contenders: Sequence[Contender], batch: SeedBatch, bodies: JudgedBodies
    ) -> tuple[NDArray[Any], Mapping[str, JudgedRun]]:
        runs = {
            contender.name: self._judge_contender(check_tokens(plan), contender, batch, bodies)
            for contender in contenders
        }
        return max((run.reference for run in runs.values()), key=len), runs

    def _judge_contender(
        self, plan: TokenPlan, contender: Contender, batch: SeedBatch, bodies: JudgedBodies
    ) -> JudgedRun:
        along, batch = regroup(plan, contender.groups), batch.first(contender.seeds - batch.seeds[0])
        recorded = record_token_run(bodies(FLOAT), along, batch)
        run = recorded.run_network(bodies(contender.name).step_call(along, len(batch.seeds), batch.conditions).logits)
        return JudgedRun(
            run.ids, recorded.reference.ids, agreement=recorded.agreement(run), decibels=recorded.decibels(run)
        )

    def batch_size(self, plan: AnyPlan, batch: int) -> int:
        """Return fewer seeds than for continuous samples, because logits are large."""
        logits = prod(plan.shape) * check_tokens(plan).vocabulary
        numbers = len(plan.steps) * max(len(step.branches) for step in plan.steps) * logits
        return max(1, min(batch, LOGITS_HELD // numbers))

    def covers(self, count: int, seeds: Sequence[int]) -> bool:
        return count in seeds

    def count_runs(self, count: int, contenders: Sequence[Contender], has_conditions: bool) -> int:
        """Return the number of runs for the comparison. Each body runs at the states of float32, and along a run of its
        own."""
        return 3 * sum(contender.seeds for contender in contenders)

    def has_teacher(self, plan: AnyPlan, reference: TextReference | None) -> bool:
        """Return False, since more steps draw other tokens."""
        if reference is not None:
            raise UserError(
                f"--teacher {reference} does not apply to tokens, which have no exact trajectory", "leave it out"
            )
        check_counts(plan, "judge along a plan of counts, such as maskgit:8 or likeliest:8")
        return False


def judging_of(plan: AnyPlan) -> Judging:
    """Return how bodies are compared with float32 along a plan, which depends on its sample space."""
    return TokenJudging() if isinstance(plan, TokenPlan) else ContinuousJudging()
