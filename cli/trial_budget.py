"""What trials of a calibration will cost, told before it begins."""

from collections.abc import Iterator

from fewstep.calibration.choosing.trials import CHOOSING, most_evaluations
from fewstep.calibration.options import CalibrateOptions, biased_targets, methods_of
from fewstep.calibration.task import Task
from fewstep.cli.outcome import counted
from fewstep.graph.needs import duration


def budget(options: CalibrateOptions, task: Task) -> int:
    """The most evaluations of one sample that trials of all targets take."""
    methods, biased = len(methods_of(options)), biased_targets(options)
    tried = [target.name in biased for target in task.targets if methods > 1 or target.name in biased]
    size = (len(task.plan.steps), len(task.seeds))
    return sum(most_evaluations(methods, has_bias, *size) for has_bias in tried)


def budget_lines(options: CalibrateOptions, task: Task, seconds: float) -> Iterator[str]:
    """`seconds` is what an evaluation of one sample takes."""
    most = budget(options, task)
    if most:
        choosing = min(CHOOSING, len(task.seeds))
        yield (
            f"would try {counted(len(methods_of(options)), 'method')} of ranges for each target on up to {choosing} "
            f"seeds, and the best without the mean error of its output: at most {most} evaluations of one sample, "
            f"{duration(most * seconds)} at float32's speed"
        )
