"""Names and failures of the bodies of several targets: one that cannot be made costs the others nothing."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fewstep.calibration.lowering.quantize import refuse_overflow, widen_target
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.ranges.observe import Counts, tensors_to_observe
from fewstep.calibration.task import Task
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import body_name

Made = TypeVar("Made")


@dataclass(frozen=True)
class TargetResults(Generic[Made]):
    """The things made for some targets, and the errors of the others, both by the names of their bodies."""

    made: Mapping[str, Made]
    failed: Mapping[str, UserError]


def target_body_name(target: Target) -> str:
    """The name of a target's body, as "int8-cpu-x86"."""
    return body_name("int8", target.name)


def try_targets(
    targets: Collection[Target],
    make: Callable[[Target], Made],
    failed: Mapping[str, UserError],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TargetResults[Made]:
    """The things that `make` returns for targets, one after the other, and its errors behind the `failed` of earlier
    stages. A stage takes the targets that the one before has `made`.

    `progress` takes the number of targets that are done, and of all. UserError, the first of all, if nothing is made.
    """
    made, errors = dict[str, Made](), dict(failed)
    for done, target in enumerate(targets, 1):
        try:
            made[target_body_name(target)] = make(target)
        except UserError as error:
            errors[target_body_name(target)] = error
        progress(done, len(targets))
    if not made:
        raise next(iter(errors.values()))
    return TargetResults(made, errors)


def select_makeable_targets(task: Task, counts: Counts) -> TargetResults[Target]:
    """The task's targets whose bodies can be made of what was counted, each by its wider one where that is beyond its
    float type. Others fail: an activation is beyond every type of their engine, or has no code. UserError if none is
    left."""
    reached, least = counts.max_magnitudes(), tensors_to_observe(task.prepared)
    of_floats = {name: most for name, most in reached.items() if name in least}

    def check_target(target: Target) -> Target:
        needed = reached if target.scheme.no_floats else of_floats
        if target.scheme.no_floats and counts.unseen:
            raise UserError(
                f"activation {counts.unseen[0]!r} never had a value, and {target.name} has a code for each",
                "follow more trajectories, or leave this target out",
            )
        wide = widen_target(target, needed)
        refuse_overflow(needed, wide)
        return wide

    return try_targets(task.targets, check_target, task.refused)


def combine_errors(failed: Mapping[str, UserError], written: Collection[str]) -> UserError:
    """One line for all that failed, to be raised when the other bodies are in the bundle."""
    (name, first), *others = failed.items()
    also = "".join(f"; nor was {other}: {error.what}" for other, error in others)
    return UserError(f"{name} was not made: {first.what}", f"{first.fix}{also} (in the bundle: {', '.join(written)})")
