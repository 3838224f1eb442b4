"""Valid inputs of a baked run, for its test vector and to find the shapes of its tensors."""

from collections.abc import Mapping

import numpy as np

from fewstep.graph.bake.carried import PORT
from fewstep.graph.bake.metadata import TOKENS, Baked, BakedPort
from fewstep.graph.graph import Array
from fewstep.plans.errors import UserError

FILL = 0.5  # the number that fills inputs of floats


def example_inputs(baked: Baked, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return an array for each input of a baked file with these free sizes, filled with one valid number. Noise and
    uniform random numbers are filled with FILL. Raises UserError for a free size that is not in `sizes`."""
    inputs = {}
    for port in baked.inputs:
        shape = [sizes.get(size, size) if isinstance(size, str) else size for size in port.shape]
        if free := [size for size in shape if isinstance(size, str)]:
            raise UserError(f"the input {port.name!r} has the free size {free[0]!r}", "bake without --parts")
        inputs[port.name] = np.full([int(size) for size in shape], choose_fill(port, baked), port.dtype)
    return inputs


def choose_fill(port: BakedPort, baked: Baked) -> float:
    """Return the number with which an example input is filled: 0 for carried tensors, -1 for known tokens (none is
    known), 1 for booleans and masks of ids, the lowest valid integer (0 without a limit) for other integers, and
    otherwise FILL, clipped to the limits of the condition."""
    condition = next((condition for condition in baked.conditions if condition.name == port.name), None)
    low, high = (None, None) if condition is None else (condition.low, condition.high)
    if port.meaning in (PORT, TOKENS):
        return 0.0 if port.meaning == PORT else -1.0
    if port.dtype == "bool":  # a number in between is true in numpy, and false in an array of bytes
        return 1.0
    if np.issubdtype(port.dtype, np.integer):
        return float(port.meaning == "mask") if low is None else low
    return float(np.clip(FILL, -np.inf if low is None else low, np.inf if high is None else high))
