"""Outputs of a network that are computed once, since interpretations of a spec often differ in what follows from an
output, and not in the inputs."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.spec.reading_errors import Network, select_rows
from fewstep.runtime.arrays import Float32

MOST_BYTES = 2**28  # of remembered outputs; further ones are computed again


def remember_outputs(network: Network) -> Network:
    """Return the same network, which evaluates each sample, time and condition once."""
    kept = dict[bytes, Float32]()

    def evaluate(x: Float32, times: NDArray[np.float64], conditions: ConditionRecords) -> Float32:
        keys = [_key(x, times, conditions, row) for row in range(len(x))]
        missing = np.array([row for row, key in enumerate(keys) if key not in kept], np.intp)
        if len(missing) == 0:
            return np.stack([kept[key] for key in keys])
        made = network(x[missing], times[missing], select_rows(conditions, missing))
        found = dict(zip(missing.tolist(), made, strict=True))
        whole = np.stack([found[row] if row in found else kept[key] for row, key in enumerate(keys)])
        if (len(kept) + len(made)) * made[0].nbytes <= MOST_BYTES:
            kept.update((keys[row], each.copy()) for row, each in found.items())
        return whole

    return evaluate


def _key(x: Float32, times: NDArray[np.float64], conditions: ConditionRecords, row: int) -> bytes:
    """Return a digest of the inputs of one sample."""
    digest = blake2b(x[row].tobytes(), digest_size=16)
    digest.update(times[row].tobytes())
    for name in sorted(conditions):
        digest.update(conditions[name][row].tobytes())
    return digest.digest()
