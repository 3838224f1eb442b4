"""Verify a file of `fewstep bake`: its checksum, its weight files, and its test vector on this machine."""

from pathlib import Path

import msgspec
import numpy as np

from fewstep.graph.bake.metadata import Baked
from fewstep.graph.bake.seal_check import (
    BAKE_AGAIN,
    compute_sample,
    digest,
    find_damaged_weights,
    is_whole,
    read_metadata,
    select_stored,
)
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.errors import UserError
from fewstep.report.integrity import Damage
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY

# dB: limits that rounding in other kernels does not fall below, but another body does
LEAST: dict[str, float] = {
    "float32": 70.0,
    "float16": 40.0,
    "bfloat16": 30.0,
    "int8": 30.0,
    **dict.fromkeys(WEIGHTS_ONLY, 30.0),
}
LEAST_SAME = 0.5  # share of the tokens, since a token that differs by rounding changes some later ones


class BakedIntegrity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checks of a baked file.

    sample: the result of its test vector, as text; empty if the file was not run.
    psnr: PSNR in dB against the stored numbers; None if the sample is bitwise identical, or was not computed.
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
    """Check a baked file. Raises UserError for any other file, and for a file that was baked without a checksum."""
    baked = read_metadata(file)
    if is_whole(file):
        damages = [f"{name}, the weights of {file}, is missing or damaged" for name in find_damaged_weights(file)]
    else:  # a damaged file may not name its weights
        damages = [f"{file} changed since it was baked: its checksum differs"]
    integrity = BakedIntegrity(str(file), baked, tuple(Damage(what, BAKE_AGAIN) for what in damages))
    if damages or not runs:
        return integrity
    if baked.sample is None:
        return msgspec.structs.replace(integrity, sample="note: the file has no test vector, so it was not run")
    try:
        return _run_test_vector(integrity, file, baked)
    except UserError as error:
        return msgspec.structs.replace(integrity, damages=(Damage(error.what, error.fix),))


def _run_test_vector(integrity: BakedIntegrity, file: Path, baked: Baked) -> BakedIntegrity:
    """Return the integrity with the result of the test vector on this machine."""
    assert baked.sample is not None
    output = compute_sample(file, baked)
    if digest(output) == baked.sample.sha256:
        same = "its test vector is bitwise identical to the sample of the baking machine"
        return msgspec.structs.replace(integrity, sample=same)
    numbers, values = select_stored(output), np.array(baked.sample.values, "f4")
    stored = f"the sample of the baking machine, compared at {numbers.size} numbers"
    if baked.vocabulary is None:
        near, least = float(psnr(numbers.astype("f4")[None], values[None])[0]), LEAST[baked.precision]
        result, limit = f"{near:.1f} dB PSNR against {stored}", f"{least:g} dB or more"
        integrity = msgspec.structs.replace(integrity, psnr=near)
    else:
        near, least = float((numbers == values).mean()), LEAST_SAME
        result, limit = f"{near:.0%} of the tokens equal {stored}", f"{LEAST_SAME:.0%} or more"
    if near >= least:
        rounding = "the kernels of this processor or onnxruntime version round differently"
        return msgspec.structs.replace(integrity, sample=f"its test vector: {result}; {rounding}")
    fix = f"bake a body for this machine (--body; this file has {baked.precision} for {baked.target}), or try another "
    damage = Damage(
        f"{file} computes a different sample here: {result}; rounding alone leaves {limit}", f"{fix}onnxruntime version"
    )
    return msgspec.structs.replace(integrity, damages=(damage,))
