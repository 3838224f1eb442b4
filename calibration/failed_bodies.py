"""Results and errors of several targets. The failure of one target does not stop the others."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fewstep.calibration.commit import CalibratedNetwork
from fewstep.calibration.lowering.quantize import refuse_overflow, select_ops_to_lower, widen_target
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.ranges.observe import Counts, tensors_to_observe
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import kept_defaults
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.networks import label_with_network
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.bundle.reading import Bundle

Made = TypeVar("Made")


@dataclass(frozen=True)
class TargetResults(Generic[Made]):
    """The results for the targets that succeeded, and the errors of those that failed, both by body name."""

    made: Mapping[str, Made]
    failed: Mapping[str, UserError]


def target_body_name(target: Target) -> str:
    """Return the name of a target's body, e.g. "int8-cpu-x86"."""
    return body_name(target.platform.precision, target.name)


def try_targets(
    targets: Collection[Target],
    make: Callable[[Target], Made],
    failed: Mapping[str, UserError],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TargetResults[Made]:
    """Call `make` for each target, and return the results together with all errors, including the `failed` of earlier
    stages. The next stage continues with the targets in `made`.

    `progress` receives the number of finished targets and the total. Raises the first UserError if all targets failed.
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


def store_refusals(make: Callable[[Target], Made], bundle: Bundle) -> Callable[[Target], Made]:
    """Wrap `make` so that a UserError that it raises is also stored for the bundle. Later errors about the missing body
    quote it, until all networks have the body (`forget_refusals`)."""
    from fewstep.runtime.bundle.calibrate_command import store_refusal  # only a failure needs it

    def make_or_store(target: Target) -> Made:
        try:
            return make(target)
        except UserError as error:
            store_refusal(bundle, target_body_name(target), error)
            raise

    return make_or_store


def forget_refusals(bundle: Bundle, calibrated: Collection[CalibratedNetwork]) -> None:
    """Forget the stored refusals of the bodies that a calibration has committed for all networks."""
    from fewstep.runtime.bundle.calibrate_command import forget_refusal  # only a calibration needs it

    failed = {name for network in calibrated for name in network.failed}
    for name in {name for network in calibrated for name in network.bodies} - failed:
        forget_refusal(bundle, name)


def select_makeable_targets(task: Task, counts: Counts | None) -> TargetResults[Target]:
    """Return the targets whose bodies can be made from the activation counts, and the errors of the others. If an
    activation exceeds a target's float type, the target with a wider type is returned instead. Without counts, no
    target needs any.

    A target fails if an activation exceeds every float type of its engine, or has no range. Raises UserError if no
    target is left.
    """
    if counts is None:
        return try_targets(task.targets, lambda target: target, task.refused)  # nothing was counted
    reached, least = counts.max_magnitudes(), tensors_to_observe(task.prepared)
    of_floats = {name: most for name, most in reached.items() if name in least}

    def check_target(target: Target) -> Target:
        needed = reached if target.scheme.no_floats else of_floats
        if target.scheme.no_floats and counts.unseen:
            raise UserError(
                f"no trajectory computed activation {counts.unseen[0]!r}, but {target.name} needs its range",
                "raise --trajectories, or leave this target out",
            )
        wide = widen_target(target, needed)
        refuse_overflow(needed, wide)
        return wide

    return try_targets(task.targets, store_refusals(check_target, task.sampler.bundle), task.refused)


def raise_failures(calibrated: Mapping[str, CalibratedNetwork]) -> None:
    """Raise all failures of the networks as one UserError, once the other bodies are in the bundle."""
    failed = {
        label_with_network(name, body): error
        for name, each in calibrated.items()
        for body, error in each.failed.items()
    }
    if not failed:
        return
    written = [label_with_network(name, body) for name, each in calibrated.items() for body in each.bodies]
    (name, first), *others = failed.items()
    also = "".join(f"; {other} was not made either: {error.what}" for other, error in others)
    rest = f"{also} (in the bundle: {', '.join(written)})"
    raise UserError(f"{name} was not made: {first.what}", f"{first.fix}{rest}" if first.fix else rest.lstrip("; "))


def check_usable_targets(
    targets: Sequence[Target], bundle: Bundle, prepared: Graph, records: ConditionRecords | None, is_estimate: bool
) -> TargetResults[Target]:
    """Return the targets for which an int8 body can be made, and the errors of the others, which are stored unless the
    calibration is only estimated. A target needs operations that can be in int8, and an engine that computes the
    float32 body correctly. Raises UserError if no target is left."""

    def check_target(target: Target) -> Target:
        select_ops_to_lower(prepared, target.scheme.no_floats)
        if target.scheme.no_floats:
            _refuse_constant_conditions(bundle.manifest.conditions, records, target)
        if target.tries is not None:
            target.tries(bundle)
        return target

    return try_targets(targets, check_target if is_estimate else store_refusals(check_target, bundle), {})


def _refuse_constant_conditions(
    conditions: Sequence[Condition], records: ConditionRecords | None, target: Target
) -> None:
    """Raise UserError if a condition has its default on every trajectory. A target without floats would get ranges for
    that value only, such as a range of zeros."""
    for name in kept_defaults(conditions, records):
        raise UserError(
            f"condition {name!r} has its default on every trajectory, and {target.name} clips other values",
            "give the values that it will have (--conditions FILE), or leave this target out",
        )
