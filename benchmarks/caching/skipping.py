"""Methods that leave out whole steps or tokens, around a network as the executor calls it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.guidance import COND, UNCOND
from fewstep.runtime.execute import StepNetwork

Array = NDArray[np.float32]
SKIPS, LAGRANGE, EVERY, LONGEST = (10, 47), 20, 4, 4  # SADA's, for FLUX in 50 steps
REGIONS, RESETS, STARVATION = 4, (12, 22), 0.1  # RAS's first step, full steps and weight of what waits, of 30


def stable(network: StepNetwork, steps: int, frozen: list[bool] | None = None) -> tuple[StepNetwork, list[bool]]:
    """SADA's rule for flows (Jiang et al. 2025, arXiv 2507.17135, as its code has it for Euler steps): a step is left
    out where the second difference of velocities is stable in the mean, and late three of four; the velocity goes on
    linearly. Its token pruning is left out. Both are returned: the network, and the steps that it leaves out.

    frozen: the steps that an earlier run left out, in the place of decisions.
    """
    first, last, late = (max(3, round(number * steps / 50)) for number in (*SKIPS, LAGRANGE))
    decided, past, run = [False] * (steps + 1), list[Array](), [0]

    def call(index: int, step: Any, u: Array) -> Sequence[Array]:
        is_left_out = (frozen or decided)[index]
        past.append(past[-1] if is_left_out else np.concatenate(network(index, step, u)))
        output = 2 * past[-2] - past[-3] if is_left_out else past[-1]
        if len(past) > 2 and frozen is None:
            momentum = float((-(output - past[-2]) + (past[-2] - past[-3])).mean())
            wants = momentum <= 0 if first <= index < late else late <= index < last and index % EVERY != 0
            decided[index + 1] = wants and run[0] < LONGEST
            run[0] = run[0] + 1 if decided[index + 1] else 0
        return np.split(output, len(step.branches))

    return call, decided


def regions(
    network: StepNetwork, steps: int, share: float, guidance: float, patch: int, lowest: bool
) -> tuple[StepNetwork, list[bool]]:
    """RAS (Liu et al. 2025, arXiv 2502.10389) with a fixed number of tokens: behind a step, tokens of greatest
    deviation keep their velocity, a share of 1 - `share` of all; with `lowest` those of least. Both are returned: the
    network, and the steps that compute a share.

    In its favour, keys and values of the tokens that wait are fresh here, and theirs are old.
    """
    resets = {round(each * steps / 30) for each in RESETS}
    partly = [index >= max(1, round(REGIONS * steps / 30)) and index not in resets for index in range(steps)]
    kept: dict[str, Array] = {}

    def tokens(x: Array) -> Array:
        side = x.shape[-1] // patch
        return x.reshape(len(x), side, patch, side, patch).transpose(0, 1, 3, 2, 4).reshape(len(x), side**2, -1)

    def pixels(mask: Array, shape: tuple[int, ...]) -> Array:
        side = shape[-1] // patch
        return mask.reshape(len(mask), 1, side, side).repeat(patch, 2).repeat(patch, 3)

    def call(index: int, step: Any, u: Array) -> Sequence[Array]:
        outputs = list(network(index, step, u))
        if partly[index]:
            outputs = [np.where(kept["waits"], old, new) for old, new in zip(kept["outputs"], outputs, strict=True)]
        weights = {COND: guidance, UNCOND: 1 - guidance}
        guided = sum(weights[name] * each for name, each in zip(step.branches, outputs, strict=True))
        waited = kept.get("waited", np.zeros((len(u), (u.shape[-1] // patch) ** 2)))
        metric = tokens(guided[:, 0]).std(axis=2) * np.exp(STARVATION * (waited - steps))
        order = np.argsort(metric if lowest else -metric, axis=1)[:, : round((1 - share) * metric.shape[1])]
        waits = np.zeros(metric.shape, bool)
        np.put_along_axis(waits, order, True, axis=1)
        kept.update(outputs=outputs, waits=pixels(waits, u.shape), waited=waited + waits)
        return outputs

    return call, partly
