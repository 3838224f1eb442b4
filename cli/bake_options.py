"""The options of `fewstep bake` on the command line, which may take a run from the saved choice of this machine."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fewstep.cli.errors import CommandLineError
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import FittedReference, SchedulerReference, TextReference, parse_plan_text
from fewstep.plans.shaping import Clip, Shaping
from fewstep.report.choosing.saved_choice import load_choice
from fewstep.runtime.bundle.reading import open_bundle

OF_A_CHOICE = ("plan", "precision", "body", "guidance", "clip")  # options that a saved choice sets


@dataclass(frozen=True, kw_only=True)
class BakeCommandOptions(BakeOptions):
    """Write a whole run as one ONNX file: noise and conditions in, samples out.

    chosen: Bake the plan and body of the last `fewstep choose` on this machine, with its guidance and clip.
    """

    plan: TextReference | None = None  # type: ignore[assignment]  # `complete_options` replaces None
    chosen: bool = False


def complete_options(options: BakeCommandOptions) -> BakeOptions:
    """Return the options, with those of the saved choice if --chosen is given.

    Raises UserError for an option that the choice sets, and if neither --plan nor --chosen is given.
    """
    values: dict[str, Any] = {each.name: getattr(options, each.name) for each in fields(BakeOptions)}
    if options.chosen:
        for name in OF_A_CHOICE:
            if values[name] is not None:
                raise UserError(f"--chosen already sets --{name}", "leave one of them out")
        choice = load_choice(options.bundle)
        settings, plan = choice.settings, parse_plan_text(choice.winner.plan)
        values |= {"plan": plan, "body": choice.winner.body, "guidance": settings["guidance"]}
        values["clip"] = _clip_of(settings["shaping"])
    elif options.plan is None:
        raise CommandLineError("bake needs --plan", _suggest_plans(options.bundle))
    return BakeOptions(**values)


def _clip_of(shaping: Shaping | None) -> float | None:
    """Return the value of --clip for a shaping."""
    if shaping is None:
        return None
    if not isinstance(shaping, Clip) or shaping.low != -shaping.high:
        what = f"the choice has the shaping {shaping}, which `fewstep bake` has no option for"
        raise UserError(what, "write the plan to a file, and give --plan FILE.json")
    return shaping.high


def _suggest_plans(bundle: Path) -> str:
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
