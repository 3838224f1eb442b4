"""The settings by which int8 bodies were calibrated, as far as they follow from the manifest. Bodies of different
targets can be compared only if their settings are equal.

A bundle keeps the commands that made it. The last command that lowered for a target gives the settings of that target's
body. Its bound (--quality or --speed), its judge and its other targets are not compared, since a bound need not apply
to every target. Plans are compared by name and by guidance weight.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fewstep.measure.rollouts.plan_selection import MISFIT, describe_plan
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.guidance import to_text
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.remake_commands import read_command_options
from fewstep.runtime.sampling.calibrated_plans import read_calibrated_plan

CALIBRATE = "fewstep calibrate "
ALONE = ("plan", "guidance", "target", "quality", "speed", "judge")  # plan and guidance are compared separately


@dataclass(frozen=True)
class CalibrationSettings:
    """The settings of a calibration. `plan` is text and includes the guidance; `options` is None if no command gives
    them."""

    plan: str
    options: Mapping[str, str] | None

    def differences(self, other: "CalibrationSettings") -> str:
        """Return, as text, the options that differ from those of another body; "" if none differ or those of one body
        are unknown. Plans are not compared."""
        if self.options is None or other.options is None:
            return ""
        these, others = self.options, other.options
        names = [name for name in {**these, **others} if name not in ALONE and these.get(name) != others.get(name)]
        return ", ".join(_as_flag(name, these[name]) if name in these else f"no {_as_flag(name)}" for name in names)


def read_settings(bundle: Bundle, body: Body) -> CalibrationSettings:
    """Return the settings with which one int8 body of a bundle was calibrated. Its options are None if the recorded
    commands do not contain that calibration."""
    commands = bundle.manifest.provenance.commands
    calibrations = (read_command_options(command) for command in commands if command.startswith(CALIBRATE))
    made = [options for options in calibrations if body.target in options.get("target", "").split(",")]
    options = made[-1] if made and made[-1].get("plan") == body.plan else None  # None if commands were edited
    plan = read_calibrated_plan(bundle, body)
    text = f"{body.plan}" if plan is None else describe_plan(plan)
    named = None if plan is None else to_text(plan.guidance)
    if options is not None and options.get("guidance") != named:
        text = f"{body.plan}, guidance {options.get('guidance', 'none')}"  # a later plan of this name differs
    return CalibrationSettings(text, options)


def _as_flag(name: str, value: str = "") -> str:
    """Return an option as it is written in a command line."""
    return f"--{name.replace('_', '-')} {value}".rstrip()


def describe_differences(
    bodies: Mapping[str, CalibrationSettings], expected: CalibrationSettings, reference: str
) -> tuple[str, ...]:
    """Return up to two clauses. One names the bodies that were calibrated along a plan other than the expected one. The
    other names those that were calibrated along the expected plan, but with options that differ from the expected ones,
    which are those of `reference`."""
    elsewhere = [f"{name} ({body.plan})" for name, body in bodies.items() if body.plan != expected.plan]
    otherwise = [
        f"{name} ({differences})"
        for name, body in bodies.items()
        if body.plan == expected.plan and (differences := body.differences(expected))
    ]
    clauses = (
        (f"along a plan other than {expected.plan}, so that their {MISFIT}", elsewhere),
        (f"with other options than {reference}", otherwise),
    )
    return tuple(f"calibrated {lead}: {', '.join(names)}" for lead, names in clauses if names)


def describe_judged_differences(bundle: Bundle, judged: Mapping[str, Body], plan: AnyPlan) -> tuple[str, ...]:
    """Return sentences for a report along `plan` about differences between the calibrations of its int8 bodies. One
    names the bodies that were calibrated along another plan; one names those whose options differ from those of the
    first body that was calibrated along `plan`. Empty if there are none."""
    bodies = {name: read_settings(bundle, body) for name, body in judged.items() if body.plan}
    if not bodies:
        return ()
    first = next((name for name, each in bodies.items() if each.plan == describe_plan(plan)), next(iter(bodies)))
    expected = CalibrationSettings(describe_plan(plan), bodies[first].options)
    return tuple(f"{clause[0].upper()}{clause[1:]}." for clause in describe_differences(bodies, expected, first))


def describe_kept_differences(bundle: Bundle, new: Collection[str], plan: AnyPlan, command: str) -> tuple[str, ...]:
    """Return clauses that name int8 bodies which stay in the bundle (they are not in `new`) although they were
    calibrated with other settings than along `plan` by `command`. Raises UserError if the plan of such a body cannot be
    read."""
    there = {name: body for name, body in bundle.manifest.bodies.items() if body.is_quantized and body.plan}
    settings = {name: read_settings(bundle, body) for name, body in there.items() if name not in new}
    return describe_differences(
        settings, CalibrationSettings(describe_plan(plan), read_command_options(command)), "this time"
    )
