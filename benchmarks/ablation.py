"""What each choice of calibration wins or costs: every one of them changed alone, over several calibration seeds.

    python -m benchmarks.ablation BUNDLE [--plan dpmpp_2m:8 ...] [--seeds 128] [--calibrations 3] [--work FOLDER]

PSNR against float32 along the same plan, on held-out seeds, with the body for this CPU as it is deployed, unless a row
says otherwise. Writes a table for each plan into docs/measured/choices.md; tables of other plans stay. Each result is a
file of the work folder, and one that is there is not measured again, unless the code of calibration has changed: an
interrupted run goes on where it was. Takes an hour or two on two idle cores for the shipped denoiser; fewer `--seeds`
and `--calibrations`, or `--only` some rows, make it shorter. The rows are in `choices/rows.py`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import options
from benchmarks.choices.rows import BASE, ROWS
from benchmarks.choices.seen import Body, Seen
from benchmarks.markdown import part_of, with_part
from fewstep.calibration.opening import open_task
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.task import Task
from fewstep.cli.progress import ProgressDisplay
from fewstep.graph.graph import GROUP
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.plans.errors import UserError
from fewstep.plans.plan import group_of
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.metrics import psnr
from fewstep.rollouts.trajectories import FIRST_SEED, roll_out
from fewstep.runtime.backends import LoadedGraph, openvino
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.execute import finish
from fewstep.runtime.progress import SILENT, Progress
from fewstep.workers import code_digest

PAGE = Path(__file__).parent.parent / "docs/measured/choices.md"
PLANS = ("dpmpp_2m:8", "dpmpp_2m:4")
SCRIPT = "benchmarks/ablation.py"
APART = 1000  # from the first seed of one calibration to that of the next
BATCH = 16

Array = NDArray[np.float64]
Results = dict[str, list[dict[str, Any]]]  # by row, a result of each calibration


@dataclass(frozen=True)
class Scope:
    """The held-out seeds that judge, how often each row is calibrated, and the folder of results."""

    seeds: range
    calibrations: int
    work: Path


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


def judge(
    task: Task, body: Body, seeds: range, reference: Array, given: ConditionRecords | None = None
) -> dict[str, Any]:
    """PSNR of each seed, in dB; its mean and 5th percentile; and the share of the errors' energy that is one image, the
    same for all seeds."""
    network = body.open(body.graph)
    networks = [in_group(network, group_of(step.lam, body.edges)) for step in task.plan.steps]
    made = samples(task, seeds, networks, given)
    quality, errors = psnr(made, reference), made - reference
    energy = float(np.square(errors).mean())
    return {
        "mean": float(quality.mean()),
        "p5": float(np.quantile(quality, 0.05)),
        "image": float(np.square(errors.mean(axis=0)).mean()) / energy if energy else 0.0,
        "psnr": [round(float(each), 3) for each in quality],
    }


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
    choices = sorted((Path(__file__).parent / "choices").rglob("*.py"))
    return sha256(b"".join((code_digest.code(), *(path.read_bytes() for path in choices)))).hexdigest()


def measure(
    settings: CalibrateOptions,
    names: Sequence[str],
    scope: Scope,
    progress: Progress,
    given: ConditionRecords | None = None,
) -> Results:
    """For each row, what `judge` finds of each calibration."""
    task = open_task(settings)
    facts = (
        task.sampler.bundle.manifest.files[task.sampler.body.graph.file],
        task.plan.name,
        task.plan.guidance,
        settings.trajectories,
        scope.seeds,
        code(),
        onnxruntime.__version__,
    )
    folder = scope.work / sha256(repr(facts).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found: Results = {name: [] for name in names}
    reference: Array | None = None
    for calibration in range(scope.calibrations):
        seed = FIRST_SEED + APART * calibration
        seen = Seen(open_task(replace(settings, seed=seed)), progress)
        for done, name in enumerate(names, 1):
            path = folder / f"{sha256(name.encode()).hexdigest()[:12]}-{seed}.json"
            if not path.exists():
                if reference is None:
                    reference = samples(task, scope.seeds, None, given)
                result = {"row": name, **judge(task, ROWS[name](seen), scope.seeds, reference, given)}
                partial_path = path.with_suffix(".partial")
                partial_path.write_text(json.dumps(result))
                partial_path.replace(path)
            found[name].append(json.loads(path.read_text()))
            progress(f"calibration {calibration + 1} of {scope.calibrations}", done, len(names))
    return found


def table(found: Results) -> str:
    """Markdown: mean over calibrations, lowest to highest; differences are taken calibration by calibration."""
    lines = ["| choice | mean dB | 5th percentile | against the first row, dB |", "|---|---|---|---|"]
    for name, results in found.items():
        means, p5s = (np.array([result[part] for result in results]) for part in ("mean", "p5"))
        gains = means - np.array([result["mean"] for result in found[BASE]])
        gain = "" if name == BASE else f"{gains.mean():+.2f} ({gains.min():+.2f} to {gains.max():+.2f})"
        lines.append(
            f"| {name} | {means.mean():.2f} ({means.min():.2f} to {means.max():.2f}) | {p5s.mean():.1f} | {gain} |"
        )
    return "\n".join(lines)


def page(text: str, tables: Mapping[str, str]) -> str:
    """The page with the tables of these plans between its markers; those of other plans stay as they are."""
    sections = re.split(r"^(?=`)", part_of(text, SCRIPT), flags=re.MULTILINE)  # each begins with its plan
    there = {section.split("`")[1]: section.strip() for section in sections if section}
    return with_part(text, SCRIPT, "\n\n".join((there | dict(tables)).values()))


def described(found: Mapping[str, Results], arguments: argparse.Namespace) -> dict[str, str]:
    """A table for each plan, and what was measured."""
    model = open_bundle(arguments.bundle).manifest.name
    return {
        plan: f"`{plan}` of `{model}`, {arguments.trajectories} trajectories, {arguments.seeds} held-out seeds from"
        f" {arguments.first_seed}, each line over {arguments.calibrations} calibrations (lowest to highest in"
        f" parentheses).\n\n{table(rows)}"
        for plan, rows in found.items()
    }


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--plan", action="append", help="that is calibrated along and judged; several times for several"
    )
    options.add_seeds(parser, 128)
    parser.add_argument(
        "--calibrations", type=options.positive, default=3, help="how many times each row is calibrated"
    )
    parser.add_argument("--trajectories", type=options.positive, default=CalibrateOptions.trajectories)
    options.add_work(parser, "ablation")
    options.add_only(parser, "rows")
    options.add_json(parser)
    arguments = parser.parse_args(given)
    with options.refusing(parser), ProgressDisplay() as progress:
        names = chosen(arguments.only)
        scope = Scope(options.seeds_of(arguments), arguments.calibrations, arguments.work)
        targets, trajectories = (CPU_X86.name,), arguments.trajectories
        found = {
            plan: measure(CalibrateOptions(arguments.bundle, plan, targets, trajectories), names, scope, progress)
            for plan in arguments.plan or PLANS
        }
        if not arguments.json and not arguments.only:
            PAGE.write_text(page(PAGE.read_text(), described(found, arguments)))
    print(json.dumps(found) if arguments.json else "\n\n".join(described(found, arguments).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
