"""Inputs of a baked run for the known part of a sample (inpainting), which every step restores.

The arithmetic is that of `runtime.sampling.execute.apply_hold`, whose noise is draw 0 or one draw per step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fewstep.graph.builder import Builder
from fewstep.plans.any_plan import AnyPlan, check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.plan import IMAGE, NOISE, row_names
from fewstep.plans.tokens.plan import IDS
from fewstep.runtime.sampling.execute import FRESH_DRAW, HOLD_DRAW, x_row

HeldAs = Literal["none", "noised", "fresh", "clean"]
HELD, MASK = "held", "held_mask"  # inputs


@dataclass(frozen=True)
class HoldInputs:
    """The inputs and coefficients with which a baked run keeps a known part of the sample.

    value, mask: the names of tensors [B, ...].
    rows: for each step, the index of the state row that is x.
    alphas, sigmas: for each step, the coefficients with which noise is added to the known value.
    draws: for each step, the number of the noise draw; empty if the value is restored without noise.
    kept: for each step, 0 if it is `unheld` and 1 otherwise; empty if all are 1.
    """

    rows: tuple[int, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    draws: tuple[int, ...]
    kept: tuple[float, ...] = ()
    value: str = HELD
    mask: str = MASK

    def add_hold(
        self, table: Builder, row: str, scales: Sequence[str], noise: str, name: str, is_kept: str = ""
    ) -> str:
        """Add the nodes that restore the known part of x after a step. Return the name of the result; it and `row` are
        [B, ...].

        scales: alpha and sigma, the names of tensors of one element; used only if noise is added to the known value.
        noise: the name of the noise [B, ...] to add to the known value; "" to restore it without noise.
        is_kept: the name of a tensor of one element, which is 0 at a step that keeps its noise; "" if there is none.
        """
        held, mask = self.value, self.mask
        if is_kept:
            mask = table.node("Mul", (mask, is_kept), f"{name}_mask")
        if noise:
            alpha, sigma = scales
            of_value = table.node("Mul", (self.value, alpha), f"{name}_value")
            held = table.node("Add", (of_value, table.node("Mul", (noise, sigma), f"{name}_noise")), f"{name}_noised")
        kept = table.node("Mul", (mask, held), f"{name}_kept")
        free = table.node("Sub", (table.number(1.0), mask), f"{name}_free")
        return table.node("Add", (kept, table.node("Mul", (free, row), f"{name}_moved")), f"{name}_row")

    def finish(self, table: Builder, sample: str) -> str:
        """Add the final sample [B, ...] with the known value wherever the mask is 1. Return its name."""
        is_held = table.node("Equal", (self.mask, table.number(1.0)), "is_held")
        return table.node("Where", (is_held, self.value, sample), "sample_held")


def hold_for_plan(plan: AnyPlan, kind: HeldAs) -> HoldInputs | None:
    """Return the inputs for the known part of a sample along a plan; None for the kind "none". Raises UserError if the
    plan does not allow a known part."""
    if kind == "none":
        return None
    plan = check_compiled(plan, f"known tokens are the file's input {IDS!r}", "a hold")
    if any(name not in (IMAGE, NOISE, *row_names(plan.rows)) for name in plan.given):
        raise UserError(
            f"plan {plan.name!r} starts from {', '.join(plan.given)}",
            "leave hold out, or choose a plan that starts from noise",
        )
    rows, alphas, sigmas = zip(*map(x_row, plan.steps), strict=True)
    fresh = tuple(FRESH_DRAW + left for left in range(len(plan.steps), 0, -1))
    draws = {"noised": (HOLD_DRAW,) * len(plan.steps), "fresh": fresh, "clean": ()}[kind]
    is_unheld = kind != "clean" and any(step.unheld for step in plan.steps)
    kept = tuple(0.0 if step.unheld else 1.0 for step in plan.steps) if is_unheld else ()
    return HoldInputs(rows, alphas, sigmas, draws, kept)
