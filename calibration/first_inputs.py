"""What integer kernels are checked on: the inputs of a body at the first step of each range group, for one sample."""

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.calibration.task import Task
from fewstep.rollouts.closed_loop import Course
from fewstep.rollouts.row_by_row import rows
from fewstep.rollouts.token_course import TokenCourse
from fewstep.runtime.backends import Arrays

FirstInputs = Mapping[int, Sequence[Arrays]]  # by range group, the feeds of each row


def first_inputs(task: Task, course: Course | TokenCourse) -> FirstInputs:
    """The inputs of a course's first sample. A branch has the rows of all samples in turn."""
    inputs: dict[int, list[Arrays]] = {}
    states: Sequence[Any] = course.own_states
    for state in states:
        if state.step.group not in inputs:
            feeds = course.fed(state)
            inputs[state.step.group] = list(rows(feeds, task.sampler.body.graph.inputs))[:: len(state.u)]
    return inputs
