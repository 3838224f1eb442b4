"""A hold in a baked run: inputs for the part of the sample that is known, which is put back at every step.

The same arithmetic as `runtime.sampling.execute.apply_hold`, whose noise is draw 0 or one draw for each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fewstep.graph.builder import Builder
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.argument_checks import check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.plan import IMAGE, NOISE, row_names
from fewstep.plans.tokens.plan import IDS
from fewstep.runtime.sampling.execute import FRESH_DRAW, HOLD_DRAW, x_row

HeldAs = Literal["none", "noised", "fresh", "clean"]
HELD, MASK = "held", "held_mask"  # inputs


@dataclass(frozen=True)
class HoldInputs:
    """A hold along a plan. value, mask: tensors [B, ...].

    rows: which row of the state is x, at each step. alphas, sigmas: of the steps, which noise the value. draws: the
    numbers of the draws that do; none where the value is put back as it is.
    """

    rows: tuple[int, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    draws: tuple[int, ...]
    value: str = HELD
    mask: str = MASK

    def add_hold(self, table: Builder, row: str, scales: Sequence[str], noise: str, name: str) -> str:
        """The row of x, held. scales: alpha and sigma, tensors of one element; noise [B, ...]: both for a noised value.

        `row` and what is returned are [B, ...].
        """
        held = self.value
        if noise:
            alpha, sigma = scales
            of_value = table.node("Mul", (self.value, alpha), f"{name}_value")
            held = table.node("Add", (of_value, table.node("Mul", (noise, sigma), f"{name}_noise")), f"{name}_noised")
        kept = table.node("Mul", (self.mask, held), f"{name}_kept")
        free = table.node("Sub", (table.number(1.0), self.mask), f"{name}_free")
        return table.node("Add", (kept, table.node("Mul", (free, row), f"{name}_moved")), f"{name}_row")

    def finish(self, table: Builder, sample: str) -> str:
        """The sample [B, ...]: the value itself wherever the mask is 1."""
        is_held = table.node("Equal", (self.mask, table.number(1.0)), "is_held")
        return table.node("Where", (is_held, self.value, sample), "sample_held")


def hold_for_plan(plan: AnyPlan, kind: HeldAs) -> HoldInputs | None:
    """The hold of a kind along a plan; None for none. UserError where nothing can be held."""
    if kind == "none":
        return None
    plan = check_compiled(plan, f"known tokens are the file's input {IDS!r}", "a hold")
    if any(name not in (IMAGE, NOISE, *row_names(plan.rows)) for name in plan.given):
        raise UserError(f"plan {plan.name!r} starts from {', '.join(plan.given)}", "hold is for plans from noise")
    rows, alphas, sigmas = zip(*map(x_row, plan.steps), strict=True)
    fresh = tuple(FRESH_DRAW + left for left in range(len(plan.steps), 0, -1))
    draws = {"noised": (HOLD_DRAW,) * len(plan.steps), "fresh": fresh, "clean": ()}[kind]
    return HoldInputs(rows, alphas, sigmas, draws)
