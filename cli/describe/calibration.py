"""The bodies of a calibration as text and as values: coverage, quality on samples, precision search."""

import logging
from collections.abc import Iterator
from typing import Any

from fewstep.calibration.calibrate import Calibration
from fewstep.calibration.cost import Cost
from fewstep.calibration.lowering.targets import usual_targets
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision.precision_search import SearchResult
from fewstep.cli.describe.trials import describe_trials
from fewstep.cli.describe.untaken_body import describe_ways_to_run
from fewstep.cli.outcome import pluralize
from fewstep.graph.resource_needs import format_duration
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.rollouts.nearness import Nearness, clip_hint, leaves_range
from fewstep.measure.rollouts.output_differences import CONDITION, describe_difference, is_lost
from fewstep.measure.rollouts.recorded_run import AT_ONCE
from fewstep.measure.rollouts.seeds import JUDGE_SEEDS
from fewstep.measure.speed.mean_step import int8_share
from fewstep.measure.workers.setup import WorkerSetup, describe_shared_work
from fewstep.plans.guidance import describe
from fewstep.plans.names.plan_reference import FileReference
from fewstep.plans.plan import DENOISER
from fewstep.report.float_body import describe_shared_graphs, float_reason
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY
from fewstep.runtime.bundle.unsuited_bodies import describe_saturation
from fewstep.runtime.machine.gpu import these_gpus

LOG = logging.getLogger("fewstep")


def warn_of_losses(options: CalibrateOptions, calibration: Calibration) -> None:
    """Log a warning for each body whose samples leave the range of the data, which a clip may prevent, and for each
    body that loses the effect of a condition."""
    for made in (calibration, *calibration.others.values()):
        for name in made.lowered:
            for trial in made.bodies[name].trials:
                near = Nearness(trial.psnr, trial.snr, trial.unrelated, trial.beyond)
                is_said = trial.beyond is not None  # by the verdict
                if not is_said and leaves_range(near, calibration.manifest, options.clip is not None):
                    LOG.warning("%s: %s", name, clip_hint(calibration.manifest))
                if trial.condition is not None and is_lost(trial.condition):
                    LOG.warning("%s loses the %s: %s", name, CONDITION, describe_difference(trial.condition))


def describe_calibration(options: CalibrateOptions, calibration: Calibration) -> dict[str, Any]:
    """Return the bodies of all networks and their results as a dictionary, for --json."""
    value: dict[str, Any] = {
        "bundle": options.bundle,
        "plan": calibration.plan.name,
        "guidance": describe(calibration.plan.guidance),
        "bodies": _describe_bodies(calibration),
    }
    if calibration.others:
        value["networks"] = {name: _describe_bodies(other, name) for name, other in calibration.others.items()}
    return value


def _describe_bodies(calibration: Calibration, network: str = DENOISER) -> dict[str, Any]:
    return {
        name: {
            "coverage": calibration.bodies[name].graph.coverage,
            "int8_share": int8_share(calibration.bodies[name], calibration.plan, network),
            "graphs": len(calibration.bodies[name].graphs),
            "groups": len(lowered.groups) + 1,
            "notes": lowered.notes,
            "trials": calibration.bodies[name].trials,
            "in_float32": calibration.bodies[name].reasons,
            **_search_quality(calibration.searches.get(name)),
        }
        for name, lowered in calibration.lowered.items()
    }


def _describe_default_target(options: CalibrateOptions) -> Iterator[str]:
    """Yield a line on a target that was not asked for, and that does not run on this machine."""
    here, other = usual_targets()
    if not options.target and not these_gpus():
        yield f"{other} is made by default, for a GPU elsewhere: --target {here} leaves it out"


def describe_search_cost(search: int | None, seconds: float) -> Iterator[str]:
    """Yield the cost of the precision search. `seconds` is the time of an evaluation of AT_ONCE samples."""
    if search is not None:
        yield (
            f"the search for operations that stay in float takes about {search} evaluations of {AT_ONCE} samples, "
            f"{format_duration(search * seconds)} at float32's speed"
        )


def describe_preparation(cost: Cost, setup: WorkerSetup) -> Iterator[str]:
    """Yield a line on the time of the work besides evaluations: what was measured, what was estimated from the size of
    a large network, or that it is unknown. A second line says that workers share it."""
    yield from describe_shared_work(setup)
    more = cost.estimate.preparation
    if cost.recording is not None:
        yield f"recording activations and rounding weights takes about {format_duration(more)} more, as measured now"
    elif more:
        yield (
            f"opening the network and rounding its weights takes about {format_duration(more)}; how much longer "
            "recording takes than an evaluation is not known"
        )
    else:
        yield "recording activations and rounding weights takes a few seconds more, which were not measured"


def calibration_lines(options: CalibrateOptions, calibration: Calibration, network: str = DENOISER) -> Iterator[str]:
    for other_name, other in calibration.others.items():
        yield f"network {other_name}, judged with the others in float32:"
        yield from calibration_lines(options, other, other_name)
    if calibration.others:
        yield f"network {calibration.manifest.component or DENOISER}, judged with the others in float32:"
    for name, lowered in calibration.lowered.items():
        body = calibration.bodies[name]
        coverage = body.graph.coverage or lowered.coverage
        share = int8_share(body, calibration.plan, network) or 0.0
        last = " (of the last steps)" if len(body.graphs) > 1 else ""
        if body.precision in WEIGHTS_ONLY:
            along = f"{calibration.plan.name}, {_describe_guidance(options, calibration)}"
            yield f"{options.bundle}: {name}, {lowered.notes[0]}, rounded along {along}"
            yield from (
                f"  judged by samples: {line}" for line in describe_trials(body.trials, precision=body.precision)
            )
            yield from (f"  {line}" for line in describe_shared_graphs(calibration.manifest, body))
            continue
        yield (
            f"{options.bundle}: {name}, {len(coverage.int8_ops)} of "
            f"{len(coverage.int8_ops) + len(coverage.float_ops)} weighted operations{last} and "
            f"{100 * share:.1f} % of the body's MACs in int8, "
            f"{pluralize(len(lowered.groups) + 1, 'group')} of ranges along {calibration.plan.name}, "
            f"{_describe_guidance(options, calibration)}"
        )
        search = calibration.searches.get(name)
        if search is not None:
            yield f"  {describe_search(search, options.quality is not None)}"
        elif len(body.graphs) > 1:
            yield f"  graphs: {len(body.graphs)}, each with ranges of its own steps"
        reason = float_reason(calibration.manifest, body, share if body.graph.coverage else None)
        yield from (f"  judged by samples: {line}" for line in describe_trials(body.trials, reason))
        if (included := describe_saturation(body)) is not None:
            yield f"  {included}"
        yield from (f"  {line}" for line in describe_shared_graphs(calibration.manifest, body))
        for note in lowered.notes:
            yield f"  {note}"
    if network == DENOISER:
        yield from _describe_default_target(options)
        yield from describe_ways_to_run(calibration.manifest, calibration.lowered)


def _describe_guidance(options: CalibrateOptions, calibration: Calibration) -> str:
    """Return a text about the guidance along which ranges were measured, which later runs use by default. It says if
    the calibration itself took it by default."""
    guidance = calibration.plan.guidance
    is_default = options.guidance is None and guidance is not None and not isinstance(options.plan, FileReference)
    return f"guidance {describe(guidance)}{' by default' * is_default}"


def _search_quality(search: SearchResult | None) -> dict[str, float | None]:
    """Return the PSNR in dB, on seeds that the search did not use, of the deployed body and of the body without a
    bound. The values are None if there was no search."""
    deployed, unbounded = (None, None) if search is None else (search.judged, search.unbounded)
    return {
        "judged_psnr": None if deployed is None else deployed.mean,
        "standard_error": None if deployed is None else deployed.standard_error,
        "without_bound_psnr": None if unbounded is None else unbounded.mean,
        "without_bound_standard_error": None if unbounded is None else unbounded.standard_error,
    }


def describe_search(search: SearchResult, had_to_pass: bool) -> str:
    """Return a sentence that compares the deployed body with the body that no bound would select, by quality and speed
    on seeds that the search did not use.

    had_to_pass: whether the deployed body was selected because it met the bound on these seeds.
    """
    point, unbounded, float_time = search.point, search.unbounded, search.float_time
    on = f"on {len(JUDGE_SEEDS)} seeds that the search did not use"
    speeds = [f" at {float_time / time:.2f}x its speed" * point.time_is_measured for time in (point.time, 1.0)]
    others = f"without a bound {_format_quality(unbounded)}{speeds[1]}"
    if search.recipe.is_float:
        return f"float32 itself; {on} {others}"
    on += ", but on which it had to meet the bound," * had_to_pass
    count = pluralize(point.count, "operation")
    more = ", with more operations in float" if point.count < search.unbounded_count else ""
    return f"{count} in float; {on} {_format_quality(search.judged)} from float32{speeds[0]}; {others}{more}"


def _format_quality(judged: EndQuality) -> str:
    return f"{judged.mean:.1f} +/- {judged.standard_error:.1f} dB"
