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


def widened(targets: Sequence[Target], counts: Counts, least: Collection[str]) -> list[Target]:
    """The targets, each by its wider one where what was counted is beyond its float type. `least`: see `unmade`."""
    reached = counts.reached()
    return [wide_enough(target, _extremes(target, reached, least)) for target in targets]


def unmade(targets: Sequence[Target], counts: Counts, least: Collection[str]) -> dict[str, UserError]:
    """The bodies that cannot be made of what was counted, by name: an activation is beyond the float type of their
    engine, or has no code. UserError if that is so of all. Only targets without floats need more tensors than
    `least`."""
    failed, reached = dict[str, UserError](), counts.reached()
    for target in targets:
        with caught(failed, target):
            if target.scheme.everything and counts.unseen:
                raise UserError(
                    f"activation {counts.unseen[0]!r} never had a value, and {target.name} has a code for each",
                    "follow more trajectories, or leave this target out",
                )
            refuse_overflow(_extremes(target, reached, least), target)
    check_some_left(targets, failed)
    return failed


def _extremes(target: Target, reached: Mapping[str, float], least: Collection[str]) -> dict[str, float]:
    """The greatest values of the tensors that a target needs."""
    return {name: most for name, most in reached.items() if target.scheme.everything or name in least}


def some_failed(failed: Mapping[str, UserError], written: Collection[str]) -> UserError:
    """One line for all that failed, to be raised when the other bodies are in the bundle."""
    (name, first), *others = failed.items()
    also = "".join(f"; nor was {other}: {error.what}" for other, error in others)
    return UserError(f"{name} was not made: {first.what}", f"{first.fix}{also} (in the bundle: {', '.join(written)})")
