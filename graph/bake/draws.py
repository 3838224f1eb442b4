"""The noise inputs of a baked run: `noise` is draw 0, and `draws` has all later draws in order.

A token run begins without noise. Its `draws` are uniform random numbers, float64 in (0, 1), numbered as in the
executor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.builder import Builder
from fewstep.plans import noise
from fewstep.plans.plan import Plan

DRAWN = NOISE, DRAWS, CHANCES = (
    "noise",
    "draws",
    "chances",
)  # meanings of inputs; the input of chances is named draws too
START = 0  # the draw that most samples start from


@dataclass(frozen=True)
class Draws:
    """The draws of a plan.

    later: the numbers of the draws in the input `draws`.
    is_again: True if steps read draw 0 too.
    noise, rest: the tensors of draw 0 and of the later draws.
    """

    has_noise: bool
    later: tuple[int, ...]
    is_again: bool
    noise: str = NOISE
    rest: str = DRAWS

    def add_draw(self, outer: Builder, number: int) -> str:
        """Add one draw [B, ...]; return its name."""
        if number == START:
            return self.noise
        place = outer.constant(np.array(self.later.index(number), np.int64), f"place_{number}")
        return outer.node_once("Gather", (self.rest, place), f"draw_{number}", axis=0)

    def add_all_draws(self, outer: Builder) -> str:
        """Add a Concat of all draws that steps read, [D, B, ...], in the order of `places`. Return its name, or "" if
        steps read none."""
        if not self.is_again:
            return self.rest if self.later else ""
        first = outer.node_once(
            "Unsqueeze", (self.noise, outer.constant(np.array([0], np.int64), "first_axis")), "noise_first"
        )
        return outer.node_once("Concat", (first, self.rest), "all_draws", axis=0) if self.later else first

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each draw in the tensor of all draws. A draw that no step reads gets index 0."""
        order = [START, *self.later] if self.is_again else [*self.later]
        order_places = [order.index(number) if number in order else 0 for number in numbers.reshape(-1).tolist()]
        return np.array(order_places, np.int64).reshape(numbers.shape)


def draws_of(plan: Plan, held: Sequence[int] = ()) -> Draws:
    """Return the noise arrays (draws) that a plan reads, including those for the known part of a sample, `held`."""
    by_steps = {number for step in plan.steps for number in step.draws} | {*held}
    numbers = by_steps | set(plan.start_draws)
    return Draws(START in numbers, tuple(sorted(numbers - {START})), START in by_steps)


def draw_input(meaning: str, numbers: Sequence[int], seeds: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    """Return the random numbers to pass to an input of a baked file, for these seeds and this sample shape. For the
    meaning `noise` they are [B, *shape]; for `draws` and `chances` they are [D, B, *shape], with the draws in
    `numbers`."""
    if meaning == NOISE:
        return noise.normal_batch(seeds, START, tuple(shape))
    if meaning == DRAWS:
        return np.stack([noise.normal_batch(seeds, number, tuple(shape)) for number in numbers])
    chances = [noise.uniforms(seeds, number, math.prod(shape)) for number in numbers]
    return np.stack(chances).reshape(-1, len(seeds), *shape)
