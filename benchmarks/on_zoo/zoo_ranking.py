"""Whether an objective ranks ways to calibrate as finished samples of other seeds do, pair by pair.

    python benchmarks/on_zoo/zoo_ranking.py [--model NAME ...] [--steps 8 ...] [--seeds 64] [--work FOLDER]

Rows of `ablation.py` are lowered for cpu-x86 from one calibration. The judge is the mean PSNR of finished samples, on
held-out seeds from 1000. The objectives see the eight seeds of the trials, each by the mean of all and the worse half:

- trials: what `--ranges auto` takes, finished samples;
- sum of errors: int8 at float32's inputs, and the errors of all steps added up by the plan to one of the sample;
- sum of squares: the same of each step alone, and the squares added up.

A pair counts where the judge's means differ by more than two standard errors of the difference, seed by seed. A close
one differs by less than 2 dB. Each row's figures are a file of the work folder: an interrupted run goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))  # where the tools of all benchmarks lie

from ablation import code
from choices.rows import ROWS
from choices.seen import Seen
from counts import positive
from zoo.bundles import exported
from zoo.members import BY_NAME, MEMBERS, Member
from zoo_choices import CALIBRATION, HELD_OUT, SURE, plan_of

from fewstep.calibration.calibrate import open_task
from fewstep.calibration.choosing.trials import open_trials
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.progress import ProgressDisplay
from fewstep.graph.graph import GROUP
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.plans.plan import regroup
from fewstep.rollouts.closed_loop import Course, Feeds, open_course
from fewstep.rollouts.metrics import PEAK
from fewstep.rollouts.trajectories import HELD_OUT_SEEDS
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.execute import finish

FIRST, AT_ONCE = 1000, 16  # of the seeds that judge
CLOSE = 2.0  # dB
OBJECTIVES = ("trials", "sum of errors", "sum of squares")
COMPARED = (  # all but those that count the trajectories again, or take minutes for a weight
    "channels, no error taken out",
    "ranges: mse, not channels",
    "ranges: minmax, not channels",
    "ranges: percentile, not channels",
    "ranges: entropy, not channels",
    "ranges: channels-minmax, not channels",
    "ranges: channels of every activation",
    "groups: pooled, not step",
    "trajectories: a quarter of them",
    "zero points: in the middle, not chosen",
    "operations: the first and the last in int8 too",
    "weights: min-max, not mse",
    "weights: one scale, not one a channel",
    "weights: 7 bits (cpu-x86-7bit)",
    "weights: 4 bits",
)

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """A row: PSNR of each held-out seed [seeds], and of each trial seed by each objective, in dB."""

    judged: tuple[float, ...]
    objectives: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Agreement:
    """How many pairs count, and how many of them an objective ranks alike."""

    pairs: int
    alike: Mapping[str, int]

    def __str__(self) -> str:
        shares = (f"{100 * self.alike[name] / self.pairs:.0f} %" if self.pairs else "" for name in OBJECTIVES)
        return f"{self.pairs} | " + " | ".join(shares)


class Recorded:
    """A network that gives known outputs, one for each step, whatever it is asked."""

    def __init__(self, name: str, outputs: Sequence[NDArray[np.floating]]) -> None:
        self.name, self.outputs = name, iter(outputs)

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[np.floating]]:
        return {self.name: next(self.outputs)}


def end_error(course: Course, network: LoadedGraph) -> Float:
    """Mean square of each sample's error [seeds], by a network that is asked once a step."""
    made, wanted = (
        finish(course.plan, states[-1:]).astype(np.float64)
        for states in (course.run([network] * course.groups), course.reference)
    )
    squares: Float = np.square(made - wanted).mean(axis=tuple(range(1, made.ndim)))
    return squares


def outputs_at_reference(course: Course, network: LoadedGraph) -> list[NDArray[np.floating]]:
    """Of a network at float32's inputs, step by step."""
    return [course.call(network, state.index, state.u) for state in course.reference]


def by_errors(course: Course, network: LoadedGraph, exact: LoadedGraph) -> Float:
    return end_error(course, Recorded(course.ports[1], outputs_at_reference(course, network)))


def by_squares(course: Course, network: LoadedGraph, exact: LoadedGraph) -> Float:
    made, wanted = (outputs_at_reference(course, each) for each in (network, exact))
    steps = range(len(made))
    alone = [[made[each] if each == step else wanted[each] for each in steps] for step in steps]
    return np.sum([end_error(course, Recorded(course.ports[1], outputs)) for outputs in alone], axis=0)


def by_trials(course: Course, network: LoadedGraph, exact: LoadedGraph) -> Float:
    return end_error(course, network)


MEASURES: dict[str, Callable[[Course, LoadedGraph, LoadedGraph], Float]] = dict(
    zip(OBJECTIVES, (by_trials, by_errors, by_squares), strict=True)
)


def decibels(squares: Sequence[Float]) -> tuple[float, ...]:
    """PSNR of each sample."""
    return tuple(np.round(10 * np.log10(PEAK**2 / np.concatenate(squares)), 3).tolist())


def value(psnr: Sequence[float]) -> float:
    """By which trials choose: the mean of all, and of the worse half."""
    ordered = np.sort(psnr)
    return float(ordered.mean() + ordered[: -(-len(ordered) // 2)].mean()) / 2


def agreement(ways: Sequence[Way], closest: float = np.inf) -> Agreement:
    """Of all pairs whose judged means are surely different, and nearer than `closest` dB."""
    pairs, alike = 0, dict.fromkeys(OBJECTIVES, 0)
    for one, two in combinations(ways, 2):
        gains = np.array(one.judged) - np.array(two.judged)
        gain, error = gains.mean(), gains.std(ddof=1) / len(gains) ** 0.5
        if SURE * error < abs(gain) < closest:
            pairs += 1
            for name in OBJECTIVES:
                difference = value(one.objectives[name]) - value(two.objectives[name])
                alike[name] += bool(difference * gain > 0)
    return Agreement(pairs, alike)


def measured(member: Member, steps: int, arguments: argparse.Namespace, show: ProgressDisplay) -> list[Way]:
    """All rows of one member along a plan."""
    bundle = exported(member, arguments.work)
    plan = plan_of(member, steps, None)
    options = CalibrateOptions(bundle, plan, (CPU_X86.name,), guidance=member.guidance)
    rows = member.rows(options.trajectories, CALIBRATION)
    if rows is not None:
        conditions = arguments.work / f"{member.name}.npz"
        np.savez(conditions, **rows)  # type: ignore[arg-type]
        options = replace(options, conditions=conditions)
    folder = arguments.work / sha256(repr((bundle.name, plan, arguments.seeds, code())).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{sha256(name.encode()).hexdigest()[:12]}.json" for name in COMPARED}
    if not all(path.exists() for path in files.values()):
        measure(Seen(open_task(options), show), files, member.rows(arguments.seeds, HELD_OUT + FIRST), arguments.seeds)
    found = (json.loads(path.read_text()) for path in files.values())
    return [Way(tuple(each["judged"]), each["objectives"]) for each in found]


def measure(seen: Seen, files: Mapping[str, Path], held_out: Mapping[str, NDArray] | None, seeds: int) -> None:
    """Write the figures of each row that has no file."""
    task = seen.task
    plan = regroup(task.plan, seen.deployed.edges)
    chosen_on = open_trials(task.sampler, plan, len(task.seeds), task.conditions)
    parts = (HELD_OUT_SEEDS[first : first + AT_ONCE] for first in range(FIRST, FIRST + seeds, AT_ONCE))
    judges = [open_course(task.sampler, plan, part[: FIRST + seeds - part[0]], held_out) for part in parts]

    def exact(feeds: Feeds) -> dict[str, NDArray[np.floating]]:
        return task.sampler.denoiser({name: each for name, each in feeds.items() if name != GROUP})

    for done, (name, path) in enumerate(files.items(), 1):
        if not path.exists():
            body = ROWS[name](seen)
            network = body.open(body.graph)
            way = {
                "row": name,
                "judged": decibels([end_error(course, network) for course in judges]),
                "objectives": {
                    key: decibels([take(course, network, exact) for course in chosen_on])
                    for key, take in MEASURES.items()
                },
            }
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(way))
            partial.replace(path)
        seen.progress("rows", done, len(files))


def lines(found: Mapping[str, Sequence[Way]]) -> Iterator[str]:
    """Markdown: a line for each member and plan."""
    yield "| denoiser | steps | pairs | " + " | ".join(OBJECTIVES) + " | close pairs | " + " | ".join(OBJECTIVES) + " |"
    yield "|" + "---|" * (4 + 2 * len(OBJECTIVES))
    for name, ways in found.items():
        yield f"| {name} | {agreement(ways)} | {agreement(ways, CLOSE)} |"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", choices=list(BY_NAME), help="a member of the zoo; default: all")
    parser.add_argument("--steps", action="append", type=positive, help="of the plan; several times for several")
    parser.add_argument("--seeds", type=positive, default=64, help=f"held-out seeds from {FIRST}")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-zoo", help="bundles and results")
    arguments = parser.parse_args(given)
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = {}
    with ProgressDisplay() as show:
        for member in MEMBERS:
            for steps in arguments.steps or (8,):
                if member.name in (arguments.model or BY_NAME):
                    found[f"{member.name} | {steps}"] = measured(member, steps, arguments, show)
    print("\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
