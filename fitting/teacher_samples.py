"""The samples of a fit's teacher, cached block by block in the user's cache folder."""

import io
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from fewstep.fitting.blocks import Block, digest_block
from fewstep.fitting.rollouts import TEACHER, FitSampler
from fewstep.measure.workers.code_digest import arithmetic_facts, code_digest
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.machine import cache
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execute import Array
from fewstep.runtime.sampling.sampler import Sampler


def add_teacher_samples(
    rolled: FitSampler, plan: Plan, blocks: Sequence[Block], stage: str = "teacher", progress: Progress = SILENT
) -> tuple[Block, ...]:
    """Return the blocks with the teacher's samples as targets. Raises UserError if they are not finite."""
    facts = digest_sampler(rolled.reference) + encode(plan)
    names = [sha256(facts + digest_block(block)).hexdigest()[:32] + ".npy" for block in blocks]
    files = [cache.read_intact("fitting", name) for name in names]
    missing = [block for block, file in zip(blocks, files, strict=True) if file is None]
    fresh = rolled.sample_blocks(plan, missing, by=TEACHER)
    complete: list[Block] = []
    for block, name, file in zip(blocks, names, files, strict=True):
        samples = next(fresh) if file is None else np.load(io.BytesIO(file), allow_pickle=False)
        if file is None:
            _store(name, plan, samples)
        complete.append(replace(block, target=samples))
        progress(stage, len(complete), len(blocks))
    return tuple(complete)


def digest_sampler(sampler: Sampler) -> bytes:
    """Return a digest of everything that determines the samples of a bundle's body: its files, fewstep's code, the
    version of onnxruntime and the processor."""
    manifest, networks = sampler.bundle.manifest, sampler.denoiser.networks.values()
    upstream = [
        graph
        for network in networks
        for graph in (network.bundle.manifest.prologue, network.bundle.manifest.conditioner)
    ]
    graphs = [*(graph for network in networks for graph in network.body.graphs), *filter(None, upstream)]
    facts = (manifest.x_shape, manifest.conditions, manifest.digests(graphs), arithmetic_facts(), code_digest())
    return sha256(repr(facts).encode()).digest()


def _store(name: str, plan: Plan, samples: Array) -> None:
    if not np.isfinite(samples).all():
        raise UserError(f"samples of the teacher {plan.name} are not finite", "name another by --teacher SOLVER:STEPS")
    buffer = io.BytesIO()
    np.save(buffer, samples)
    cache.store_intact("fitting", name, buffer.getvalue())
