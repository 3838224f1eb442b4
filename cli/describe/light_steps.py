"""The output of `fewstep fit --light`: the plan with light steps, and the command that samples along it."""

from fewstep.cli.describe.fit import sampling_command
from fewstep.cli.next_command import NextCommand
from fewstep.cli.outcome import Outcome
from fewstep.fitting.light_steps import LightChoice, open_light_task
from fewstep.fitting.options import FitOptions
from fewstep.measure.rollouts.trajectories import trajectories_text


def light_outcome(options: FitOptions, choice: LightChoice) -> Outcome:
    """Describe the chosen light steps."""
    counts = f"{len(choice.light)} of {len(choice.errors)} steps are light"
    lines = [f"{choice.plan}: {counts}: {choice.cost:.1f} full evaluations by multiply-adds"]
    if known := [error for error in choice.errors if error is not None]:
        lines.append(f"relative errors of features that light steps would read: {min(known):.3g} to {max(known):.3g}")
    then = NextCommand(sampling_command(options, choice.plan, options.guidance))
    return Outcome(choice, tuple(lines), then=then)


def light_dry_run(options: FitOptions) -> Outcome:
    """Describe what a choice of light steps would run, for --dry-run. Raises UserError if it would be refused."""
    open_light_task(options)
    what = f"would choose light steps of {options.plan} along {trajectories_text(options.seeds)} of float32"
    return Outcome({"bundle": options.bundle, "plan": str(options.plan), "seeds": options.seeds}, (what,))
