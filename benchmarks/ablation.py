"""What each choice of calibration wins or costs: every one of them changed alone, over several calibration seeds.

    python benchmarks/ablation.py BUNDLE [--seeds 128] [--calibrations 3] [--trajectories 64] [--work FOLDER]

PSNR against float32 along the same plan, on held-out seeds, with the body for this CPU as it is deployed. Writes the
table into docs/quantization.md. Each result is a file of the work folder, and one that is there is not measured again:
an interrupted run goes on where it was. Takes about ten minutes on two idle cores for the shipped denoiser; fewer
`--seeds` and `--calibrations`, or `--only` some rows, make it shorter.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.calibrate import CalibrateOptions, open_task
from fewstep.calibration.count import (
    batch_of,
    count_activations,
    count_progressively,
    in_group,
    measure_corrections,
    tabulate,
)
from fewstep.calibration.evaluation.held_out import held_out_conditions
from fewstep.calibration.evaluation.metrics import psnr
from fewstep.calibration.inputs import Distribution, long_plan, taken
from fewstep.calibration.lowering.bias import NONE, Corrections
from fewstep.calibration.lowering.encoding import Encoding, asymmetric_uint8
from fewstep.calibration.lowering.quantize import emit, encoded_tensors, lower_graph
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.selection import FEW_CHANNELS, OUTER, considered_ops
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from fewstep.calibration.ranges.merging import merge_groups, regrouped
from fewstep.calibration.ranges.observe import Counts, open_watched
from fewstep.calibration.ranges.table import Method, Range, Ranges, RangesTable
from fewstep.calibration.task import Task
from fewstep.calibration.trajectories import FIRST_SEED, HELD_OUT_SEEDS, roll_out
from fewstep.calibration.weights import quantize_weight
from fewstep.cli.progress import Shown
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session
from fewstep.runtime.backends import Network
from fewstep.runtime.errors import UserError
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.step import finish

PAGE = Path(__file__).parent.parent / "docs/quantization.md"
MARKERS = ("<!-- made by benchmarks/ablation.py -->", "<!-- end of what benchmarks/ablation.py makes -->")
APART = 1000  # from the first seed of one calibration to that of the next
BATCH = 16
LONG: tuple[Distribution, ...] = ("uniform", "normal", "interval")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """One calibration's trajectories, counted when a row first asks; what is counted along the way is shared."""

    task: Task
    progress: Progress = SILENT

    @cached_property
    def deployed(self) -> Counts:
        return count_activations(self.task, "deployed", self.progress)

    @cached_property
    def elsewhere(self) -> Mapping[Distribution, Counts]:
        """All distributions over the long trajectory, which is run once."""
        counts: dict[Distribution, Counts] = {name: Counts(self.deployed.tensors, self.task.edges) for name in LONG}
        watched = open_watched(self.task.prepared, self.deployed.tensors)
        sampler, plan = replace(self.task.sampler, denoiser=watched), long_plan(self.task)
        batch = batch_of(self.task, self.deployed.tensors)
        for evaluation in roll_out(sampler, plan, self.task.seeds, self.progress, batch, self.task.conditions):
            for name in LONG:
                part = taken(evaluation, name, len(self.task.plan.steps), len(plan.steps))
                if part.seeds:
                    counts[name].add(part)
        return {name: each.filled() for name, each in counts.items()}

    def table(self, counts: Counts, method: Method = "mse") -> RangesTable:
        return tabulate(counts, "0" * 64, self.task.plan.name, method)

    @cached_property
    def usual(self) -> RangesTable:
        return self.table(self.deployed)

    def lowered(self, table: RangesTable, target: Target = CPU_X86, corrections: Corrections = NONE) -> "Body":
        graph, _, _ = lower_graph(self.task.prepared, table, target, corrections=corrections)
        return Body(graph, table.groups)


@dataclass(frozen=True)
class Body:
    """An int8 graph and the edges of its lambda groups."""

    graph: Graph
    edges: tuple[float, ...]


Row = Callable[[Seen], Body]


def ranges(method: Method, seen: Seen) -> Body:
    return seen.lowered(replace(seen.table(seen.deployed, method), method=seen.usual.method))  # weights as usual


def along(inputs: Distribution, seen: Seen) -> Body:
    return seen.lowered(seen.table(seen.elsewhere[inputs]))


def progressive(seen: Seen) -> Body:
    return seen.lowered(seen.table(count_progressively(seen.task, "mse", seen.progress)))


def pooled(seen: Seen) -> Body:
    """One histogram for all steps, as a tool without groups sees it."""
    return seen.lowered(seen.table(regrouped(seen.deployed, [(0, len(seen.task.edges) + 1)])))


def merged(seen: Seen) -> Body:
    return seen.lowered(seen.table(merge_groups(seen.deployed)))


def corrected(target: Target, seen: Seen) -> Body:
    corrections = measure_corrections(seen.task, seen.usual, target, seen.progress)
    return seen.lowered(seen.usual, target, corrections)


def symmetric(seen: Seen) -> Body:
    scheme = replace(CPU_X86.scheme, encode=around_128)
    return seen.lowered(seen.usual, replace(CPU_X86, scheme=scheme))


def around_128(table: Ranges, grouped: bool) -> Encoding:
    """uint8 with the zero point in the middle, as a symmetric code has it."""

    def widened(found: Range) -> Range:
        reach = max(-found.low, found.high)
        return Range(-reach, reach)

    return asymmetric_uint8(
        replace(table, pooled=widened(table.pooled), per_group=tuple(map(widened, table.per_group))), grouped
    )


def outer_too(seen: Seen) -> Body:
    """The first layers, the last, and narrow ones between them in int8 as well."""
    prepared, scheme = seen.task.prepared, CPU_X86.scheme
    ops = tuple(op for op, reason in considered_ops(prepared) if reason in ("", OUTER, FEW_CHANNELS))
    codes = {name: scheme.encode(seen.usual[name], True) for name in encoded_tensors(ops, scheme)}
    weights = {op.name: quantize_weight(prepared.constants[op.weight], op.axis, seen.usual.method) for op in ops}
    return Body(emit(prepared, ops, codes, weights, scheme), seen.usual.groups)


def fewer(seen: Seen) -> Body:
    few = replace(seen.task, seeds=seen.task.seeds[: len(seen.task.seeds) // 4])
    return seen.lowered(seen.table(count_activations(few)))


def unclipped_weights(seen: Seen) -> Body:
    return seen.lowered(replace(seen.usual, method="minmax"))


ROWS: dict[str, Row] = {
    "as calibrated by default": lambda seen: seen.lowered(seen.usual),
    **{f"ranges: {method}, not mse": partial(ranges, method) for method in get_args(Method) if method != "mse"},
    "groups: pooled, not step": pooled,
    "groups: merged, not step": merged,
    **{f"inputs: {name}, not deployed": partial(along, name) for name in LONG},
    "inputs: progressive, not deployed": progressive,
    "zero points: in the middle, not chosen": symmetric,
    "operations: the first and the last in int8 too": outer_too,
    "trajectories: a quarter of them": fewer,
    "weights: min-max, not mse": unclipped_weights,
    "weights: 7 bits (cpu-x86-7bit)": lambda seen: seen.lowered(seen.usual, CPU_X86_7BIT),
    "bias correction, 8 bits": partial(corrected, CPU_X86),
    "bias correction, 7 bits": partial(corrected, CPU_X86_7BIT),
}
BASE = next(iter(ROWS))


def samples(task: Task, count: int, networks: Sequence[Network] | None = None) -> Array:
    """The first held-out seeds along the task's plan [count, *x_shape]; `networks` in float32's place."""
    seeds = HELD_OUT_SEEDS[:count]
    conditions = held_out_conditions(task.sampler.bundle.manifest.conditions, seeds)
    parts = []
    for start in range(0, count, BATCH):
        rows = {name: value[start : start + BATCH] for name, value in conditions.items()}
        *_, last = roll_out(task.sampler, task.plan, seeds[start : start + BATCH], SILENT, BATCH, rows, networks)
        parts.append(finish(task.plan, [last.state]))
    return np.concatenate(parts).astype(np.float64)


def judge(task: Task, body: Body, reference: Array) -> Array:
    """PSNR of each seed, in dB."""
    edged = replace(task, edges=body.edges)
    session = open_session(body.graph, optimize=True)
    networks = [in_group(session, edged.group(step)) for step in task.plan.steps]
    return psnr(samples(task, len(reference), networks), reference)


def measure(arguments: argparse.Namespace, progress: Progress) -> dict[str, list[dict[str, float]]]:
    """For each row, the mean and the 5th percentile of each calibration."""
    options = CalibrateOptions(arguments.bundle, arguments.plan, (CPU_X86.name,), arguments.trajectories)
    task = open_task(options)
    settings = (
        task.sampler.bundle.manifest.files[task.sampler.body.graph.file],
        task.plan.name,
        arguments.trajectories,
        arguments.seeds,
    )
    folder = arguments.work / sha256(repr(settings).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    names = [
        name for name in ROWS if name == BASE or not arguments.only or any(part in name for part in arguments.only)
    ]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    reference: Array | None = None
    for calibration in range(arguments.calibrations):
        seed = FIRST_SEED + APART * calibration
        seen = Seen(open_task(replace(options, seed=seed)), progress)
        for done, name in enumerate(names, 1):
            path = folder / f"{sha256(name.encode()).hexdigest()[:12]}-{seed}.json"
            if not path.exists():
                if reference is None:
                    reference = samples(task, arguments.seeds)
                quality = judge(task, ROWS[name](seen), reference)
                result = {"row": name, "mean": float(quality.mean()), "p5": float(np.quantile(quality, 0.05))}
                partial_path = path.with_suffix(".partial")
                partial_path.write_text(json.dumps(result))
                partial_path.replace(path)
            found[name].append(json.loads(path.read_text()))
            progress(f"calibration {calibration + 1} of {arguments.calibrations}", done, len(names))
    return found


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: mean over calibrations, lowest to highest; differences are taken calibration by calibration."""
    lines = ["| choice | mean dB | 5th percentile | against the default, dB |", "|---|---|---|---|"]
    for name, results in found.items():
        means, p5s = (np.array([result[part] for result in results]) for part in ("mean", "p5"))
        gains = means - np.array([result["mean"] for result in found[BASE]])
        gain = "" if name == BASE else f"{gains.mean():+.2f} ({gains.min():+.2f} to {gains.max():+.2f})"
        lines.append(
            f"| {name} | {means.mean():.2f} ({means.min():.2f} to {means.max():.2f}) | {p5s.mean():.1f} | {gain} |"
        )
    return "\n".join(lines)


def page(text: str, made: str) -> str:
    """The page with what stands between its markers replaced."""
    start, end = MARKERS
    if start not in text or end not in text:
        raise UserError(f"{PAGE.name} has no markers for the table", f"put {start} and {end} into it")
    return text[: text.index(start) + len(start)] + f"\n\n{made}\n\n" + text[text.index(end) :]


def described(found: Mapping[str, Sequence[Mapping[str, float]]], arguments: argparse.Namespace) -> str:
    return (
        f"`{arguments.plan}`, {arguments.trajectories} trajectories, {arguments.seeds} held-out seeds, each line over"
        f" {arguments.calibrations} calibrations (lowest to highest in parentheses).\n\n{table(found)}"
    )


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default=CalibrateOptions.plan, help="that is calibrated along and judged")
    parser.add_argument("--seeds", type=int, default=128, help="held-out seeds, 0 and up")
    parser.add_argument("--calibrations", type=int, default=3, help="how many times each row is calibrated")
    parser.add_argument("--trajectories", type=int, default=CalibrateOptions.trajectories)
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-ablation", help="folder of results")
    parser.add_argument("--only", action="append", default=[], help="rows with this in their name, beside the default")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and leave the page")
    arguments = parser.parse_args(given)
    try:
        with Shown() as progress:
            found = measure(arguments, progress)
        if not arguments.json and not arguments.only:
            PAGE.write_text(page(PAGE.read_text(), described(found, arguments)))
    except UserError as error:
        parser.error(str(error))
    print(json.dumps(found) if arguments.json else described(found, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
