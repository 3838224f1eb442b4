"""A deployment is a plan on a body on its fastest engine: how long a call takes, and how near its samples are.

A call goes from noise to finished samples, as a program makes it: prologue, steps and all. A body has a process of its
own, and takes turns with the unit, a call of float32's network in another one: other programs delay both alike. What is
kept is the median ratio of a plan's call to the unit. Each choice measures the unit anew, so a ratio serves under any
load.
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
from fewstep.plans.plan import Plan, with_steps
from fewstep.report.choosing.engines import REFERENCE, TimedEngine, body_facts, make_backend, make_network_calls
from fewstep.report.choosing.measurement_cache import KIND, cache_key, read_cached, write_cached
from fewstep.report.choosing.saved_choice import Deployment
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.turns import Rounds, stop_after_rounds, take_turns
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.fitted_plans import FITTED
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.planning import plan_for
from fewstep.runtime.sampling.request import PlanSettings
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")
STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16)  # of the plans that are tried by default
ROUNDS, MOST_ROUNDS = 5, 15
ALIKE = 0.98  # a plan of more evaluations may seem quicker by so little
FAR = 2.0  # times the budget: a plan that is expected to take longer is not tried

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class DeploymentJudge(JudgedReference):
    """The references of deployments. The calibrated plan has the guidance and the shaping of all. `count` seeds judge,
    and a call makes `batch` samples."""

    count: int
    batch: int
    progress: Progress = SILENT

    @property
    def reference_plan(self) -> Plan:
        """The plan whose float32 samples others are compared with: the calibrated one of a denoiser without teacher."""
        return self.teacher or self.plan

    def sample_plan(self, sampler: Sampler, plan: Plan, at_once: int) -> Floats:
        """The samples [seeds, *x_shape] of a plan."""
        parts = []
        for part in self.held_out_batch(range(self.count)).split(at_once):
            parts.append(sampler.sample(plan, part.seeds, part.conditions))
            self.progress(f"sampling {plan.name}", part.seeds[-1] + 1, self.count)
        return np.concatenate(parts)

    @cached_property
    def reference_samples(self) -> Floats:
        """The teacher's samples, made once and kept."""
        key = cache_key("teacher", *self._facts)
        if (content := cache.read_intact(KIND, key)) is not None:
            lessons: Floats = np.load(BytesIO(content), allow_pickle=False)
            return lessons
        lessons, stream = self.sample_plan(self.reference, self.reference_plan, FEW), BytesIO()
        np.save(stream, lessons)
        cache.store_intact(KIND, key, stream.getvalue())
        return lessons

    def cache_key(self, body: str, engine: TimedEngine, plan: Plan) -> str:
        """The name under which a deployment is kept."""
        own = (body_facts(self.bundle, body), engine.backend, engine.threads, engine.spinning, plan, self.batch)
        return cache_key("deployment", own, *self._facts)

    @cached_property
    def _facts(self) -> tuple[object, ...]:
        """All that the teacher's samples follow from."""
        name = next(key for key, each in self.bundle.manifest.bodies.items() if each == self.reference.body)
        conditions = self.held_out_batch(range(self.count)).conditions
        return (body_facts(self.bundle, name), self.reference_plan, self.count, digest_records(conditions))


def compile_plans(judging: DeploymentJudge, body: str, names: Sequence[str]) -> dict[str, Plan]:
    """The plans of a body by name: those in `names`, or the default ones. A fitted plan that it lacks is left out.

    UserError for a name that means no plan, on any body.
    """
    bundle, guidance, shaping = judging.bundle, judging.plan.guidance, shaping_of(judging.plan)
    entry, plans = bundle.body(body), {}
    for name in names or default_plan_names(judging):
        own = None if name.partition(":")[0] == "scheduler" or name.endswith(".json") else shaping
        try:
            plans[name] = check_compiled(plan_for(bundle, entry, name, guidance, PlanSettings(shaping=own)))
        except UserError:
            if not name.startswith(FITTED) and name in names:
                raise
    return plans


def default_plan_names(judging: DeploymentJudge) -> Iterator[str]:
    """The solver and grid of the judging's plan with few and with many steps, then the plans that were fitted. That
    plan alone for a distilled denoiser, which knows the times of its training."""
    from fewstep.plans.names.plan_name import check_no_plugin, with_grid  # all solvers: not for who only runs plans

    name = with_grid(judging.plan.name)
    check_no_plugin(name)
    steps = name.partition(":")[2].partition("@")[0]
    if judging.teacher is None:
        yield name
    elif steps.isdecimal():
        yield from (with_steps(name, count) for count in STEPS)
    fitted = judging.bundle.manifest.fitted
    yield from (f"{FITTED}{count}" for count in sorted({each.evaluations for each in fitted}))


def measure_deployments(
    judging: DeploymentJudge,
    body: str,
    engine: TimedEngine,
    plans: Mapping[str, Plan],
    budget: float | None,
    unit_of: Callable[[int], float],
) -> list[Deployment]:
    """The deployments of a body, those that are kept already and those that are measured now.

    unit_of: the milliseconds of the unit, by threads. Plans that would take FAR times the budget by the engine's time
        of a network's call are left out, but the shortest.
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
    """The deployments that no other beats in both time and mean PSNR, the quickest first."""
    best, kept = -np.inf, []
    for each in sorted(rows, key=lambda row: (row.milliseconds, -row.psnr)):
        if each.psnr > best:
            best = each.psnr
            kept.append(each)
    return kept


def _measure_ratios(
    judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]
) -> tuple[dict[str, float], bool]:
    """A call along each plan, as a multiple of the unit, and whether the ratios can be: a plan of more evaluations
    takes longer. Rounds go on until they can, up to MOST_ROUNDS."""
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
        LOG.warning("times of %s do not grow with their evaluations, so none is kept: another program runs", body)
    return {name: median(each) for name, each in zip(plans, zip(*rounds, strict=True), strict=True)}, is_sure


def measure_unit(judging: DeploymentJudge, threads: int) -> float:
    """The milliseconds of the unit now: a call of float32's network on onnxruntime, with so many threads."""
    with open_unit_process(judging, threads) as process:
        return median(turn for (turn,) in take_turns([process.median_milliseconds], stop_after_rounds(ROUNDS)))


def open_unit_process(judging: DeploymentJudge, threads: int) -> TimedProcess:
    """The unit in a process of its own."""
    manifest, rows = judging.bundle.manifest, judging.batch * max_branches(judging.plan)
    sizes = {"batch": rows, **default_sizes(manifest.x_shape, manifest.sizes)}
    engine = TimedEngine(REFERENCE, threads, None)
    return TimedProcess(FLOAT, partial(make_network_calls, judging.bundle.path, FLOAT, engine, sizes))


def _open_process(judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]) -> TimedProcess:
    """A body on an engine, with a call for each plan."""
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
    """A call along each plan, from noise to samples: for a process of its own."""
    sampler = load(path, body=body, backend=make_backend(engine, rows))

    def call(plan: Plan) -> Floats:
        sampler.forget()  # a caller brings other conditions each time
        return sampler.sample(plan, seeds, conditions)

    return {name: partial(call, plan) for name, plan in plans.items()}


def _guidance_gain(bundle: Bundle, body: str, plan: Plan) -> float | None:
    """The share of guidance's direction that a body keeps at its worst step, as its calibration measured it."""
    bodies = [bundle.select_network(name).body(body) for name in networks(bundle.manifest)]
    gains = [trial.guidance.gain for each in bodies for trial in each.trials if trial.is_chosen and trial.guidance]
    return None if plan.guidance is None else min(gains, default=None)
