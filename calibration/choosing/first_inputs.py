"""The inputs of a body at the first step of each range group, for one sample: what its integer kernels are checked on.

Samples of trials have them already. Otherwise the first trajectory is run, by the float body.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fewstep.calibration.task import Task
from fewstep.graph.graph import GROUP
from fewstep.plans.plan import Plan
from fewstep.rollouts.closed_loop import Course
from fewstep.rollouts.on_demand import close
from fewstep.rollouts.row_by_row import body_by_rows, rows
from fewstep.rollouts.trajectories import roll_out
from fewstep.runtime.backends import Arrays

FirstInputs = Mapping[int, Sequence[Arrays]]  # by range group, the feeds of each row


def first_inputs(task: Task, plan: Plan, courses: Sequence[Course] = ()) -> FirstInputs:
    """The inputs of the first sample of some courses, or else of the first trajectory.

    `plan` has the groups of the bodies, which may be fewer than the task's.
    """
    seen: dict[int, list[Arrays]] = {}
    for group, feeds in _of_course(task, courses[0]) if courses else _of_trajectory(task, plan):
        seen.setdefault(group, feeds)
    return seen


def _of_course(task: Task, course: Course) -> Iterator[tuple[int, list[Arrays]]]:
    """The group and the inputs of the first sample at each step. A branch has the rows of all samples in turn."""
    for state in course.reference:
        feeds = course.fed(state.index, state.u)
        yield state.step.group, list(rows(feeds, task.sampler.body.graph.inputs))[:: len(state.u)]


def _of_trajectory(task: Task, plan: Plan) -> Iterator[tuple[int, list[Arrays]]]:
    """The group and the inputs of the first trajectory at each step."""
    sampler = body_by_rows(task.sampler)  # of a large body the activations of one row at a time
    first = roll_out(sampler, plan, task.seeds[:1], conditions=task.conditions, sizes=task.sizes, turn=task.turn)
    for each in first:
        group = plan.steps[each.state.index].group  # the float body, which runs here, has one group
        feeds = {**each.feeds, GROUP: np.array([group])}
        yield group, list(rows(feeds, task.sampler.body.graph.inputs))
    close(task.sampler.denoiser)
