"""Seal a baked file: run it once for a test vector, and write the test vector and a checksum into its metadata."""

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

from fewstep.graph.bake.draws import DRAWN
from fewstep.graph.bake.example_inputs import choose_fill
from fewstep.graph.bake.metadata import NO_CHECKSUM, Baked, BakedSample, encode_metadata
from fewstep.graph.bake.seal_check import BAKE_AGAIN, MARK, compute_sample, digest, select_stored
from fewstep.graph.files import io
from fewstep.graph.resource_needs import GB
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.memory import this_space

LOG = logging.getLogger("fewstep")

SEED = 0  # seed of the first row
HELD = 2  # copies of the weights that onnxruntime holds for a float network in loops
LONGEST = 120.0  # seconds on one thread; a file that takes longer gets no test vector


def seal(files: Sequence[Path], baked: Baked, sizes: Mapping[str, int]) -> Baked:
    """Run a newly written file, and write its sample and its checksum into its metadata. Return the updated
    description.

    files: the file, then its weights. sizes: axis sizes of one call, by name.
    """
    file = files[0]
    fills = {port.name: choose_fill(port, baked) for port in baked.inputs if port.meaning not in DRAWN}
    vector = BakedSample(SEED, dict(sizes), fills, "", ())
    try:
        _check_memory(files)
        output = compute_sample(file, msgspec.structs.replace(baked, sample=vector), LONGEST)
        values = tuple(float(f"{value:.7g}") for value in select_stored(output))
        vector = msgspec.structs.replace(vector, sha256=digest(output), values=values)
        baked = msgspec.structs.replace(baked, sample=vector)
    except UserError as error:  # a limit of this machine or engine; a wrong backbone was refused before
        LOG.warning("the file has no test vector: %s", error.what)
    io.set_metadata(file, encode_metadata(baked))
    content = file.read_bytes()
    checksum = sha256(content).hexdigest()
    zeros, digits = (MARK + digits.encode() for digits in (NO_CHECKSUM, checksum))
    file.write_bytes(content.replace(zeros, digits, 1))
    return msgspec.structs.replace(baked, file_sha256=checksum)


def _check_memory(files: Sequence[Path]) -> None:
    """Raise UserError if a run needs more memory than is free: the system would kill this process."""
    needed, free = HELD * sum(file.stat().st_size for file in files), this_space(*[files[0].parent] * 2).memory_free
    if free is not None and needed > free:
        raise UserError(
            f"a run takes about {needed / GB:.1f} GB of memory, and {free / GB:.1f} GB are free", BAKE_AGAIN
        )
