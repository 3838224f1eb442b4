"""What each choice of calibration wins or costs: every one of them changed alone, over several calibration seeds.

    python -m benchmarks.ablation BUNDLE [--plan dpmpp_2m:8 ...] [--seeds 128] [--calibrations 3] [--work FOLDER]

PSNR against float32 along the same plan, on held-out seeds, with the body for this CPU as it is deployed, unless a row
says otherwise. Writes a table for each plan into docs/measured/choices.md; tables of other plans stay. Each result is a
file of the work folder, and one that is there is not measured again, unless the code of calibration has changed: an
interrupted run goes on where it was. Takes an hour or two on two idle cores for the shipped denoiser; fewer `--seeds`
and `--calibrations`, or `--only` some rows, make it shorter. Memory: about 1 GB, most of it the second moments of
layers' inputs that GPTQ reads. The rows are in `choices/rows.py`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.choices.rows import BASE, ROWS
from benchmarks.choices.seen import Body, Seen
from benchmarks.counts import positive
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
from fewstep.rollouts.trajectories import FIRST_SEED, HELD_OUT_SEEDS, roll_out
from fewstep.runtime.backends import LoadedGraph, openvino
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.execute import finish
from fewstep.runtime.progress import SILENT, Progress
from fewstep.workers import code_digest

PAGE = Path(__file__).parent.parent / "docs/measured/choices.md"
PLANS = ("dpmpp_2m:8", "dpmpp_2m:4")
MARKERS = ("<!-- made by benchmarks/ablation.py -->", "<!-- end of what benchmarks/ablation.py makes -->")
APART = 1000  # from the first seed of one calibration to that of the next
BATCH = 16

Array = NDArray[np.float64]
Found = dict[str, list[dict[str, Any]]]  # by row, a result of each calibration


@dataclass(frozen=True)
class Asked:
    """How many held-out seeds judge, how often each row is calibrated, and the folder of results."""

    seeds: int
    calibrations: int
    work: Path


def samples(
    task: Task, count: int, networks: Sequence[LoadedGraph] | None = None, given: ConditionRecords | None = None
) -> Array:
    """The first held-out seeds along the task's plan [count, *x_shape]; `networks` in float32's place. Conditions are
    drawn, or `given` as a file would have them."""
    seeds = HELD_OUT_SEEDS[:count]
    conditions = held_out_conditions(task.sampler.bundle.manifest.conditions, seeds, given)
    parts = []
    for start in range(0, count, BATCH):
        rows = {name: value[start : start + BATCH] for name, value in conditions.items()}
        *_, last = roll_out(task.sampler, task.plan, seeds[start : start + BATCH], SILENT, BATCH, rows, networks)
        parts.append(finish(task.plan, [last.state]))
    return np.concatenate(parts).astype(np.float64)


def judge(task: Task, body: Body, reference: Array, given: ConditionRecords | None = None) -> dict[str, Any]:
    """PSNR of each seed, in dB; its mean and 5th percentile; and the share of the errors' energy that is one image, the
    same for all seeds."""
    network = body.open(body.graph)
    networks = [in_group(network, group_of(step.lam, body.edges)) for step in task.plan.steps]
    made = samples(task, len(reference), networks, given)
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
    options: CalibrateOptions,
    names: Sequence[str],
    asked: Asked,
    progress: Progress,
    given: ConditionRecords | None = None,
) -> Found:
    """For each row, what `judge` finds of each calibration."""
    task = open_task(options)
    settings = (
        task.sampler.bundle.manifest.files[task.sampler.body.graph.file],
        task.plan.name,
        task.plan.guidance,
        options.trajectories,
        asked.seeds,
        code(),
        onnxruntime.__version__,
    )
    folder = asked.work / sha256(repr(settings).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found: Found = {name: [] for name in names}
    reference: Array | None = None
    for calibration in range(asked.calibrations):
        seed = FIRST_SEED + APART * calibration
        seen = Seen(open_task(replace(options, seed=seed)), progress)
        for done, name in enumerate(names, 1):
            path = folder / f"{sha256(name.encode()).hexdigest()[:12]}-{seed}.json"
            if not path.exists():
                if reference is None:
                    reference = samples(task, asked.seeds, None, given)
                result = {"row": name, **judge(task, ROWS[name](seen), reference, given)}
                partial_path = path.with_suffix(".partial")
                partial_path.write_text(json.dumps(result))
                partial_path.replace(path)
            found[name].append(json.loads(path.read_text()))
            progress(f"calibration {calibration + 1} of {asked.calibrations}", done, len(names))
    return found


def table(found: Found) -> str:
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
    start, end = MARKERS
    if start not in text or end not in text:
        raise UserError(f"{PAGE.name} has no markers for the table", f"put {start} and {end} into it")
    before, rest = text.split(start, 1)
    inner, after = rest.split(end, 1)
    sections = (each.strip() for each in re.split(r"^(?=`)", inner, flags=re.MULTILINE))  # each begins with its plan
    there = {section.split("`")[1]: section for section in sections if section}
    return f"{before}{start}\n\n" + "\n\n".join((there | dict(tables)).values()) + f"\n\n{end}{after}"


def described(found: Mapping[str, Found], arguments: argparse.Namespace) -> dict[str, str]:
    """A table for each plan, and what was measured."""
    model = open_bundle(arguments.bundle).manifest.name
    return {
        plan: f"`{plan}` of `{model}`, {arguments.trajectories} trajectories, {arguments.seeds} held-out seeds, each"
        f" line over {arguments.calibrations} calibrations (lowest to highest in parentheses).\n\n{table(rows)}"
        for plan, rows in found.items()
    }


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--plan", action="append", help="that is calibrated along and judged; several times for several"
    )
    parser.add_argument("--seeds", type=positive, default=128, help="held-out seeds, 0 and up")
    parser.add_argument("--calibrations", type=positive, default=3, help="how many times each row is calibrated")
    parser.add_argument("--trajectories", type=positive, default=CalibrateOptions.trajectories)
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-ablation", help="folder of results")
    parser.add_argument("--only", action="append", default=[], help="rows with this in their name, beside the default")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and leave the page")
    arguments = parser.parse_args(given)
    try:
        with ProgressDisplay() as progress:
            names = chosen(arguments.only)
            asked = Asked(arguments.seeds, arguments.calibrations, arguments.work)
            targets, trajectories = (CPU_X86.name,), arguments.trajectories
            found = {
                plan: measure(CalibrateOptions(arguments.bundle, plan, targets, trajectories), names, asked, progress)
                for plan in arguments.plan or PLANS
            }
        if not arguments.json and not arguments.only:
            PAGE.write_text(page(PAGE.read_text(), described(found, arguments)))
    except UserError as error:
        parser.error(str(error))
    print(json.dumps(found) if arguments.json else "\n\n".join(described(found, arguments).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
