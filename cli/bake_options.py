"""The command-line options of `fewstep bake`, which can take plan and body from the choice saved on this machine."""

from dataclasses import dataclass, fields
from typing import Any

from fewstep.graph.bake.network_form import body_form
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.resolve_run import select_body
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import TextReference, parse_plan_text
from fewstep.plans.shaping import Clip, Shaping
from fewstep.report.choosing.saved_choice import load_choice, refuse_budget
from fewstep.runtime.sampling.calibrated_plans import default_reference

OF_A_CHOICE = ("plan", "precision", "body", "guidance", "clip")  # options that a saved choice sets


@dataclass(frozen=True, kw_only=True)
class BakeCommandOptions(BakeOptions):
    """Write a whole run as one ONNX file: noise and conditions in, samples out.

    plan: SOLVER:STEPS, scheduler:STEPS, fitted:STEPS for a plan of `fewstep fit`, or the path of a plan's JSON file.
        Default: that of `fewstep run`.
    chosen: Bake the plan and body of the last `fewstep choose` on this machine, with its guidance and clip.
    """

    plan: TextReference | None = None  # type: ignore[assignment]  # `complete_options` replaces None
    chosen: bool = False


def complete_options(options: BakeCommandOptions) -> BakeOptions:
    """Return the options, with those of the saved choice if --chosen is given.

    Without --plan and --chosen the plan is the default of `fewstep run`. Raises UserError for an option that the choice
    sets.
    """
    values: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(BakeOptions)}
    if options.chosen:
        for name in OF_A_CHOICE:
            if values[name] is not None:
                raise UserError(f"--chosen already sets --{name}", f"leave out --{name} or --chosen")
        choice = load_choice(options.bundle)
        refuse_budget(choice, "a baked file")
        settings, plan = choice.settings, parse_plan_text(choice.winner.plan)
        values |= {"plan": plan, "body": choice.winner.body, "guidance": settings["guidance"]}
        values["clip"] = _clip_of(settings["shaping"])
    elif options.plan is None:
        values["plan"] = _select_default(options)
    return BakeOptions(**values)


def _select_default(options: BakeCommandOptions) -> TextReference:
    """Return the plan that `bake` uses for the chosen body if the user names none."""
    bundle = options.open()
    name, _ = body_form(bundle.manifest, select_body(options, bundle))
    is_changed = any(option is not None for option in (options.guidance, options.clip, options.start))
    return default_reference(bundle, bundle.body(name), is_changed, options.start is not None)


def _clip_of(shaping: Shaping | None) -> float | None:
    """Return the value of --clip that gives this shaping, or None for no shaping. Raises UserError for a shaping that
    --clip cannot express."""
    if shaping is None:
        return None
    if not isinstance(shaping, Clip) or shaping.low != -shaping.high:
        what = f"the choice has the shaping {shaping}, which `fewstep bake` has no option for"
        raise UserError(what, "write the plan to a file, and give --plan FILE.json")
    return shaping.high
