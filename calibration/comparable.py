"""The int8 bodies that were calibrated alike, as far as the manifest shows. Figures of others do not compare targets.

A bundle keeps the commands that made it. The last one that lowered for a target says how that target's body was
calibrated. A bound is a matter of each body alone, and so are the other targets. Plans are compared by name and by the
weight of guidance.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fewstep.measure.rollouts.calibrated_plan import MISFIT, along
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.guidance import to_text
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.planning import calibrated_plan

CALIBRATE = "fewstep calibrate "
ALONE = ("plan", "guidance", "target", "quality", "speed")  # plan and guidance are compared by themselves


@dataclass(frozen=True)
class CalibrationSettings:
    """The settings of a calibration. `plan` has its guidance, in words; `options` are None where no command says
    them."""

    plan: str
    options: Mapping[str, str] | None

    def differences(self, other: "CalibrationSettings") -> str:
        """The options that differ from those of another body, in words; empty if none differ. Plans do not count."""
        if self.options is None or other.options is None:
            return ""
        these, others = self.options, other.options
        names = [name for name in {**these, **others} if name not in ALONE and these.get(name) != others.get(name)]
        return ", ".join(f"--{name} {these[name]}" if name in these else f"no --{name}" for name in names)


def settings_of(bundle: Bundle, body: Body) -> CalibrationSettings:
    """The settings of one int8 body of a bundle."""
    commands = bundle.manifest.provenance.commands
    calibrations = (options_of(command) for command in commands if command.startswith(CALIBRATE))
    made = [options for options in calibrations if body.target in options.get("target", "").split(",")]
    options = made[-1] if made and made[-1].get("plan") == body.plan else None  # else commands were edited
    plan = calibrated_plan(bundle, body)
    text = f"{body.plan}" if plan is None else along(plan)
    named = None if plan is None else to_text(plan.guidance)
    if options is not None and options.get("guidance") != named:
        text = f"{body.plan}, guidance {options.get('guidance', 'none')}"  # a later plan of this name has another
    return CalibrationSettings(text, options)


def options_of(command: str) -> dict[str, str]:
    """The options of a command line as `calibrate` notes it down, by name."""
    return {name: value for name, _, value in (part.partition(" ") for part in command.split(" --")[1:])}


def unlike(bodies: Mapping[str, CalibrationSettings], expected: CalibrationSettings, reference: str) -> tuple[str, ...]:
    """A clause for the bodies of another plan than expected, and one for those that were else calibrated otherwise
    than the `reference`."""
    elsewhere = [f"{name} ({each.plan})" for name, each in bodies.items() if each.plan != expected.plan]
    otherwise = [
        f"{name} ({differences})"
        for name, each in bodies.items()
        if each.plan == expected.plan and (differences := each.differences(expected))
    ]
    clauses = (
        (f"along another plan than {expected.plan}, so that their {MISFIT}", elsewhere),
        (f"otherwise than {reference}", otherwise),
    )
    return tuple(f"calibrated {lead}: {', '.join(names)}" for lead, names in clauses if names)


def judged_unlike(bundle: Bundle, judged: Mapping[str, Body], plan: AnyPlan) -> tuple[str, ...]:
    """Sentences for a report along `plan`: the judged int8 bodies that were calibrated along another plan, and those
    that were calibrated otherwise than the first that was not."""
    bodies = {name: settings_of(bundle, body) for name, body in judged.items() if body.plan}
    if not bodies:
        return ()
    first = next((name for name, each in bodies.items() if each.plan == along(plan)), next(iter(bodies)))
    expected = CalibrationSettings(along(plan), bodies[first].options)
    return tuple(f"{clause[0].upper()}{clause[1:]}." for clause in unlike(bodies, expected, first))


def kept_unlike(bundle: Bundle, new: Collection[str], plan: AnyPlan, command: str) -> tuple[str, ...]:
    """Clauses for a calibration along `plan`, by this command: on int8 bodies that are in the bundle and not among the
    `new` ones. UserError if the plan of one cannot be read."""
    there = {name: body for name, body in bundle.manifest.bodies.items() if body.precision == "int8" and body.plan}
    settings = {name: settings_of(bundle, body) for name, body in there.items() if name not in new}
    return unlike(settings, CalibrationSettings(along(plan), options_of(command)), "this time")
