"""What trials of a calibration will cost, said before it begins."""

from collections.abc import Iterator

from fewstep.calibration.choosing.trials import CHOOSING, most_evaluations
from fewstep.calibration.task import Task
from fewstep.graph.needs import duration


def budget(task: Task) -> int:
    """The most evaluations of one sample that trials of all targets take."""
    methods = len(task.methods)
    each = most_evaluations(methods, len(task.plan.steps), len(task.seeds)) if methods > 1 else 0
    return len(task.targets) * each


def budget_lines(task: Task, seconds: float) -> Iterator[str]:
    """`seconds` is what an evaluation of one sample takes."""
    most = budget(task)
    if most:
        yield (
            f"would try for each target, on up to {min(CHOOSING, len(task.seeds))} seeds: "
            f"{' and '.join(task.methods)}; at most {most} evaluations of one sample, {duration(most * seconds)} at "
            "float32's speed"
        )
