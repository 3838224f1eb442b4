"""The gain or loss of each choice of calibration: every one of them changed alone, on trained denoisers.

    python -m benchmarks.choices.measure [--model NAME ...] [--only ROW ...] [--steps 8 ...] [--calibrations 1]

Each row is PSNR against float32 along the same plan, on held-out seeds, as its body is deployed. Denoisers are exported
into the work folder. Each result is a file there, and one that is there is not measured again, unless the code of
calibration has changed: an interrupted run goes on where it was. The table of all members of the zoo and that of
`fashion_mnist` alone go into docs/measured/choices.md; others are printed. The rows are in `rows.py`. Some take minutes
for a denoiser: `--only` leaves others out, in the table too.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import markdown, options
from benchmarks.choices.rows import BASE, ROWS, Row
from benchmarks.choices.seen import Body, Seen
from benchmarks.kept import kept
from benchmarks.zoo.bundles import calibration, exported, held_out_rows
from benchmarks.zoo.members import MEMBERS, SHIPPED, Member
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.opening import open_task
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.task import Task
from fewstep.cli.progress import progress_display
from fewstep.graph.graph import GROUP
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.held_out import held_out_conditions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.trajectories import FIRST_SEED, roll_out
from fewstep.measure.workers import code_digest
from fewstep.plans.errors import UserError
from fewstep.plans.plan import group_of
from fewstep.runtime.backends import LoadedGraph, openvino
from fewstep.runtime.execute import finish
from fewstep.runtime.progress import SILENT, Progress

PAGE = Path(__file__).parents[2] / "docs/measured/choices.md"
SCRIPT = "benchmarks/choices/measure.py"
PARTS = {tuple(each.name for each in MEMBERS): f"{SCRIPT}, the zoo", ("fashion_mnist",): SCRIPT}  # of the page
STEPS = (8, 4)
APART = 1000  # from the first seed of one calibration to that of the next
BATCH = 16
SURE = 2.0  # standard errors of the difference: what is further away is a win or a loss

Array = NDArray[np.float64]


class Result(msgspec.Struct, frozen=True):
    """PSNR of each seed and calibration in dB, and the share of the errors' energy that is one image."""

    image: float
    psnr: list[float]


Results = dict[str, Result]  # by row


def samples(
    task: Task, seeds: range, networks: Sequence[LoadedGraph] | None = None, given: ConditionRecords | None = None
) -> Array:
    """Held-out seeds along the task's plan [len(seeds), *x_shape]; `networks` in float32's place. Conditions are
    drawn, or `given` as a file would have them."""
    conditions = held_out_conditions(task.sampler.bundle.manifest.conditions, seeds, given)
    parts = []
    for start in range(0, len(seeds), BATCH):
        rows = {name: value[start : start + BATCH] for name, value in conditions.items()}
        *_, last = roll_out(task.sampler, task.plan, seeds[start : start + BATCH], SILENT, BATCH, rows, networks)
        parts.append(finish(task.plan, [last.state]))
    return np.concatenate(parts).astype(np.float64)


def judge(task: Task, body: Body, seeds: range, reference: Array, given: ConditionRecords | None = None) -> Result:
    """PSNR of each seed, in dB, and the share of the errors' energy that is one image, the same for all seeds."""
    network = body.target.runs(body.graph)
    networks = [in_group(network, group_of(step.lam, body.edges)) for step in task.plan.steps]
    drawn = samples(task, seeds, networks, given)
    errors = drawn - reference
    energy = float(np.square(errors).mean())
    image = float(np.square(errors.mean(axis=0)).mean()) / energy if energy else 0.0
    return Result(image, [round(float(each), 3) for each in psnr(drawn, reference)])


def in_group(network: LoadedGraph, group: int) -> LoadedGraph:
    """A lowered body at one of its range groups; one without groups takes no notice."""
    number = np.array([group], np.int64)
    return lambda feeds: network({**feeds, GROUP: number})


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """Names of the rows to measure. UserError if there are none of that name, or an engine that one of them needs is
    not installed."""
    if unknown := [part for part in only if not any(part in name for name in ROWS)]:
        raise UserError(f"--only {unknown[0]}: no row has it in its name", f"choose from {'; '.join(ROWS)}")
    names = tuple(name for name in ROWS if name == BASE or not only or any(part in name for part in only))
    if any("openvino" in name for name in names):
        openvino.module()
    return names


def code() -> str:
    """A digest of the code that results follow from: a row of the same name may mean something else after a change."""
    choices = sorted(Path(__file__).parent.rglob("*.py"))
    return sha256(b"".join((code_digest.code(), *(path.read_bytes() for path in choices)))).hexdigest()


def measured(
    member: Member, names: Sequence[str], plan: str, arguments: argparse.Namespace, progress: Progress
) -> Results:
    """The rows of one denoiser along a plan."""
    seeds, bundle = options.seeds_of(arguments), exported(member, arguments.work)
    settings = calibration(member, bundle, plan, (CPU_X86.name,), arguments.trajectories)
    task, given = open_task(settings), held_out_rows(member, seeds)
    content = task.sampler.bundle.manifest.files[task.sampler.body.graph.file]
    facts = (content, task.plan.name, task.plan.guidance, settings.trajectories, seeds, code(), onnxruntime.__version__)
    reference = cache(lambda: samples(task, seeds, None, given))
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(arguments.calibrations):
        seed = FIRST_SEED + APART * number
        seen = Seen(open_task(replace(settings, seed=seed)), progress)
        for done, name in enumerate(names, 1):
            find = partial(_judged, task, ROWS[name], seen, seeds, reference, given)
            results[name].append(kept(arguments.work / "rows", Result, find, *facts, name, seed))
            progress(f"{member.name}, calibration {number + 1} of {arguments.calibrations}", done, len(names))
    return {name: joined(each) for name, each in results.items()}


def _judged(
    task: Task, row: Row, seen: Seen, seeds: range, reference: Callable[[], Array], given: ConditionRecords | None
) -> Result:
    return judge(task, row(seen), seeds, reference(), given)


def joined(results: Sequence[Result]) -> Result:
    """All calibrations of a row."""
    return Result(
        float(np.mean([result.image for result in results])), [each for result in results for each in result.psnr]
    )


def table(results: Mapping[str, Results]) -> str:
    """Markdown: a line a choice, a column a denoiser. The first line has its own figures; the others the difference to
    it, in bold where it is sure."""
    default = [BASE, *(_figures(rows[BASE]) for rows in results.values())]
    others = [name for name in next(iter(results.values())) if name != BASE]
    lines = [[name, *(_difference(rows[name], rows[BASE]) for rows in results.values())] for name in others]
    return markdown.table(["choice", *results], [default, *lines])


def _figures(result: Result) -> str:
    mean, tail = np.mean(result.psnr), np.quantile(result.psnr, 0.05)
    return f"{mean:.1f} / {tail:.1f} ({100 * result.image:.0f} %)"


def _difference(result: Result, base: Result) -> str:
    """The difference of the means over the same seeds, then of the 5th percentiles."""
    gains = np.array(result.psnr) - np.array(base.psnr)
    tail = float(np.quantile(result.psnr, 0.05) - np.quantile(base.psnr, 0.05))
    error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.inf
    text = f"{gains.mean():+.1f}"
    return f"{f'**{text}**' if abs(gains.mean()) > SURE * error else text} / {tail:+.1f}"


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    denoisers = (*MEMBERS, *SHIPPED)
    options.add_denoisers(parser, [each.name for each in denoisers])
    parser.add_argument("--grid", help="of plans that name none; default: that of the exported bundle")
    options.add_seeds(parser, 64)
    parser.add_argument("--calibrations", type=options.positive, default=1, help="how often each row is calibrated")
    parser.add_argument("--trajectories", type=options.positive, default=CalibrateOptions.trajectories)
    options.add_work(parser, "choices")
    options.add_only(parser, "rows")
    arguments = parser.parse_args(given)
    members = [each for each in denoisers if each.name in arguments.model] if arguments.model else MEMBERS
    tables = []
    with options.refusing(parser), progress_display() as progress:
        names, _ = chosen(arguments.only), options.seeds_of(arguments)
        for steps in arguments.steps or STEPS:
            results = {
                each.name: measured(each, names, each.along(steps, arguments.grid), arguments, progress)
                for each in members
            }
            tables.append(
                f"`{steps} steps{f' on the grid {arguments.grid}' if arguments.grid else ''}`:"
                f" {arguments.trajectories} trajectories, {arguments.seeds} held-out seeds from"
                f" {arguments.first_seed}, calibrated {arguments.calibrations} x.\n\n{table(results)}"
            )
        part = PARTS.get(tuple(each.name for each in members))
        if part is not None:
            markdown.put_part(PAGE, part, "\n\n".join(tables))
    print("\n\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
