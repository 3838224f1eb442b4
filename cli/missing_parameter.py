"""The error for a required argument or option that a command line lacks: its meaning, and an example."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.cli.errors import CommandLineError
from fewstep.cli.generate import Verb, field_help, options_of
from fewstep.cli.verbs import VERBS
from fewstep.plans.names.plan_reference import FittedReference, SchedulerReference
from fewstep.runtime.bundle.reading import open_bundle


def missing_parameter(error: Exception, name: str, verb: Verb) -> CommandLineError | None:
    """Return the error for a parser's error about a missing parameter of the verb `name`; None for other errors.

    A missing plan is answered with the plans of the bundle. Raises UserError if that bundle cannot be opened.
    """
    parameter, context = getattr(error, "param", None), getattr(error, "ctx", None)
    if type(error).__name__ != "MissingParameter" or parameter is None:
        return None
    flags = "/".join(parameter.opts) if parameter.opts[0].startswith("-") else parameter.name.upper()
    given: Mapping[str, Any] = getattr(context, "params", {})
    fix = f"for example: {VERBS[name].example}"
    if parameter.name == "plan" and given.get("bundle") is not None:
        fix = _plan_fix(given["bundle"])
        return CommandLineError(f"{name} needs {flags}", fix)
    meaning, _, _ = field_help(options_of(verb)).get(parameter.name, "").partition(". ")
    return CommandLineError(f"{name} needs {flags}" + f" ({meaning.rstrip('.')})" * bool(meaning), fix)


def _plan_fix(bundle: Path) -> str:
    """Return the plans that a bundle has, and how to name another."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    calibrated = dict.fromkeys(each.plan for each in manifest.bodies.values() if each.plan is not None)
    fitted = [str(FittedReference(each)) for each in sorted({each.evaluations for each in manifest.fitted})]
    known = [f"{bundle} is calibrated along --plan {' or '.join(calibrated)}"] if calibrated else []
    known += [f"{bundle} has --plan {' or '.join(fitted)}"] if fitted else []
    usual = manifest.space.default_plan
    such = usual
    if manifest.scheduler is not None:
        from fewstep.runtime.sampling.scheduler_plans import usual_steps  # slow to load

        such = f"{SchedulerReference(usual_steps(opened, 8))} or {usual}"
    others = (
        "`fewstep plan --list` shows other solvers"
        if known
        else f"give SOLVER:STEPS, such as {such} (fewstep plan --list)"
    )
    return "; ".join([*known, others])
