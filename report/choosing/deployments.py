"""Measure deployments. A deployment is a plan, run by a body on its fastest engine, with the time of a call and the
quality of its samples.

A call is a whole sampling run, from noise to finished samples, including the prologue. A body runs in a separate
process, in turns with the unit of time, which is one call of float32's network in another process. Both times are those
of calls that other programs did not delay (`deployment_times.py`). The cache stores the median ratio of a plan's call
to the unit. Each choice measures the unit again, so a cached ratio remains valid. One that was measured on a busy
machine is measured again as soon as the machine is idle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from fewstep.measure.estimate import BUSY, measure_load
from fewstep.measure.rollouts.end_quality import compare_samples
from fewstep.measure.rollouts.prompts import records_of_body
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.deployment_times import measure_ratios
from fewstep.report.choosing.engines import TimedEngine, make_backend
from fewstep.report.choosing.measurement_cache import read_cached, write_cached
from fewstep.report.choosing.saved_choice import Deployment, today
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.loading import load_body

LEAST_GAIN = 0.1  # dB: the last digit of the table, and less than the samples decide


def measure_deployments(
    judging: DeploymentJudge,
    body: str,
    engine: TimedEngine,
    tried: Mapping[str, Plan],
    unit_of: Callable[[int], float],
) -> list[Deployment]:
    """Return the deployments of a body, cached or measured now.

    unit_of: returns the milliseconds of the unit for a number of threads.
    """
    keys = {name: judging.cache_key(body, engine, plan) for name, plan in tried.items()}
    cached = {name: read_cached(key, Deployment) for name, key in keys.items()}
    measured = {name: row for name, row in cached.items() if row is not None}
    is_idle = not all(row.is_sure for row in measured.values()) and measure_load(engine.threads) < BUSY
    timed = {
        name: plan for name, plan in tried.items() if name not in measured or (is_idle and not measured[name].is_sure)
    }
    if timed:
        ratios, is_sure = measure_ratios(judging, body, engine, timed)
        fresh = {name: plan for name, plan in timed.items() if name not in measured}
        measured |= _judge_plans(judging, body, engine, fresh) if fresh else {}
        for name in timed:
            measured[name] = msgspec.structs.replace(measured[name], ratio=ratios[name], is_sure=is_sure, day=today())
            write_cached(keys[name], measured[name])
    unit = unit_of(engine.threads)
    return [msgspec.structs.replace(measured[name], milliseconds=measured[name].ratio * unit) for name in tried]


def _judge_plans(
    judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]
) -> dict[str, Deployment]:
    """Return the deployments of a body along plans with their quality, and without times."""
    judged = dict[str, Deployment]()
    with load_body(judging.bundle, body, make_backend(engine, judging.most_rows)) as sampler:
        records = records_of_body(judging.bundle, body, judging.records, judging.prompts)
        as_run = replace(judging, records=records)
        for name, plan in plans.items():
            samples = as_run.sample_plan(sampler, plan, judging.batch)
            judged[name] = Deployment(
                body=body,
                precision=judging.bundle.body(body).precision,
                engine=engine,
                plan=name,
                evaluations=len(plan.steps),
                milliseconds=0.0,
                ratio=0.0,
                quality=compare_samples(
                    list(zip(samples, judging.reference_samples, strict=True)), judging.reference_plan.name
                ),
                gain=_guidance_gain(judging.bundle, body, plan),
                judged=None if judging.judge is None else judging.judge.judge(judging.pair(samples)),
            )
    return judged


def pareto_front(
    rows: Sequence[Deployment], time: Callable[[Deployment], float] = lambda row: row.milliseconds
) -> list[Deployment]:
    """Return the deployments that no other beats in both time and quality, fastest first. Quality is the mean PSNR or,
    with a judge, its score, where the PSNR decides between equal scores. A PSNR is better if it is more than
    `LEAST_GAIN` larger."""
    front = list[Deployment]()
    for deployment in sorted(sorted(rows, key=lambda row: row.rank, reverse=True), key=time):
        if not front or _is_better(deployment, front[-1]):
            front.append(deployment)
    return front


def _is_better(deployment: Deployment, other: Deployment) -> bool:
    (score, psnr), (other_score, other_psnr) = deployment.rank, other.rank
    return score > other_score or (score == other_score and psnr - other_psnr > LEAST_GAIN)


def _guidance_gain(bundle: Bundle, body: str, plan: Plan) -> float | None:
    """Return the fraction of the guidance difference that a body preserves, at the step where it is smallest, as
    measured by the calibration. None if the plan has no guidance, or if it was not measured."""
    bodies = [bundle.select_network(name).body(body) for name in networks(bundle.manifest)]
    gains = [trial.guidance.gain for body in bodies for trial in body.trials if trial.is_chosen and trial.guidance]
    return None if plan.guidance is None else min(gains, default=None)
