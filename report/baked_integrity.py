"""Verify a file of `fewstep bake`: its checksum, its weight files, and its test vector on this machine."""

from pathlib import Path

import msgspec
import numpy as np

from fewstep.graph.bake.metadata import Baked
from fewstep.graph.bake.seal_check import (
    BAKE_AGAIN,
    compute_sample,
    damaged_weights,
    digest,
    is_whole,
    read_metadata,
    select_stored,
)
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.errors import UserError
from fewstep.report.integrity import Damage

# dB: other kernels round to more, another body does not
LEAST = {"float32": 70.0, "float16": 40.0, "bfloat16": 30.0, "int8": 30.0}
LEAST_SAME = 0.5  # of the tokens: one that differs by rounding changes some that follow


class BakedIntegrity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checks of a baked file.

    sample: what its test vector says, in words; empty where the file was not run. psnr: to the stored numbers, in dB;
    None where the sample is bitwise the stored one, or was not computed.
    """

    file: str
    holds: Baked
    damages: tuple[Damage, ...]
    sample: str = ""
    psnr: float | None = None

    @property
    def is_whole(self) -> bool:
        return not self.damages


def verify_baked(file: Path, runs: bool = True) -> BakedIntegrity:
    """Check a baked file. UserError for another file, and for one that was baked without a checksum."""
    baked = read_metadata(file)
    if is_whole(file):
        damages = [f"{name}, the weights of {file}, is missing or damaged" for name in damaged_weights(file)]
    else:  # a damaged file may not name its weights
        damages = [f"{file} is not what was baked: its checksum differs"]
    integrity = BakedIntegrity(str(file), baked, tuple(Damage(what, BAKE_AGAIN) for what in damages))
    if damages or not runs:
        return integrity
    if baked.sample is None:
        return msgspec.structs.replace(integrity, sample="note: it has no test vector, so it was not run")
    try:
        return _run_test_vector(integrity, file, baked)
    except UserError as error:
        return msgspec.structs.replace(integrity, damages=(Damage(error.what, error.fix),))


def _run_test_vector(integrity: BakedIntegrity, file: Path, baked: Baked) -> BakedIntegrity:
    """The integrity, with the verdict of the test vector on this machine."""
    assert baked.sample is not None
    output = compute_sample(file, baked)
    if digest(output) == baked.sample.sha256:
        return msgspec.structs.replace(integrity, sample="its test vector is bitwise the sample of where it was baked")
    numbers, values = select_stored(output), np.array(baked.sample.values, "f4")
    of_it = f"the sample of where it was baked, at {numbers.size} of its numbers"
    if baked.vocabulary is None:
        near = float(psnr(numbers.astype("f4")[None], values[None])[0])
        least, said, leaves = (
            LEAST[baked.precision],
            f"{near:.1f} dB from {of_it}",
            f"{LEAST[baked.precision]:g} or more",
        )
        integrity = msgspec.structs.replace(integrity, psnr=near)
    else:
        near, least = float((numbers == values).mean()), LEAST_SAME
        said, leaves = f"in {near:.0%} of its tokens {of_it}", f"{LEAST_SAME:.0%} or more"
    if near >= least:
        rounding = "kernels of this processor, or of this onnxruntime, round otherwise"
        return msgspec.structs.replace(integrity, sample=f"its test vector is {said}: {rounding}")
    fix = f"bake a body for this machine (--body; this one is {baked.precision} for {baked.target}), or try another "
    damage = Damage(f"{file} computes another sample here: {said}, and rounding leaves {leaves}", f"{fix}onnxruntime")
    return msgspec.structs.replace(integrity, damages=(damage,))
