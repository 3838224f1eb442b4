"""Make the runs of a sampler: check a caller's request, compile its plan, and begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fewstep.plans.any_plan import AnyPlan, PlanLike, check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, Guidance
from fewstep.plans.plan import DENOISER, Plan
from fewstep.runtime.arrays import Float32
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.conditions import ConditionValues, Overrides
from fewstep.runtime.sampling.denoiser import DenoiserNetworks
from fewstep.runtime.sampling.execute import Draws, Hold, StepNetwork
from fewstep.runtime.sampling.execution import PlanCompiler, execution_of
from fewstep.runtime.sampling.feeds import BranchValues, branch_values
from fewstep.runtime.sampling.finite_checks import finite_outputs, warn_if_far
from fewstep.runtime.sampling.noise_ahead import NoiseAhead
from fewstep.runtime.sampling.planned_run import PlannedRun, RunInputs, stop_on_cancel
from fewstep.runtime.sampling.request import RunSettings, check_given, check_hold, check_seeds, check_settings
from fewstep.runtime.sampling.separate_branches import SeparateBranches, separate_branches
from fewstep.runtime.sampling.slots import Slots, continue_slots, refuse_banks, zero_slots
from fewstep.runtime.sampling.step_call import Feeds, OnCall, StepCall

if TYPE_CHECKING:
    from fewstep.runtime.sampling.whole_runs import WholeRuns


@dataclass(frozen=True)
class RunMaker:
    """Makes the runs of a `Sampler`, which documents the arguments. No state is kept between runs, except noise that is
    computed in advance."""

    denoiser: DenoiserNetworks
    plans: PlanCompiler
    on_call: OnCall | None = None
    whole_runs: "WholeRuns | None" = None

    def begin(
        self,
        plan: PlanLike | None,
        seeds: Sequence[int],
        condition: ConditionValues | None,
        guidance: float | Guidance | None,
        settings: RunSettings,
    ) -> PlannedRun:
        """Check the run of all samples along one plan, and return it before its first step."""
        compiled, inputs = self._check(plan, seeds, condition, guidance, settings)
        return execution_of(inputs.manifest.space).begin(compiled, inputs)

    def sample(
        self,
        plan: PlanLike | None,
        seeds: Sequence[int],
        condition: ConditionValues | None,
        guidance: float | Guidance | None,
        settings: RunSettings,
    ) -> Float32:
        """Return the samples of a run, float32 [len(seeds), *x_shape]. A file of `whole_runs` computes them if it
        can."""
        compiled, inputs = self._check(plan, seeds, condition, guidance, settings)
        if self.whole_runs is not None and self._needs_no_steps(settings):
            shape = (len(inputs.seeds), *inputs.manifest.x_shape)
            given = settings.get("hold")
            hold = None if given is None else check_hold(given, check_compiled(compiled), shape[1:], shape[0])
            values = {**inputs.values_of(COND), **inputs.given_tensors(compiled)}
            sample = self.whole_runs.sample(compiled, values, inputs.draws, shape, hold)
            if sample is not None:
                return warn_if_far(sample, compiled, inputs.manifest)
        return execution_of(inputs.manifest.space).begin(compiled, inputs).finish()

    def sample_whole(
        self, plan: Plan, seeds: Sequence[int], condition: ConditionValues, hold: Hold | None
    ) -> Float32 | None:
        """Return the samples [len(seeds), *x_shape] of a file of `whole_runs`, or None if no file computes them.

        plan: compiled by this sampler, and starting from noise. hold: float32 of the samples' shape.

        It is for control loops. A check of an argument costs several times its usual time there, since the weights of
        the last call have emptied the processor's cache.
        """
        if self.whole_runs is None or not self._needs_no_steps({}):
            return None
        manifest = self.plans.bundle.manifest
        seeds, shape = check_seeds(seeds), (len(seeds), *manifest.x_shape)
        values = conditions.check(manifest.conditions, condition, len(seeds), manifest.sizes)
        sample = self.whole_runs.sample(plan, values, self._draws(seeds), shape, hold)
        return None if sample is None else warn_if_far(sample, plan, manifest)

    def _check(
        self,
        plan: PlanLike | None,
        seeds: Sequence[int],
        condition: ConditionValues | None,
        guidance: float | Guidance | None,
        settings: RunSettings,
    ) -> tuple[AnyPlan, RunInputs]:
        """Return the compiled plan of a run and its checked inputs."""
        check_settings(settings, RunSettings, "run")
        manifest, carried = self.plans.bundle.manifest, settings.get("carried")
        seeds = check_seeds(seeds)
        values_of = self._branch_values(len(seeds), condition, settings.get("branches"))
        (compiled,) = self.plans.compile_for_run([plan], guidance, settings)

        def step_call(plan: AnyPlan) -> StepCall:
            if carried is None:
                slots = self._first_slots(plan, len(seeds))
            else:
                slots = continue_slots(carried, check_compiled(plan), manifest, len(seeds))
            return self._step_call(plan, len(seeds), values_of, slots)

        draws, reads_time = self._draws(seeds), self.denoiser.networks[DENOISER].inputs.has_time
        return compiled, RunInputs(manifest, seeds, condition, values_of, settings, draws, step_call, reads_time)

    def sample_each(
        self,
        plans: Sequence[PlanLike],
        seeds: Sequence[int],
        condition: ConditionValues | None,
        guidance: float | Guidance | None,
        settings: RunSettings,
    ) -> Float32:
        """Return samples, float32 [len(seeds), *x_shape], where each sample has its own plan."""
        from fewstep.runtime.sampling import mixed_plans  # seldom needed

        check_settings(settings, RunSettings, "run")
        manifest, seeds = self.plans.bundle.manifest, check_seeds(seeds)
        values_of = self._branch_values(len(seeds), condition, settings.get("branches"))
        if settings.get("hold") is not None:
            raise UserError("hold does not work with a plan for each sample", "give one plan")
        mixed_plans.check_count(plans, len(seeds))
        compiled = list(map(check_compiled, self.plans.compile_for_run(plans, guidance, settings)))

        def cohort(plan: Plan) -> mixed_plans.Cohort:
            """Return the run of those samples of the batch that follow this plan."""
            refuse_banks(plan, self.plans.bundle.path)
            places = [place for place, other in enumerate(compiled) if other == plan]
            given = check_given(plan.given, settings.get("given"), condition, manifest.x_shape, len(seeds))
            feeds = self.denoiser.feeds(
                plan, len(places), lambda branch: mixed_plans.select_samples(places, values_of(branch))
            )
            draws = self._draws([seeds[place] for place in places])
            return mixed_plans.Cohort(plan, places, draws, mixed_plans.select_samples(places, given), feeds)

        cohorts = [cohort(each) for place, each in enumerate(compiled) if each not in compiled[:place]]
        longest = max(len(step.steps) for step in compiled)
        steps = mixed_plans.run(cohorts, self.denoiser, self.denoiser.common_inputs)
        for _ in stop_on_cancel(steps, longest, settings.get("cancel")):
            pass
        x = mixed_plans.collect(cohorts, len(seeds))
        for each in cohorts:
            warn_if_far(x[each.places], each.plan, manifest)
        return x

    def step_network(
        self, plan: Plan, samples: int, condition: ConditionValues | None, branches: Overrides | None
    ) -> StepNetwork:
        """Return the function that `execute` calls at each step of a compiled plan. Its outputs are checked."""
        check_compiled(plan)
        refuse_banks(plan, self.plans.bundle.path)
        return finite_outputs(self.step_call(plan, samples, condition, branches), plan)

    def step_call(
        self, plan: AnyPlan, samples: int, condition: ConditionValues | None, branches: Overrides | None
    ) -> StepCall:
        """Return the network calls of a compiled plan's steps. Carried tensors begin with zeros."""
        values_of = self._branch_values(samples, condition, branches)
        return self._step_call(plan, samples, values_of, self._first_slots(plan, samples))

    def draws(self, seeds: Sequence[int]) -> Draws:
        """Return the noise of these seeds as a function from draw number to an array [len(seeds), *x_shape]."""
        return self._draws(check_seeds(seeds))

    def _draws(self, seeds: Sequence[int]) -> Draws:
        """Return the noise of checked seeds."""
        shape = self.plans.bundle.manifest.x_shape
        return lambda number: self._noise.draw(seeds, number, shape)

    def _branch_values(
        self, samples: int, condition: ConditionValues | None, branches: Overrides | None
    ) -> BranchValues:
        """Return a function from a branch to its checked conditions."""
        manifest, nulls = self.plans.bundle.manifest, self.denoiser.networks[DENOISER].nulls
        return branch_values(manifest.conditions, condition, branches, samples, nulls, manifest.sizes)

    def _needs_no_steps(self, settings: RunSettings) -> bool:
        """Return True if a run has no hook, cancellation, carried tensors, named outputs or other branches."""
        if self.on_call is not None or self.plans.bundle.manifest.outputs:
            return False
        return all(settings.get(name) is None for name in ("cancel", "carried", "branches"))

    def _first_slots(self, plan: AnyPlan, samples: int) -> Slots | None:
        """Return the slots with which a first run begins; None if nothing is carried or returned in them."""
        manifest = self.plans.bundle.manifest
        if not plan.banks and not manifest.outputs:
            return None
        return zero_slots(check_compiled(plan), manifest, samples)

    def _step_call(self, plan: AnyPlan, samples: int, values_of: BranchValues, slots: Slots | None) -> StepCall:
        """Return the network calls of a plan's steps with checked conditions, from the slots at the start of a run."""
        first_step = 0 if slots is None else slots.first_step(check_compiled(plan))
        manifest = self.plans.bundle.manifest
        named = tuple(output.name for output in manifest.outputs)

        def feeds_of(of: AnyPlan) -> Feeds:
            return self.denoiser.feeds(of, samples, values_of, first_step)

        has_lengths = any(size.axis is None for size in manifest.sizes)
        if not has_lengths or (apart := separate_branches(plan, values_of, feeds_of)) is None:
            return StepCall(self.denoiser, feeds_of(plan), slots, named, self.on_call)
        first = next(iter(apart.values()))
        return SeparateBranches(self.denoiser, first, slots, named, self.on_call, apart)

    @cached_property
    def _noise(self) -> NoiseAhead:
        return NoiseAhead()
