"""Write the results of a measurement to its bundle, or to a file that the user names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.graph.files.output_files import check_writable
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import Bundle


@contextmanager
def open_if_unchanged(bundle: Bundle, instead: str) -> Iterator[Writer]:
    """Open a measured bundle for writing, and yield its writer.

    Raises UserError if it cannot be written, with the fix `instead`, or if its graphs are no longer those of `bundle`.
    """
    with open_for_update(bundle.path, must_exist=True, instead=instead) as writer:
        assert writer.opened is not None, "the bundle exists"
        graphs = ("bodies", "prologue", "networks")
        if any(getattr(writer.opened.manifest, name) != getattr(bundle.manifest, name) for name in graphs):
            raise UserError(f"{bundle.path} was changed while it was measured", "run the command again")
        yield writer


def check_output(task: JudgedTask, output: Path | None, room: int, figures: str, suffix: str) -> None:
    """Raise UserError if the results of a comparison cannot be written: to the file `output` or, if that is None, to
    the bundle. A bundle stores only results of the calibrated plan, and needs `room` bytes of disk space. `figures`
    names the results in the message."""
    if output is not None:
        check_writable(output)
        return
    body = next(iter(task.bodies.values()))
    if task.plan != select_plan(task.reference.plans, body):
        raise UserError(
            f"{task.bundle.path} was calibrated along {body.plan}, and keeps only the {figures} of that plan",
            f"give --output FILE{suffix} for another plan or guidance",
        )
    with open_for_update(task.bundle.path, must_exist=True, instead=f"give --output FILE{suffix}") as writer:
        writer.reserve(room)  # it is writable, and not locked by another process
