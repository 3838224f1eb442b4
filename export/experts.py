"""Experts: networks that replace the denoiser in an interval of lambda, each with its own source."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isnan

import msgspec

from fewstep.export.changes import apply_changes, refuse_changed
from fewstep.export.expert import Expert
from fewstep.export.network_changes import NetworkChanges
from fewstep.export.options.null_option import with_nulls
from fewstep.export.options.size_option import with_sizes
from fewstep.export.spec import Source, Spec
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.plans.prediction import check_prediction
from fewstep.plans.schedule import Time
from fewstep.plans.spec import PURE_NOISE, ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.kinds.kind import kinds

UNCHANGED = NetworkChanges()
FORM = "write NAME=SOURCE@LAMBDA, like noisy=FILE.py:make@-2 or oms=FILE.py:make@-inf"
SHARED = ("shape", "dtype", "null", "low", "high", "shared", "follows")  # equal in a shared condition


def parse_experts(texts: Sequence[str], load: Callable[[str], Source]) -> tuple[Expert, ...]:
    """Return the experts of `--expert`, the noisiest first."""
    named = sorted((_parse_expert(text, load) for text in texts), key=lambda expert: expert.until)
    for one, other in zip(named, named[1:], strict=False):
        if one.until == other.until or len({expert.name for expert in named}) < len(named):
            raise UserError(f"experts {one.name} and {other.name} have the same name or the same lambda", FORM)
    return tuple(named)


def _parse_expert(text: str, load: Callable[[str], Source]) -> Expert:
    name, _, rest = text.partition("=")
    source, _, end = rest.rpartition("@")
    try:
        until = float(end)
    except ValueError:
        until = inf
    if not (name.isidentifier() and source) or name == DENOISER or isnan(until) or until == inf:
        raise UserError(f"--expert {text!r} does not name an expert, its source and a lambda", FORM)
    return Expert(name, max(until, PURE_NOISE), lambda: load(source))


def load_expert(
    expert: Expert, denoiser: Spec, sizes: Sequence[str], nulls: Sequence[str], changes: NetworkChanges = UNCHANGED
) -> Source:
    """Load the expert's source and apply the options that concern it. Raises UserError if it does not fit the
    denoiser."""
    loaded = expert.load()
    refuse_changed(loaded)
    source = with_sizes(apply_changes(loaded, changes.loras, changes.changes, changes.slots), sizes)
    _check(expert, source.spec, denoiser)
    own = {condition.name for condition in source.spec.conditions}
    return with_nulls(source, [text for text in nulls if text.partition("=")[0] in own])


def _check(expert: Expert, spec: Spec, denoiser: Spec) -> None:
    """Raise UserError if an expert's spec differs from the denoiser's in the shape of x, the sizes, the schedule or the
    inputs, or if a property of either does not allow experts."""
    specs = spec, denoiser
    fields = {
        field: [getattr(spec, field) for spec in specs] for field in ("x_shape", "sizes", "towards", "self_condition")
    }
    of_schedule = ScheduleSpec.__struct_fields__
    fields |= {f"schedule.{field}": [getattr(spec.schedule, field) for spec in specs] for field in of_schedule}
    for field, (value, expected) in fields.items():
        if value != expected:
            raise UserError(
                f"expert {expert.name} has {field} {value}, but the denoiser has {expected}",
                "give an expert that samples the same x on the same noise schedule",
            )
    for _, kind in (found for spec in specs for found in kinds(spec)):
        if kind.EXPERTS == "none":
            raise UserError(
                f"a bundle with {kind.NOUN} cannot have an expert, such as {expert.name}",
                "export a bundle with one network",
            )
    if expert.until == PURE_NOISE:
        check_prediction(spec.prediction, Time(0.0, 0.0, 1.0), spec.schedule)


def join_conditions(
    conditions: tuple[Condition, ...], expert: Expert, own: Sequence[Condition]
) -> tuple[tuple[Condition, ...], Mapping[str, str]]:
    """Return the bundle's conditions together with the expert's, and the expert's input for each of its conditions.

    Networks share a condition if its name and its type are equal. An expert's condition with the same name but another
    type is renamed to EXPERT_NAME, with the expert's name as the prefix.
    """
    known, inputs = {condition.name: condition for condition in conditions}, {}
    for condition in own:
        there = known.get(condition.name)
        is_alike = there is None or all(getattr(there, field) == getattr(condition, field) for field in SHARED)
        name = condition.name if is_alike else f"{expert.name}_{condition.name}"
        inputs[name] = condition.input
        if name not in known:
            known[name] = msgspec.structs.replace(condition, name=name, input=f"{expert.name}.{condition.input}")
    return tuple(known.values()), inputs
