"""The quality of samples that the int8 bodies of all networks make together.

Each network is judged alone, with the others in float32, so that its figures are its own. A run has all of them in
int8, and their errors add up.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from fewstep.calibration.commit import CalibratedNetwork
from fewstep.calibration.task import Task
from fewstep.graph.files.commit import open_for_update
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.end_quality import compare_samples
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SeedBatch
from fewstep.plans.any_plan import check_compiled, regroup
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.figures import Together
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import common_bodies, edges_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.loading import load_body
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")


def judge_together(task: Task, denoiser: CalibratedNetwork) -> tuple[Manifest, CalibratedNetwork]:
    """Judge the samples of a calibrated denoiser's bodies with all networks in int8, and store the figures in their
    trials. Return the manifest, and the denoiser with these bodies. A warning names a body that cannot be judged: the
    bodies are in the bundle already, and keep the figures of each network.

    task: the denoiser's, of a bundle with several networks.
    """
    with open_for_update(task.sampler.bundle.path, must_exist=True, verb="calibrate") as writer:
        assert writer.opened is not None, "the bundle exists"
        bundle, manifest = writer.opened, writer.opened.manifest
        if not manifest.space.has_squared_error:
            return manifest, denoiser
        judged = dict(denoiser.bodies)
        reference = _sample(task, load_body(bundle, "float32", LazyOnnxRuntime(threads=task.threads)))
        for name in judged.keys() & common_bodies(manifest).keys():
            try:
                together, body = _judge(task, bundle, name, reference), judged[name]
            except UserError as error:
                LOG.warning("not judged with all networks in int8: %s", error)
                continue
            trials = tuple(structs.replace(trial, together=together) for trial in body.trials)
            judged[name] = structs.replace(body, trials=trials)
        bodies = {**manifest.bodies, **judged}
        return writer.commit(structs.replace(manifest, bodies=bodies)), replace(denoiser, bodies=judged)


def _judge(task: Task, bundle: Bundle, name: str, reference: Sequence[Floats]) -> Together:
    """Return the quality of a body's samples. Raises UserError if one is not finite."""
    samples = _sample(task, open_body(bundle, name, task.threads), edges_of(bundle.manifest, name))
    quality = compare_samples(list(zip(samples, reference, strict=True)), f"float32, {task.plan.name}")
    if not np.isfinite(quality.values).all():
        raise UserError(f"samples of {name} with all networks in int8 are not finite", "calibrate for another --target")
    snr, unrelated = (None if decibels is None else round(decibels, 2) for decibels in (quality.snr, quality.unrelated))
    return Together(round(quality.mean, 2), round(quality.p5, 2), quality.seeds, snr, unrelated)


def _sample(task: Task, sampler: Sampler, edges: Mapping[str, tuple[float, ...]] | None = None) -> list[Floats]:
    """Return the samples of the seeds on which bodies are judged, in batches of one size."""
    plan = check_compiled(task.plan if edges is None else regroup(task.plan, edges))
    seeds, manifest = BODY_SEEDS[: len(task.seeds)], sampler.bundle.manifest
    alike = with_row_by_row_body(sampler) if task.is_large else sampler
    batches = SeedBatch.split_by_size(manifest, seeds, task.judging.records, len(seeds))
    return [batch.at_size(alike).sample(plan, batch.seeds, batch.conditions) for batch in batches]
