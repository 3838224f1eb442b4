"""Deployments. A deployment is a plan run by a body on its fastest engine, with the time of a call and the quality of
its samples.

A call is a whole sampling run, from noise to finished samples, including the prologue. A body runs in a separate
process, in turns with the unit of time, which is one call of float32's network in another process. Other programs slow
both equally. The cache stores the median ratio of a plan's call to the unit. Each choice measures the unit again, so a
cached ratio remains valid under any load.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from itertools import permutations
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import max_branches
from fewstep.measure.judged_reference import JudgedReference
from fewstep.measure.rollouts.conditions_file import digest_records
from fewstep.measure.rollouts.end_quality import compare_samples
from fewstep.measure.sampling import FEW, FLOAT
from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.argument_checks import check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import (
    FileReference,
    FittedReference,
    SchedulerReference,
    parse_plan_text,
    split_plan_name,
    with_steps,
)
from fewstep.plans.plan import Plan
from fewstep.report.choosing.engines import REFERENCE, TimedEngine, body_facts, make_backend, make_network_calls
from fewstep.report.choosing.measurement_cache import KIND, cache_key, read_cached, write_cached
from fewstep.report.choosing.saved_choice import Deployment
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.turns import Rounds, stop_after_rounds, take_turns
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.request import PlanSettings
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")
STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16)  # steps of the default plans
ROUNDS, MOST_ROUNDS = 5, 15
ALIKE = 0.98  # tolerated ratio: through noise, a plan with more evaluations may seem faster by 2 %
FAR = 2.0  # multiple of the budget; a plan that is expected to take longer is not tried

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class DeploymentJudge(JudgedReference):
    """The references of deployments. All plans have the guidance and the shaping of the calibrated plan.

    count: number of judge seeds. batch: samples of a call.
    """

    count: int
    batch: int
    progress: Progress = SILENT

    @property
    def reference_plan(self) -> Plan:
        """The plan of the float32 reference samples: the teacher, or the calibrated plan without a teacher."""
        return self.teacher or self.plan

    def sample_plan(self, sampler: Sampler, plan: Plan, at_once: int) -> Floats:
        """Return the samples [seeds, *x_shape] of a plan."""
        parts = []
        for part in self.held_out_batch(range(self.count)).split(at_once):
            parts.append(sampler.sample(plan, part.seeds, part.conditions))
            self.progress(f"sampling {plan.name}", part.seeds[-1] + 1, self.count)
        return np.concatenate(parts)

    @cached_property
    def reference_samples(self) -> Floats:
        """The teacher's samples [seeds, *x_shape], which are cached."""
        key = cache_key("teacher", *self._facts)
        if (content := cache.read_intact(KIND, key)) is not None:
            samples: Floats = np.load(BytesIO(content), allow_pickle=False)
            return samples
        samples, stream = self.sample_plan(self.reference, self.reference_plan, FEW), BytesIO()
        np.save(stream, samples)
        cache.store_intact(KIND, key, stream.getvalue())
        return samples

    def cache_key(self, body: str, engine: TimedEngine, plan: Plan) -> str:
        """Return the cache key of a deployment."""
        own = (body_facts(self.bundle, body), engine.backend, engine.threads, engine.spinning, plan, self.batch)
        return cache_key("deployment", own, *self._facts)

    @cached_property
    def _facts(self) -> tuple[object, ...]:
        """All facts that determine the teacher's samples."""
        name = next(key for key, each in self.bundle.manifest.bodies.items() if each == self.reference.body)
        conditions = self.held_out_batch(range(self.count)).conditions
        return (body_facts(self.bundle, name), self.reference_plan, self.count, digest_records(conditions))


def compile_plans(judging: DeploymentJudge, body: str, names: Sequence[str]) -> dict[str, Plan]:
    """Return the plans of a body by name: those in `names`, or the default plans. Missing fitted plans are left out.

    Raises UserError for a name that is not a plan.
    """
    bundle, guidance, shaping = judging.bundle, judging.plan.guidance, shaping_of(judging.plan)
    entry, plans = bundle.body(body), {}
    for name in names or default_plan_names(judging):
        reference = parse_plan_text(name)
        own = None if isinstance(reference, SchedulerReference | FileReference) else shaping
        try:
            plans[name] = check_compiled(plan_for(bundle, entry, reference, guidance, PlanSettings(shaping=own)))
        except UserError:
            if not isinstance(reference, FittedReference) and name in names:
                raise
    return plans


def default_plan_names(judging: DeploymentJudge) -> Iterator[str]:
    """Yield the names of the calibrated plan's solver and grid with few to many steps, then of the fitted plans.

    A distilled denoiser keeps only the calibrated plan, since it was trained for its times.
    """
    from fewstep.plans.names.plan_name import check_no_plugin, with_grid  # imports all solvers

    name = with_grid(judging.plan.name)
    check_no_plugin(name)
    if judging.teacher is None:
        yield name
    elif split_plan_name(name).has_step_count:
        yield from (with_steps(name, count) for count in STEPS)
    fitted = judging.bundle.manifest.fitted
    yield from (str(FittedReference(count)) for count in sorted({each.evaluations for each in fitted}))


def measure_deployments(
    judging: DeploymentJudge,
    body: str,
    engine: TimedEngine,
    plans: Mapping[str, Plan],
    budget: float | None,
    unit_of: Callable[[int], float],
) -> list[Deployment]:
    """Return the deployments of a body, cached or measured now.

    unit_of: returns the milliseconds of the unit for a number of threads. Plans that are estimated to exceed FAR times
        the budget are left out, except the shortest.
    """
    shortest = min(len(plan.steps) for plan in plans.values())
    each_step = (engine.milliseconds or 0.0) / len(networks(judging.bundle.manifest))
    tried = {
        name: plan
        for name, plan in plans.items()
        if budget is None or len(plan.steps) == shortest or len(plan.steps) * each_step <= FAR * budget
    }
    keys = {name: judging.cache_key(body, engine, plan) for name, plan in tried.items()}
    known = {name: read_cached(key, Deployment) for name, key in keys.items()}
    fresh = {name: plan for name, plan in tried.items() if known[name] is None}
    measured = {name: each for name, each in known.items() if each is not None}
    if fresh:
        rows = judging.batch * max_branches(judging.plan)
        ratios, is_sure = _measure_ratios(judging, body, engine, fresh)
        with load(judging.bundle.path, body=body, backend=make_backend(engine, rows)) as sampler:
            for name, plan in fresh.items():
                samples = judging.sample_plan(sampler, plan, judging.batch)
                measured[name] = Deployment(
                    body=body,
                    precision=judging.bundle.body(body).precision,
                    engine=engine,
                    plan=name,
                    evaluations=len(plan.steps),
                    milliseconds=0.0,
                    ratio=ratios[name],
                    quality=compare_samples(samples, judging.reference_samples, judging.reference_plan.name),
                    gain=_guidance_gain(judging.bundle, body, plan),
                )
                if is_sure:
                    write_cached(keys[name], measured[name])
    unit = unit_of(engine.threads)
    return [msgspec.structs.replace(measured[name], milliseconds=measured[name].ratio * unit) for name in tried]


def pareto_front(rows: Sequence[Deployment]) -> list[Deployment]:
    """Return the deployments that no other beats in both time and mean PSNR, fastest first."""
    best, kept = -np.inf, []
    for each in sorted(rows, key=lambda row: (row.milliseconds, -row.psnr)):
        if each.psnr > best:
            best = each.psnr
            kept.append(each)
    return kept


def _measure_ratios(
    judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]
) -> tuple[dict[str, float], bool]:
    """Return the time of a call along each plan as a multiple of the unit, and whether the ratios are plausible.

    They are plausible if plans with more evaluations take longer. Rounds continue until then, up to MOST_ROUNDS.
    """
    lengths = [len(plan.steps) for plan in plans.values()]

    def are_sure(rounds: Rounds[float]) -> bool:
        pairs = permutations(zip(lengths, map(median, zip(*rounds, strict=True)), strict=True), 2)
        return all(longer >= ALIKE * shorter for (few, shorter), (many, longer) in pairs if few < many)

    def until(rounds: Rounds[float]) -> bool:
        judging.progress(f"timing {body}", min(len(rounds), ROUNDS), ROUNDS)
        return len(rounds) >= ROUNDS and (are_sure(rounds) or len(rounds) >= MOST_ROUNDS)

    with open_unit_process(judging, engine.threads) as unit, _open_process(judging, body, engine, plans) as process:

        def turn(name: str) -> float:
            return process.median_milliseconds(name) / unit.median_milliseconds()

        rounds = take_turns([partial(turn, name) for name in plans], until)
    is_sure = are_sure(rounds)
    if not is_sure:
        LOG.warning(
            "times of %s do not grow with the number of evaluations, so they are not cached: end other programs", body
        )
    return {name: median(each) for name, each in zip(plans, zip(*rounds, strict=True), strict=True)}, is_sure


def measure_unit(judging: DeploymentJudge, threads: int) -> float:
    """Measure the unit in milliseconds: a call of float32's network on onnxruntime with this number of threads."""
    with open_unit_process(judging, threads) as process:
        return median(turn for (turn,) in take_turns([process.median_milliseconds], stop_after_rounds(ROUNDS)))


def open_unit_process(judging: DeploymentJudge, threads: int) -> TimedProcess:
    """Start the unit in a separate process."""
    manifest, rows = judging.bundle.manifest, judging.batch * max_branches(judging.plan)
    sizes = {"batch": rows, **default_sizes(manifest.x_shape, manifest.sizes)}
    engine = TimedEngine(REFERENCE, threads, None)
    return TimedProcess(FLOAT, partial(make_network_calls, judging.bundle.path, FLOAT, engine, sizes))


def _open_process(judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]) -> TimedProcess:
    """Start a body on an engine in a separate process, with a call for each plan."""
    seeds, rows = range(judging.batch), judging.batch * max_branches(judging.plan)
    given = (judging.bundle.path, body, engine, rows, dict(plans), seeds, judging.held_out_batch(seeds).conditions)
    return TimedProcess(body, partial(make_sampler_calls, *given))


def make_sampler_calls(
    path: Path,
    body: str,
    engine: TimedEngine,
    rows: int,
    plans: Mapping[str, Plan],
    seeds: Sequence[int],
    conditions: Mapping[str, NDArray[np.generic]],
) -> dict[str, Call]:
    """Return a call for each plan, from noise to samples. It runs in a separate process."""
    sampler = load(path, body=body, backend=make_backend(engine, rows))

    def call(plan: Plan) -> Floats:
        sampler.forget()  # as in deployment, where the conditions change with each call
        return sampler.sample(plan, seeds, conditions)

    return {name: partial(call, plan) for name, plan in plans.items()}


def _guidance_gain(bundle: Bundle, body: str, plan: Plan) -> float | None:
    """Return the share of guidance's direction that a body keeps at its worst step, as calibration measured it."""
    bodies = [bundle.select_network(name).body(body) for name in networks(bundle.manifest)]
    gains = [trial.guidance.gain for each in bodies for trial in each.trials if trial.is_chosen and trial.guidance]
    return None if plan.guidance is None else min(gains, default=None)
