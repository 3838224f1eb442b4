"""What trials of a calibration will cost, told before it begins."""

from collections.abc import Iterator

from fewstep.calibration.choosing.thin import thin_convolutions
from fewstep.calibration.choosing.trials import CHOOSING, most_evaluations
from fewstep.calibration.options import CalibrateOptions, biased_targets, methods_of, thin_targets
from fewstep.calibration.task import Task
from fewstep.cli.outcome import counted
from fewstep.graph.needs import duration


def budget(options: CalibrateOptions, task: Task) -> int:
    """The most evaluations of one sample that trials of all targets take."""
    methods, thin, biased = len(methods_of(options)), thin_targets(options), biased_targets(options)
    has_thin = bool(thin and thin_convolutions(task.prepared))
    size = (len(task.plan.steps), len(task.seeds))
    ways = [(has_thin and target.name in thin, target.name in biased) for target in task.targets]
    return sum(most_evaluations(methods, *each, *size) for each in ways if methods > 1 or any(each))


def budget_lines(options: CalibrateOptions, task: Task, seconds: float) -> Iterator[str]:
    """`seconds` is what an evaluation of one sample takes."""
    most = budget(options, task)
    if most:
        choosing = min(CHOOSING, len(task.seeds))
        methods = len(methods_of(options))
        parts = [counted(methods, "method") + " of ranges"] if methods > 1 else []
        parts += ["thin convolutions in float"] if thin_targets(options) else []
        parts += ["the output without its mean error"] if biased_targets(options) else []
        yield (
            f"would try for each target, on up to {choosing} seeds: {', '.join(parts)}; "
            f"at most {most} evaluations of one sample, {duration(most * seconds)} at float32's speed"
        )
