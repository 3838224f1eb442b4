"""Names and failures of the bodies of several targets: one that cannot be made costs the others nothing."""

from collections.abc import Callable, Collection, Mapping, Sequence

from fewstep.calibration.lowering.quantize import LoweredBody, refuse_overflow, wide_enough
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.ranges.observe import Counts
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import body_name

Check = Callable[[str, LoweredBody, Target], None]  # of a body by name; UserError if it does not pass


def body_of(target: Target) -> str:
    return body_name("int8", target.name)


def widened(targets: Sequence[Target], counts: Counts, least: Collection[str]) -> list[Target]:
    """The targets, each by its wider one where what was counted is beyond its float type. `least`: see `unmade`."""
    reached = counts.reached()
    return [wide_enough(target, _extremes(target, reached, least)) for target in targets]


def unmade(targets: Sequence[Target], counts: Counts, least: Collection[str]) -> dict[str, UserError]:
    """The bodies that cannot be made of what was counted, by name: an activation is beyond the float type of their
    engine, or has no code. UserError if that is so of all. Only targets without floats need more tensors than
    `least`."""
    failed, reached = {}, counts.reached()
    for target in targets:
        try:
            if target.scheme.everything and counts.unseen:
                raise UserError(
                    f"activation {counts.unseen[0]!r} never had a value, and {target.name} has a code for each",
                    "follow more trajectories, or leave this target out",
                )
            refuse_overflow(_extremes(target, reached, least), target)
        except UserError as error:
            failed[body_of(target)] = error
    if len(failed) == len(targets):
        raise next(iter(failed.values()))
    return failed


def _extremes(target: Target, reached: Mapping[str, float], least: Collection[str]) -> dict[str, float]:
    """The greatest values of the tensors that a target needs."""
    return {name: most for name, most in reached.items() if target.scheme.everything or name in least}


def some_failed(failed: Mapping[str, UserError], written: Collection[str]) -> UserError:
    """One line for all that failed, to be raised when the other bodies are in the bundle."""
    (name, first), *others = failed.items()
    also = "".join(f"; nor was {other}: {error.what}" for other, error in others)
    return UserError(f"{name} was not made: {first.what}", f"{first.fix}{also} (in the bundle: {', '.join(written)})")
