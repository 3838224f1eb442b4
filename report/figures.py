"""The measurements on a page: those of `measure`, and the results of calibration for each body."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from itertools import chain
from typing import Any

import msgspec
from numpy.typing import NDArray

from fewstep.calibration.calibration_settings import describe_judged_differences
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.measure.bodies import find_excluded_bodies, int8_bodies
from fewstep.measure.measurement import MeasureTask, run_measurement
from fewstep.measure.results import BodyCoverage, Results
from fewstep.measure.rollouts.record_sizes import places_of_one_size, stack_rows
from fewstep.measure.rollouts.seeds import describe_conditions
from fewstep.measure.speed.mean_step import int8_share
from fewstep.plans.plan import Plan
from fewstep.report.call_figures import collect_call_figures, decode_samples, why_not_shown
from fewstep.report.operations import float_operations, operation_coverage, unseen_tensors
from fewstep.report.sections.joints import joint_errors
from fewstep.report.sections.samples import Samples
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.platforms import platform_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.unsuited_bodies import describe_losses
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")


def collect_figures(
    task: MeasureTask, progress: Progress = SILENT, workers: Executor | None = None
) -> tuple[Results, Samples | None]:
    """Measure everything that a bundle's report shows. Return the results, and the samples, or None for tokens.

    workers: the caller's worker processes, to use instead of those that the task would start.
    """
    bundle, manifest, judged = task.bundle, task.bundle.manifest, task.judged
    results, judgements = run_measurement(task, progress, workers)
    assert judged is not None and judgements is not None  # a report always judges
    prepared = {
        name: io.load(bundle.graph(judged.reference.network(name).body.graph), root=bundle.path)
        for name in networks(manifest)
    }
    bodies = judgements.bodies
    results = msgspec.structs.replace(
        results,
        covered=tuple(
            chain.from_iterable(
                network_coverages(bundle, prepared, *plan_of_network) for plan_of_network in judged.plans.items()
            )
        ),
        made=manifest.provenance.commands,
        unlike=describe_judged_differences(bundle, int8_bodies(bundle), task.plan),
    )
    if not manifest.space.has_squared_error:  # nor errors of joints or pictures of samples
        return msgspec.structs.replace(results, calls=collect_call_figures(bundle, judged.plans, None)), None
    places = places_of_one_size(judgements.reference.samples)  # pictures and errors of joints need one

    def select(samples: NDArray[Any]) -> NDArray[Any]:  # a set may have fewer seeds
        return stack_rows(samples[places[places < len(samples)]])

    drawn = {name: (select(body.samples), select(body.reference)) for name, body in bodies.items()}
    joints = {name: joint_errors(manifest, *both) for name, both in drawn.items()}
    qualities = tuple(msgspec.structs.replace(quality, joints=joints[quality.body]) for quality in results.qualities)
    samples = Samples(
        teacher=select(judgements.teacher),
        reference=select(judgements.reference.samples),
        bodies=drawn,
        labels=[describe_conditions(manifest, seed, judged.records) for seed in places.tolist()],
        reason=why_not_shown(manifest),
    )
    pictures = decode_samples(bundle, samples)
    calls = collect_call_figures(bundle, judged.plans, pictures)
    return msgspec.structs.replace(results, qualities=qualities, calls=calls), pictures or samples


def list_excluded_bodies(bundle: Bundle) -> Iterator[str]:
    """Yield a sentence for each body that was not compared with float32, with the reason. It is also logged as a
    warning."""
    for name, error in find_excluded_bodies(bundle).items():
        # a page may be published, so it contains no path of this machine
        sentence = f"Not judged: {name}, because {error.what.replace(f'{bundle.path}: ', '')}."
        LOG.warning("%s", sentence)
        yield sentence


def network_coverages(bundle: Bundle, prepared: Mapping[str, Graph], name: str, plan: Plan) -> Iterator[BodyCoverage]:
    """Yield the int8 coverage of a body along its plan for each network, as calibration counted it, with the operations
    of the prepared graph."""
    for network, graph in prepared.items():
        own = bundle.select_network(network)
        body, coverage = own.body(name), own.body(name).graph.coverage
        if coverage is not None and coverage.total_macs > 0:  # otherwise the manifest was edited
            share = int8_share(body, plan, network)
            steps = sum(step.network == network for step in plan.steps)
            seen = operation_coverage(graph, name, coverage, unseen_tensors(own, body), float_operations(body))
            yield msgspec.structs.replace(
                seen, network=network, share=seen.share if share is None else share, work=steps * coverage.total_macs
            )


def machine_notes(bodies: Iterable[Body]) -> Iterator[str]:
    """Yield notes about the bodies and about this machine that are needed to interpret the measurements correctly."""
    bodies = tuple(bodies)
    for platform in filter(None, (platform_of(body.target, body.platform) for body in bodies)):
        yield from (f"{platform.name}: {note}." for note in platform.notes)
    yield from (f"{loss}." for loss in describe_losses(bodies))


def plan_notes(plans: Mapping[str, Plan]) -> Iterator[str]:
    """Yield a note if the bodies have different plans."""
    first = next(iter(plans.values()))
    if own := [name for name, plan in plans.items() if plan != first]:
        others = ", ".join(own)
        yield f"{others}: {first.name} was fitted to each separately; float32 runs the same plan for comparison."
