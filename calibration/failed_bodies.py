"""Names and failures of the bodies of several targets: one that cannot be made costs the others nothing."""

from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager

from fewstep.calibration.lowering.quantize import refuse_overflow, wide_enough
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.ranges.observe import Counts
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import body_name


def body_of(target: Target) -> str:
    return body_name("int8", target.name)


@contextmanager
def caught(failed: MutableMapping[str, UserError], target: Target) -> Iterator[None]:
    """An error of the block goes into `failed`, as that of the target's body."""
    try:
        yield
    except UserError as error:
        failed[body_of(target)] = error


def check_some_left(targets: Sequence[Target], failed: Mapping[str, UserError]) -> None:
    """UserError, the first one, where the bodies of all these targets failed."""
    if {body_of(target) for target in targets} <= failed.keys():
        raise next(iter(failed.values()))


def makeable(
    targets: Sequence[Target], counts: Counts, least: Collection[str], failed: MutableMapping[str, UserError]
) -> list[Target]:
    """The targets whose bodies can be made of what was counted, each by its wider one where that is beyond its float
    type. Into `failed` go the errors of others: an activation is beyond every type of their engine, or has no code.
    Targets with floats need the tensors `least` alone. UserError if no target is left."""
    made, reached = list[Target](), counts.reached()
    of_floats = {name: most for name, most in reached.items() if name in least}
    for target in targets:
        with caught(failed, target):
            needed = reached if target.scheme.everything else of_floats
            if target.scheme.everything and counts.unseen:
                raise UserError(
                    f"activation {counts.unseen[0]!r} never had a value, and {target.name} has a code for each",
                    "follow more trajectories, or leave this target out",
                )
            wide = wide_enough(target, needed)
            refuse_overflow(needed, wide)
            made.append(wide)
    check_some_left(targets, failed)
    return made


def some_failed(failed: Mapping[str, UserError], written: Collection[str]) -> UserError:
    """One line for all that failed, to be raised when the other bodies are in the bundle."""
    (name, first), *others = failed.items()
    also = "".join(f"; nor was {other}: {error.what}" for other, error in others)
    return UserError(f"{name} was not made: {first.what}", f"{first.fix}{also} (in the bundle: {', '.join(written)})")
