"""The slots of a run: carried tensors for later steps and for the next run, and named outputs.

`Slots` are immutable values: a run returns new ones and modifies none. A streaming program keeps one for each stream.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.continuation.carry_check import carry_problem
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND
from fewstep.plans.plan import Plan, Step, locate_step, steps_to_run
from fewstep.runtime.arrays import Arrays, as_numbers
from fewstep.runtime.bundle.manifest import Manifest

Array = NDArray[Any]
CarryingCall = Callable[[int, Step, Array, Arrays], tuple[Sequence[Array], Arrays]]


class Slot(NamedTuple):
    """One slot of a carried tensor, [branches * B, *shape]: its branches are concatenated along the batch axis."""

    branches: tuple[str, ...]
    value: Array

    def select_branches(self, branches: tuple[str, ...]) -> Array:
        """Return the values of these branches, in this order, [branches * B, *shape]."""
        if branches == self.branches:
            return self.value
        parts = dict(zip(self.branches, self.value.reshape(len(self.branches), -1, *self.value.shape[1:]), strict=True))
        return np.concatenate([parts[branch] for branch in branches])


@dataclass(frozen=True)
class Slots:
    """The carried tensors of B samples by name, as slots; an empty slot is None.

    `named` are the named outputs [B, *shape] of the last evaluation. If that evaluation has several branches, they are
    the outputs of the conditional one.

    A run returns its slots for the next run of the same plan and number of samples, or for the tail of the plan that
    continues it. `next` is that plan's name and the number of its next step; None allows any plan.
    """

    banks: Mapping[str, tuple[Slot | None, ...]]
    named: Mapping[str, Array] = field(default_factory=dict)
    next: tuple[str, int] | None = None

    def rows(self, plan: Plan) -> list[Array] | None:
        """Return the rows of the state from which a run of a plan continues. None if the run starts afresh, or if the
        plan keeps no state."""
        bank = () if plan.rolling_bank is None else self.banks[plan.rolling_bank.name]
        return [slot.value for slot in bank if slot is not None] or None

    def first_step(self, plan: Plan) -> int:
        """Return the first step of a run of a plan: 0, or the first of the repeated steps if it continues from rows."""
        return 0 if self.rows(plan) is None else len(plan.steps) - len(steps_to_run(plan))

    def with_rows(self, name: str, rows: Sequence[Array]) -> "Slots":
        """Return a copy of these slots in which the bank `name` contains the rows of a state, one slot per row."""
        return replace(self, banks={**self.banks, name: tuple(Slot((COND,), row) for row in rows)})

    @property
    def nbytes(self) -> int:
        """The total size of all slots in bytes."""
        return sum(slot.value.nbytes for bank in self.banks.values() for slot in bank if slot is not None)

    def select_samples(self, samples: Sequence[int]) -> "Slots":
        """Return the slots with only the samples at these indices. An index may occur more than once.

        Raises UserError for an index without a sample.
        """

        def take(slot: Slot | None) -> Slot | None:
            if slot is None:
                return None
            parts = slot.value.reshape(len(slot.branches), -1, *slot.value.shape[1:])
            return Slot(slot.branches, parts[:, _places(samples, parts.shape[1])].reshape(-1, *slot.value.shape[1:]))

        named = {name: tensor[_places(samples, len(tensor))] for name, tensor in self.named.items()}
        return Slots({name: tuple(map(take, bank)) for name, bank in self.banks.items()}, named, self.next)


def _places(samples: Sequence[int], count: int) -> list[int]:
    """Return the indices of samples as a list of integers. Raises UserError unless all are from 0 to `count` - 1."""
    fix = "give a list of whole numbers, counted from 0"
    places = as_numbers(samples, "sample indexes", fix)
    if places.ndim != 1 or places.size and places.dtype.kind not in "iu":
        raise UserError(f"sample indexes are {samples!r}", fix)
    if missing := [place for place in places.tolist() if not 0 <= place < count]:
        raise UserError(f"carried has {count} samples, none at index {missing[0]}", "count them from 0")
    return [int(place) for place in places]


@dataclass(frozen=True)
class CarryingNetwork:
    """A network that returns carried tensors or named outputs besides its prediction, together with the slots from
    which its run starts."""

    call: CarryingCall
    slots: Slots


def first_slots(plan: Plan, zeros: Callable[[str, int], Array], samples: int) -> Slots:
    """Return the slots of carried tensors in a first run: zeros in banks that are kept from run to run, and empty slots
    in others.

    zeros: `zeros(name, rows)` -> zeros [rows, *shape] for the carried tensor of that name.
    """
    branches = tuple(dict.fromkeys(branch for step in plan.steps for branch in step.branches))
    banks: dict[str, tuple[Slot | None, ...]] = {}
    for bank in plan.banks:
        begins = bank.is_kept and bank.rolls is None
        first = Slot(branches, zeros(bank.name, len(branches) * samples)) if begins else None
        banks[bank.name] = (first,) * bank.slots
    return Slots(banks)


def zero_slots(plan: Plan, manifest: Manifest, samples: int) -> Slots:
    """Return the values of carried tensors with which a first run begins: zeros."""
    tensors = {tensor.name: tensor for tensor in manifest.carried}

    def zeros(name: str, rows: int) -> NDArray[Any]:
        return np.zeros((rows, *tensors[name].shape), tensors[name].dtype)

    return first_slots(plan, zeros, samples)


def continue_slots(carried: Slots, plan: Plan, manifest: Manifest, samples: int) -> Slots:
    """Return the values of carried tensors with which a run continues an earlier one, after checks."""
    checked = check_slots(carried, plan, zero_slots(plan, manifest, samples), samples)
    for row in checked.rows(plan) or ():
        if row.shape != (samples, *manifest.x_shape):
            wanted, fix = [samples, *manifest.x_shape], "give the slots of a run of the same number and size of samples"
            raise UserError(f"the state in carried has shape {list(row.shape)}, not {wanted}", fix)
    return checked


def check_slots(slots: Slots, plan: Plan, like: Slots, samples: int) -> Slots:
    """Check that the slots of an earlier run can continue with `samples` samples. `like` are the slots of a first run.
    Returns the slots. Raises UserError if they do not fit."""
    fix = "give the slots of a run of this plan with this number of samples, or leave carried out to start afresh"
    if not isinstance(slots, Slots):
        raise UserError(f"carried is {type(slots).__name__}, not Slots", fix)
    if slots.next not in (None, runs := locate_step(plan)):
        (left, step), (name, first) = slots.next, runs
        raise UserError(f"carried is for step {step} of plan {left!r}, but this is step {first} of {name!r}", fix)
    banks = dict(slots.banks) if isinstance(slots.banks, Mapping) else {}
    for name, bank in like.banks.items():
        carried = banks.get(name)
        if not isinstance(carried, tuple) or len(carried) != len(bank):
            has = len(carried) if isinstance(carried, tuple) else "none"
            raise UserError(f"plan {plan.name!r} has {len(bank)} slots of {name!r}, but carried has {has}", fix)
        banks[name] = tuple(_check_slot(name, *pair, samples, fix) for pair in zip(carried, bank, strict=True))
    begins = {name: [None if slot is None else slot.branches for slot in bank] for name, bank in banks.items()}
    if problem := carry_problem(plan, begins):
        raise UserError(f"carried does not fit plan {plan.name!r}: {problem}", fix)
    return replace(slots, banks=banks)


def _check_slot(name: str, slot: Slot | None, first: Slot | None, samples: int, fix: str) -> Slot | None:
    """Return `slot` after checking that its dtype and shape are those of `first`, the same slot in a first run. None if
    either is None."""
    if slot is None or first is None:
        return slot
    if not isinstance(slot, Slot) or not isinstance(slot.branches, tuple):
        raise UserError(f"carried has {slot!r:.40} for {name!r}, not a Slot", fix)
    value = as_numbers(slot.value, f"carried {name!r}", fix)
    wanted = f"{first.value.dtype} {[len(slot.branches) * samples, *first.value.shape[1:]]}"
    if (has := f"{value.dtype} {list(value.shape)}") != wanted:
        raise UserError(f"carried has {name!r} {has}, not {wanted}", fix)
    return Slot(slot.branches, value)


def refuse_banks(plan: Plan, path: Path) -> None:
    """Raise UserError for a plan with carried tensors. For callers that do not support them."""
    if any(not bank.is_kept for bank in plan.banks):
        what = f"plan {plan.name!r} has light steps, which read features of earlier ones and are not supported here"
        raise UserError(what, "give a plan without light steps, or call sample, steps or carry_on")
    if plan.banks:
        name = plan.banks[0].name
        what = f"{path} carries {name!r} from run to run, which is not supported here"
        raise UserError(what, "call sample, steps or carry_on")
