"""Light steps, which read inner features of an earlier step instead of computing them (feature caching).

A denoiser with a light network (`fewstep export --cache`) has two forms of a step. A *full* step runs the whole
network, which also returns the features. A *light* step runs only the layers close to x and to the output. A plan fixes
which steps are light, so a cached run is as static as any other.
"""

from collections.abc import Collection

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.plan import LIGHT, Bank, Carry, CarryIn, Plan, Row, Step

ALIASES: dict[str, str] = {}
__all__ = ["every", "light"]
FARTHEST = 1.5  # longest extrapolation, in distances of the last two full steps


def every(plan: Plan, features: str, *, interval: int = 2, first: int = 1, linear: bool = False) -> Plan:
    """Full steps at the start and then at every interval; all other steps are light.

    With first=1 and held features on a cut depthN, this is the uniform schedule of DeepCache (Ma et al. 2023, arXiv
    2312.00858).

    first: the number of full steps at the start.
    linear: extrapolate the features, as in `use_light_steps`.
    """
    if interval < 1 or first < 1:
        raise UserError(f"every(interval={interval}, first={first}) is out of range", "give whole numbers from 1 up")
    steps = range(first, len(plan.steps))
    return _replace_steps(plan, [step for step in steps if (step - first + 1) % interval], features, linear)


def light(plan: Plan, features: str, *, at: tuple[float, ...], linear: bool = False) -> Plan:
    """Replace the steps with the numbers in `at`, counted from 0, by light steps. All other steps stay full."""
    if wrong := [step for step in at if not step.is_integer()]:
        raise UserError(f"light(at=...) has the step {wrong[0]:g}", "give whole numbers, counted from 0")
    return _replace_steps(plan, [int(step) for step in at], features, linear)


def use_light_steps(plan: Plan, steps: Collection[int], features: str, linear: bool = False) -> Plan:
    """Return the plan with some steps replaced by light steps. Its name then lists them, so that it can be compiled
    again.

    A light step reads the features of the last full step. A step stays full if the last full step lacks one of its
    branches.

    Args:
        steps: numbers of the light steps, counted from 0. The first step is full.
        features: the name of the carried tensor.
        linear: extrapolate the features in lambda from the last two full steps, at most by `FARTHEST` times their
            distance.

    Raises UserError for a step that the plan does not have, and for a plan that carries tensors.
    """
    made = _replace_steps(plan, steps, features, linear)
    if made is plan:
        return plan
    call = f"light(at=[{', '.join(map(str, sorted({*steps})))}]{', linear=True' if linear else ''})"
    return msgspec.structs.replace(made, name=f"{plan.name}+{call}")


def _replace_steps(plan: Plan, steps: Collection[int], features: str, linear: bool) -> Plan:
    """Return the plan with some light steps and an unchanged name. Arguments are as in `use_light_steps`."""
    if plan.banks:
        raise UserError(f"plan {plan.name!r} carries {plan.banks[0].name!r} already", "use a plan that carries nothing")
    last = len(plan.steps) - 1
    if wrong := [step for step in steps if step not in range(1, last + 1)]:
        what = (
            f"plan {plan.name!r} cannot have the light step {wrong[0]}: its steps are 0 to {last}, and step 0 is full"
        )
        raise UserError(what, f"give steps from 1 to {last}")
    if not steps:
        return plan
    bank, slots = len(plan.banks), 2 if linear else 1
    made, full = list[Step](), list[Step]()  # full: the last one or two full steps, the latest first
    for number, step in enumerate(plan.steps):
        if number in steps and {*step.branches} <= {*full[0].branches}:
            row = slot_weights(step, full, slots)
            made.append(msgspec.structs.replace(step, network=LIGHT, carry_in=(CarryIn(bank, row),)))
        else:
            made.append(msgspec.structs.replace(step, carry=_writes(bank, slots, is_first=not full)))
            full = [step, *full][:2]
    return msgspec.structs.replace(plan, banks=(Bank(features, slots, is_kept=False),), steps=tuple(made))


def slot_weights(step: Step, full: list[Step], slots: int) -> Row:
    """Return the weights with which a light step combines the stored features: those of the last full step, then those
    of the full step before it."""
    if slots == 1:
        return (1.0,)
    last, before = full[0], full[-1]
    if last.lam is None or before.lam is None or step.lam is None or last.lam == before.lam:
        return (1.0, 0.0)
    if not {*step.branches} <= {*before.branches}:
        return (1.0, 0.0)
    distance = (step.lam - last.lam) / (last.lam - before.lam)
    share = min(max(distance, -FARTHEST), FARTHEST)
    return (1.0 + share, -share)


def _writes(bank: int, slots: int, is_first: bool) -> tuple[Carry, ...]:
    """Return what a full step writes to the bank: its own features to slot 0, and the features of the preceding full
    step to slot 1, if there are two slots and it is not the first."""
    made = Carry(bank, 0, (*[0.0] * slots, 1.0))
    return (made,) if slots == 1 or is_first else (made, Carry(bank, 1, (1.0, 0.0, 0.0)))
