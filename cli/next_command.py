"""The command that comes after a verb, with its duration if that is over a minute."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fewstep.graph.resource_needs import format_duration
from fewstep.measure.estimate import Estimate

LOG = logging.getLogger("fewstep")
LONG = 60.0  # seconds
LARGE = 2**28  # bytes of a bundle, from which opening it again takes longer than the answer is worth


@dataclass(frozen=True)
class NextCommand:
    """A command line. `estimate` gives the work of the command; None where it is short, or not known. It runs as the
    line is shown."""

    command: str
    estimate: Callable[[], Estimate] | None = None

    def __str__(self) -> str:
        seconds = None if self.estimate is None else _seconds(self.estimate)
        takes = f" (up to {format_duration(seconds)})" if seconds is not None and seconds > LONG else ""
        return f"Next: {self.command}{takes}"


def next_command(*words: object) -> NextCommand:
    """The command of `fewstep` with these words, each quoted for a shell."""
    return NextCommand(" ".join(["fewstep", *(quote(str(word)) for word in words)]))


def calibrate_next(bundle: Path) -> NextCommand:
    """`fewstep calibrate`, with the plan that it takes by default."""
    from fewstep.calibration.cost import estimate_cost
    from fewstep.calibration.open_task import open_task
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.plans.tokens.plan import USUAL
    from fewstep.runtime.bundle.networks import networks
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.sampling.sampler import PLAN

    manifest = open_bundle(bundle).manifest
    if manifest.distilled or manifest.towards:  # their solvers are the user's choice
        return NextCommand(f"fewstep calibrate {quote(str(bundle))} --plan SOLVER:STEPS")
    plan = USUAL if manifest.vocabulary else PLAN

    def estimate() -> Estimate:
        options = CalibrateOptions(bundle, plan=plan)
        return estimate_cost([open_task(options, name) for name in networks(manifest)]).estimate

    return NextCommand(next_command("calibrate", bundle, "--plan", plan).command, _of_small(bundle, estimate))


def report_next(bundle: Path) -> NextCommand:
    """`fewstep report`."""
    from fewstep.report.options import ReportOptions
    from fewstep.report.report import open_report_task

    estimate = _of_small(bundle, lambda: open_report_task(ReportOptions(bundle)).estimate())
    return NextCommand(next_command("report", bundle).command, estimate)


def advised_next(command: str, bundle: Path) -> NextCommand:
    """The command of a report's advice."""
    if not command.startswith("fewstep fit "):
        return NextCommand(command)
    from fewstep.fitting.cost import estimate_fit
    from fewstep.fitting.options import FitOptions
    from fewstep.fitting.task import BODY, open_fit_task
    from fewstep.plans.guidance import weight_of
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.sampling.planning import default_guidance

    def of_fit() -> Estimate:
        opened = open_bundle(bundle)
        guidance = weight_of(default_guidance(opened, opened.body(BODY), None))
        return estimate_fit(open_fit_task(FitOptions(bundle, guidance=guidance)))

    return NextCommand(command, _of_small(bundle, of_fit))


def _of_small(bundle: Path, estimate: Callable[[], Estimate]) -> Callable[[], Estimate] | None:
    """The estimate, which opens the bundle, where that takes moments."""
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return estimate if size < LARGE else None


def _seconds(estimate: Callable[[], Estimate]) -> float | None:
    """The seconds of the work; None where the command refuses it. What the command warns of is left to it."""
    level = LOG.level
    LOG.setLevel(logging.CRITICAL + 1)
    try:
        return estimate().seconds
    except Exception:  # what is done is done: an estimate that fails changes nothing about it
        return None
    finally:
        LOG.setLevel(level)
