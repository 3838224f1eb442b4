"""The command to run after a verb, with its estimated duration if that exceeds a minute."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from fewstep.graph.resource_needs import format_duration
from fewstep.measure.estimate import Estimate

if TYPE_CHECKING:
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.report.advice import Advice, LongWork

LOG = logging.getLogger("fewstep")
LONG = 60.0  # seconds
LARGE = 2**28  # bytes of a bundle: opening a larger one takes too long for a mere estimate


@dataclass(frozen=True)
class NextCommand:
    """A command line. `estimate` returns the work of the command, and is called when the line is shown. It is None if
    the command is short or its work is unknown."""

    command: str
    estimate: Callable[[], Estimate] | None = None

    def __str__(self) -> str:
        seconds = None if self.estimate is None else _seconds(self.estimate)
        takes = f" (up to {format_duration(seconds)})" if seconds is not None and seconds > LONG else ""
        return f"Next: {self.command}{takes}"


def next_command(*words: object) -> NextCommand:
    """Return the `fewstep` command with these words, each quoted for a shell."""
    return NextCommand(" ".join(["fewstep", *(quote(str(word)) for word in words)]))


def calibrate_next(bundle: Path) -> NextCommand:
    """Return the `fewstep calibrate` command with the default plan."""
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.calibration.suggested_clip import suggest_clip
    from fewstep.runtime.bundle.networks import calibration_plan
    from fewstep.runtime.bundle.reading import open_bundle

    manifest = open_bundle(bundle).manifest
    if manifest.distilled or manifest.towards:  # their solvers and steps are the user's choice
        plan = "SOLVER:STEPS" if manifest.scheduler is None else "scheduler:STEPS"
        return NextCommand(_with_conditions(f"fewstep calibrate {quote(str(bundle))} --plan {plan}", bundle))
    plan, clip = calibration_plan(manifest), suggest_clip(open_bundle(bundle))
    options = CalibrateOptions(bundle, clip=clip)
    clipped = () if clip is None else ("--clip", f"{clip:g}")
    command = _with_conditions(next_command("calibrate", bundle, "--plan", plan, *clipped).command, bundle)
    return NextCommand(command, _of_small(bundle, lambda: _estimate_calibration(options)))


def run_next(bundle: Path, *words: object) -> NextCommand:
    """Return the `fewstep run` command with these words, and an example value of each required condition."""
    return NextCommand(_with_values(next_command("run", bundle, *words).command, bundle))


def report_next(bundle: Path) -> NextCommand:
    """Return the `fewstep report` command."""
    from fewstep.report.options import ReportOptions
    from fewstep.report.report_task import open_report_task

    estimate = _of_small(bundle, lambda: open_report_task(ReportOptions(bundle)).estimate())
    return NextCommand(_with_conditions(next_command("report", bundle).command, bundle), estimate)


def suggest_advice(advised: "Advice", bundle: Path) -> NextCommand:
    """Return the command of a report's advice, with an estimate if it can take minutes."""
    options = advised.options
    if options is None:
        return NextCommand(_with_values(advised.command, bundle))
    return NextCommand(_with_conditions(advised.command, bundle), _of_small(bundle, lambda: _estimate(options)))


def _estimate(options: "LongWork") -> Estimate:
    """Estimate a calibration, a choice or a fit."""
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.report.choosing.options import ChooseOptions

    if isinstance(options, CalibrateOptions):
        return _estimate_calibration(options)
    if isinstance(options, ChooseOptions):
        from fewstep.report.choosing.choose import open_judging, plans_by_body
        from fewstep.report.choosing.cost import estimate

        judging = open_judging(options)
        return estimate(judging, plans_by_body(judging, options.plan), options.threads, options.milliseconds)
    from fewstep.fitting.cost import estimate_fit
    from fewstep.fitting.requirements import BODY
    from fewstep.fitting.task import open_fit_task
    from fewstep.plans.guidance import weight_of
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.sampling.calibrated_plans import calibrated_defaults

    opened = open_bundle(options.bundle)
    guidance = weight_of(calibrated_defaults(opened, opened.body(BODY), None).guidance)
    return estimate_fit(open_fit_task(replace(options, guidance=guidance)))


def _estimate_calibration(options: "CalibrateOptions") -> Estimate:
    from fewstep.calibration.cost import estimate_cost
    from fewstep.calibration.open_task import open_task
    from fewstep.runtime.bundle.networks import networks
    from fewstep.runtime.bundle.reading import open_bundle

    names = networks(open_bundle(options.bundle).manifest)
    return estimate_cost([open_task(options, name) for name in names]).estimate


def _with_values(command: str, bundle: Path) -> str:
    """Return a `run` command with an example value of each required condition."""
    from fewstep.cli.conditions import required_arguments
    from fewstep.runtime.bundle.reading import open_bundle

    return " ".join([command, *required_arguments(open_bundle(bundle).manifest)])


def _with_conditions(command: str, bundle: Path) -> str:
    """Return a command that samples a bundle, with --conditions if random values cannot replace data."""
    from fewstep.cli.conditions import needs_records
    from fewstep.runtime.bundle.reading import open_bundle

    return f"{command} --conditions FILE" if needs_records(open_bundle(bundle).manifest) else command


def _of_small(bundle: Path, estimate: Callable[[], Estimate]) -> Callable[[], Estimate] | None:
    """Return the estimate, or None for a large bundle, which takes long to open."""
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return estimate if size < LARGE else None


def _seconds(estimate: Callable[[], Estimate]) -> float | None:
    """Return the seconds of the work; None if the command would refuse it. Warnings are left to the command itself."""
    level = LOG.level
    LOG.setLevel(logging.CRITICAL + 1)
    try:
        return estimate().seconds
    except Exception:  # the verb has succeeded already: a failed estimate must not change that
        return None
    finally:
        LOG.setLevel(level)
