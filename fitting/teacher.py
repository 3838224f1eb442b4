"""The samples of a fit's teacher, block by block, kept for the next run."""

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

import fewstep.fitting
from fewstep.fitting.blocks import Block, digest
from fewstep.fitting.rollouts import Rollouts
from fewstep.machine import cache
from fewstep.machine.code_digest import code_of
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.execute import Array
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler
from fewstep.workers.kind import this_kind

LOG = logging.getLogger("fewstep")
PACKAGES = (fewstep.fitting,)  # whose code a fit follows from, beside the packages of `this_kind`


def taught(
    rolled: Rollouts, plan: Plan, blocks: Sequence[Block], stage: str = "teacher", progress: Progress = SILENT
) -> tuple[Block, ...]:
    """The blocks with the teacher's samples as their targets."""
    known = [_kept(rolled.reference, plan, block) for block in blocks]
    made = rolled.samples(plan, [b for b, kept in zip(blocks, known, strict=True) if kept is None], of_teacher=True)
    found: list[Block] = []
    for block, kept in zip(blocks, known, strict=True):
        target = kept if kept is not None else _keep(rolled.reference, plan, block, next(made))
        found.append(replace(block, target=target))
        progress(stage, len(found), len(blocks))
    return tuple(found)


def identity(sampler: Sampler) -> bytes:
    """A digest of everything that the samples of a bundle's body follow from: its files, fewstep's code, onnxruntime's
    version and the processor."""
    manifest, body = sampler.bundle.manifest, sampler.body
    graphs = [body.graph, *(stage.graph for stage in body.stages), manifest.prologue, manifest.conditioner]
    files = [file for graph in graphs if graph is not None for file in (graph.file, *graph.data)]
    files += [condition.null_file for condition in manifest.conditions if condition.null_file is not None]
    hashes = [manifest.files.get(file) for file in files]
    known = (manifest.x_shape, manifest.conditions, hashes, this_kind(), code_of(PACKAGES))
    return sha256(repr(known).encode()).digest()


def _kept(sampler: Sampler, plan: Plan, block: Block) -> Array | None:
    """The teacher's samples of a block from the cache folder, if they are there."""
    content = cache.read("fitting", _name(sampler, plan, block))
    if content is None:
        return None
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.shape == (len(block.seeds), *block.x_shape) and array.dtype == np.float32:
            return np.asarray(array)
    except (ValueError, EOFError, OSError) as error:
        LOG.warning("a teacher's samples of an earlier fit cannot be read (%s): they are made again", error)
    return None


def _keep(sampler: Sampler, plan: Plan, block: Block, made: Array) -> Array:
    if not np.isfinite(made).all():
        raise UserError(f"the teacher {plan.name} left the numbers", "give another one: --teacher SOLVER:STEPS")
    buffer = io.BytesIO()
    np.save(buffer, made)
    cache.store("fitting", _name(sampler, plan, block), buffer.getvalue())
    return made


def _name(sampler: Sampler, plan: Plan, block: Block) -> str:
    return sha256(identity(sampler) + encode(plan) + digest(block)).hexdigest()[:32] + ".npy"
