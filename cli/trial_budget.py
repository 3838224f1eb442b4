"""What trials of a calibration will cost, said before it begins."""

from collections.abc import Iterator

from fewstep.calibration.choosing.trials import CHOOSING, most_evaluations
from fewstep.calibration.task import Task
from fewstep.cli.outcome import counted
from fewstep.graph.needs import duration


def budget(task: Task) -> int:
    """The most evaluations of one sample that trials of all targets take."""
    ways = [len(task.methods) + bool(task.thin_of(target)) for target in task.targets]
    return sum(most_evaluations(each, len(task.plan.steps), len(task.seeds)) for each in ways if each > 1)


def budget_lines(task: Task, seconds: float) -> Iterator[str]:
    """`seconds` is what an evaluation of one sample takes."""
    most = budget(task)
    if most:
        parts = [counted(len(task.methods), "method") + " of ranges"] * (len(task.methods) > 1)
        parts += ["thin convolutions in float"] * any(map(task.thin_of, task.targets))
        yield (
            f"would try for each target, on up to {min(CHOOSING, len(task.seeds))} seeds: {', '.join(parts)}; "
            f"at most {most} evaluations of one sample, {duration(most * seconds)} at float32's speed"
        )
