"""The slots of a run next to its samples: carried tensors, for later steps and for the next run, and named outputs.

`Slots` are values: a run makes new ones, and changes none. A program that streams owns them, as many as it has streams.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.carry_check import carry_problem
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND
from fewstep.plans.plan import Plan, Step, locate_step, steps_to_run
from fewstep.runtime.arrays import Arrays, as_numbers

Array = NDArray[Any]
CarryingCall = Callable[[int, Step, Array, Arrays], tuple[Sequence[Array], Arrays]]


class Slot(NamedTuple):
    """One slot of a carried tensor: its branches one after the other, [branches * B, *shape]."""

    branches: tuple[str, ...]
    value: Array

    def select_branches(self, branches: tuple[str, ...]) -> Array:
        """The rows of some of its branches, in their order."""
        if branches == self.branches:
            return self.value
        parts = dict(zip(self.branches, self.value.reshape(len(self.branches), -1, *self.value.shape[1:]), strict=True))
        return np.concatenate([parts[branch] for branch in branches])


@dataclass(frozen=True)
class Slots:
    """The carried tensors of B samples, by name: slot by slot, None where a slot is empty. `named` are the named
    outputs of the last evaluation [B, *shape], of its conditional branch where it has several.

    It comes from a run, for the next run of as many samples along the same plan, or for the tail that goes on there:
    `next` is that plan's name and the number of its next step; None is for any plan. All else are `numpy` arrays.
    """

    banks: Mapping[str, tuple[Slot | None, ...]]
    named: Mapping[str, Array] = field(default_factory=dict)
    next: tuple[str, int] | None = None

    def rows(self, plan: Plan) -> list[Array] | None:
        """The rows of the state that a run along a plan goes on from; None where it begins, or keeps no state."""
        bank = () if plan.rolling_bank is None else self.banks[plan.rolling_bank.name]
        return [slot.value for slot in bank if slot is not None] or None

    def first_step(self, plan: Plan) -> int:
        """The step at which a run along a plan begins: 0, or where the last steps do if it goes on from kept rows."""
        return 0 if self.rows(plan) is None else len(plan.steps) - len(steps_to_run(plan))

    def with_rows(self, name: str, rows: Sequence[Array]) -> "Slots":
        """These slots with the rows of a state in a bank."""
        return replace(self, banks={**self.banks, name: tuple(Slot((COND,), row) for row in rows)})

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.value.nbytes for bank in self.banks.values() for slot in bank if slot is not None)

    def select_samples(self, samples: Sequence[int]) -> "Slots":
        """The slots of some of the samples, by their places from 0; a sample may be taken twice. UserError for a place
        without a sample."""

        def take(slot: Slot | None) -> Slot | None:
            if slot is None:
                return None
            parts = slot.value.reshape(len(slot.branches), -1, *slot.value.shape[1:])
            return Slot(slot.branches, parts[:, _places(samples, parts.shape[1])].reshape(-1, *slot.value.shape[1:]))

        named = {name: tensor[_places(samples, len(tensor))] for name, tensor in self.named.items()}
        return Slots({name: tuple(map(take, bank)) for name, bank in self.banks.items()}, named, self.next)


def _places(samples: Sequence[int], count: int) -> list[int]:
    """The places of some of `count` samples, checked."""
    fix = "give a list of whole numbers, counted from 0"
    places = as_numbers(samples, "places of samples", fix)
    if places.ndim != 1 or places.size and places.dtype.kind not in "iu":
        raise UserError(f"places of samples are {samples!r}", fix)
    if missing := [each for each in places.tolist() if not 0 <= each < count]:
        raise UserError(f"carried has {count} samples, none at {missing[0]}", "count them from 0")
    return [int(each) for each in places]


@dataclass(frozen=True)
class CarryingNetwork:
    """A network that returns more than its prediction, and the slots that its run begins with."""

    call: CarryingCall
    slots: Slots


def first_slots(plan: Plan, zeros: Callable[[str, int], Array], samples: int) -> Slots:
    """The slots of a first run: zeros in banks that are kept from run to run, none in others.

    zeros: `zeros(name, rows)` -> [rows, *shape] of a carried tensor.
    """
    branches = tuple(dict.fromkeys(branch for step in plan.steps for branch in step.branches))
    banks: dict[str, tuple[Slot | None, ...]] = {}
    for bank in plan.banks:
        begins = bank.is_kept and bank.rolls is None
        first = Slot(branches, zeros(bank.name, len(branches) * samples)) if begins else None
        banks[bank.name] = (first,) * bank.slots
    return Slots(banks)


def check_slots(slots: Slots, plan: Plan, like: Slots, samples: int) -> Slots:
    """The slots of a run before, for a run of `samples` samples; `like` are a first run's."""
    fix = "give what a run of this plan left for as many samples, or leave carried out to begin"
    if not isinstance(slots, Slots):
        raise UserError(f"carried is {type(slots).__name__}, no Slots", fix)
    if slots.next not in (None, runs := locate_step(plan)):
        (left, step), (name, first) = slots.next, runs
        raise UserError(f"carried is for step {step} of plan {left!r}, and step {first} of {name!r} runs", fix)
    banks = dict(slots.banks) if isinstance(slots.banks, Mapping) else {}
    for name, bank in like.banks.items():
        carried = banks.get(name)
        if not isinstance(carried, tuple) or len(carried) != len(bank):
            has = len(carried) if isinstance(carried, tuple) else "none"
            raise UserError(f"plan {plan.name!r} has {len(bank)} slots of {name!r}, carried has {has}", fix)
        banks[name] = tuple(_check_slot(name, *each, samples, fix) for each in zip(carried, bank, strict=True))
    begins = {name: [None if slot is None else slot.branches for slot in bank] for name, bank in banks.items()}
    if problem := carry_problem(plan, begins):
        raise UserError(f"plan {plan.name!r} with what is carried: {problem}", fix)
    return replace(slots, banks=banks)


def _check_slot(name: str, slot: Slot | None, first: Slot | None, samples: int, fix: str) -> Slot | None:
    """A slot of a bank, like a first run's."""
    if slot is None or first is None:
        return slot
    if not isinstance(slot, Slot) or not isinstance(slot.branches, tuple):
        raise UserError(f"carried has {name!r} in {slot!r:.40}, no Slot", fix)
    value = as_numbers(slot.value, f"carried {name!r}", fix)
    wanted = f"{first.value.dtype} {[len(slot.branches) * samples, *first.value.shape[1:]]}"
    if (has := f"{value.dtype} {list(value.shape)}") != wanted:
        raise UserError(f"carried has {name!r} {has}, not {wanted}", fix)
    return Slot(slot.branches, value)


def refuse_banks(plan: Plan, path: Path) -> None:
    """UserError for a plan whose run carries tensors, where no run would carry them."""
    if plan.banks:
        name = plan.banks[0].name
        raise UserError(f"{path} carries {name!r} from run to run", "run it by sample, steps or carry_on")
