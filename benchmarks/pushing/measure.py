"""Success of the pushing policy in few steps, int8 and with its prefix kept: docs/measured/pushing.md.

    python benchmarks/pushing/measure.py WORK [--episodes 1000] [--pairs fitted:3 0 30000] [--page]

`--pairs PLAN FIRST END` bounds the difference between a plan in int8 and the reference on the episodes of these seeds.
WORK gets the bundle with its fitted plans, and the verdict of every episode. The same command goes on where the last
one stopped, and more episodes add to those that are there. All contenders begin with the same tables and the same
seeds of noise. `--page` puts the tables into the page.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import discs
import numpy as np
from numpy.typing import NDArray
from pusher import EXECUTED, WEIGHTS

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.fitting.fit import fit
from fewstep.calibration.fitting.options import FitOptions
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.reading import open_bundle

sys.path.append(str(Path(__file__).parents[2]))  # of `benchmarks`
from benchmarks.markdown import put_part, table
from benchmarks.options import add_page
from benchmarks.policy.call import counts
from benchmarks.policy.intervals import TWO_SIDED, Paired, wilson

PAGE = Path(__file__).parents[2] / "docs/measured/pushing.md"
REFERENCE, TEACHER, CALIBRATED = "euler:10@trailing", "dpmpp_2m:80@arctan", "dpmpp_2m:4"
RECORDED, WINDOWS = range(500_000, 500_064), 288  # episodes that calibration and fits see, and their windows
COMPARED, PAIRS = range(700_000, 700_064), 256  # episodes whose windows the distances are taken on
BLOCK = 100  # episodes at once
Windows = Mapping[str, NDArray]


@dataclass(frozen=True)
class Entrant:
    """A plan of a body. A picture serves `kept` calls, and `executed` actions are executed before the next call."""

    precision: str
    plan: str
    kept: int = 1
    executed: int = EXECUTED

    @property
    def name(self) -> str:
        return f"{self.precision} `{self.plan}`"

    @property
    def file(self) -> str:
        return f"{self.precision}-{self.plan}-{self.kept}-{self.executed}.npy".replace(":", "_").replace("@", "_")


def play(sampler: Sampler, entrant: Entrant, seeds: range, seen: list[Windows] | None = None) -> NDArray[np.int64]:
    """The tick that solved each episode, -1 for none; `seen` gets what the policy saw at each call."""
    now, left, solved = discs.begin(seeds), np.arange(len(seeds)), np.full(len(seeds), -1)
    for call, begin in enumerate(range(0, discs.TICKS, entrant.executed)):
        if call % entrant.kept == 0:
            picture = discs.picture(now)
        window = {"picture": picture[:, None], "instruction": now.words, "state": now.pusher[:, None]}
        if seen is not None:
            seen.append(window)
        noise = [100 * seeds[place] + call for place in left]
        actions = sampler.sample(entrant.plan, noise, window)
        for tick in range(entrant.executed):
            now = discs.move(now, actions[:, tick])
            solved[left] = np.where((solved[left] < 0) & now.solved, begin + tick, solved[left])
        rest = solved[left] < 0
        now, left, picture = now.rows(rest), left[rest], picture[rest]
        if not len(left):
            break
    return solved


def windows(sampler: Sampler, seeds: range, count: int) -> dict[str, NDArray]:
    """So many windows of the reference's episodes, drawn at random."""
    seen: list[Windows] = []
    play(sampler, Entrant("float32", REFERENCE), seeds, seen)
    every = {name: np.concatenate([each[name] for each in seen]) for name in seen[0]}
    chosen = np.random.default_rng(0).permutation(len(every["state"]))[:count]
    return {name: array[chosen] for name, array in every.items()}


def prepare(work: Path) -> Path:
    """The bundle: calibrated, and plans of 2 and 3 evaluations, fitted on recorded windows."""
    bundle, recorded = work / "bundle", work / "recorded.npz"
    if not recorded.exists():
        export(ExportOptions(f"{Path(__file__).with_name('pusher.py')}:make", bundle, verify="quick"))
        with load(bundle) as sampler:
            np.savez(recorded, **windows(sampler, RECORDED, WINDOWS))
    if all(body.precision != "int8" for body in open_bundle(bundle).manifest.bodies.values()):
        calibrate(CalibrateOptions(bundle, CALIBRATED, ("cpu-x86",), conditions=recorded))
    for steps in {2, 3} - fits(bundle).keys():
        fit(FitOptions(bundle, steps, conditions=recorded, threads=1))
        print(fits(bundle)[steps], flush=True)
    return bundle


def fits(bundle: Path) -> dict[int, FittedPlan]:
    """The fitted plans by evaluations."""
    return {each.evaluations: each for each in open_bundle(bundle).manifest.fitted}


def entrants(bundle: Path) -> list[Entrant]:
    """The reference first. Nominal plans are those that the fits found best on recorded windows."""
    rivals = [Entrant("float32", REFERENCE), Entrant("int8", REFERENCE)]
    for steps in (2, 3):
        for precision in ("float32", "int8"):
            best = fits(bundle)[steps].nominal
            rivals += [Entrant(precision, each) for each in (best, f"fitted:{steps}")]
        rivals += [Entrant("float32", f"{each}:{steps}@trailing") for each in ("euler", "dpm_singlestep_2")]
    rivals.append(Entrant("float32", "heun:2@trailing"))  # 3 evaluations
    for executed in (EXECUTED, EXECUTED // 2):
        rivals += [Entrant("int8", "fitted:2", kept, executed) for kept in (1, 2, 4)]
    rivals.append(Entrant("int8", "fitted:2", 1, 2 * EXECUTED))
    return list(dict.fromkeys(rivals))


def verdicts(work: Path, sampler: Sampler, entrant: Entrant, episodes: int) -> NDArray[np.int64]:
    """What became of the episodes from seed 0 on; those that WORK has are not played again."""
    file = work / entrant.file
    own = np.load(file) if file.exists() else np.zeros(0, np.int64)
    while len(own) < episodes:
        own = np.concatenate([own, play(sampler, entrant, range(len(own), min(len(own) + BLOCK, episodes)))])
        np.save(file, own)
        print(f"{file.stem}: {(own >= 0).mean():.3f} of {len(own)}", flush=True)
    return own[:episodes]


def row(own: NDArray, other: NDArray) -> tuple[str, ...]:
    """The cells of an entrant's verdicts, beside those of another one on the same episodes."""
    won, theirs = own >= 0, other >= 0
    low, high = wilson(int(won.sum()), len(won))
    gained, lost = int((won & ~theirs).sum()), int((theirs & ~won).sum())
    least = Paired(len(won), gained, lost).bound(TWO_SIDED)
    pair, most = Paired(len(won), gained, lost), -Paired(len(won), lost, gained).bound(TWO_SIDED)
    share = (f"{100 * won.mean():.1f}", f"{100 * low:.1f} to {100 * high:.1f}")
    if own is other:
        return (*share, "", "", "", f"{np.median(own[won]):.0f}")
    difference = (f"{100 * pair.difference:+.1f}", f"{100 * least:+.1f} to {100 * most:+.1f}")
    return (*share, *difference, f"{gained} : {lost}, {pair.p_value:.2g}", f"{np.median(own[won]):.0f}")


HEAD = ("success %", "95 %", "less reference", "95 % of it", "won : lost, p", "ticks")


def distances(samplers: Mapping[str, Sampler], rivals: list[Entrant]) -> Iterator[tuple[str, ...]]:
    """How near each plan's sequences are to the teacher's from the same noise, all and those that are executed."""
    seen, noise = windows(samplers["float32"], COMPARED, PAIRS), range(PAIRS)
    teacher = samplers["float32"].sample(TEACHER, noise, seen)
    for each in rivals:
        if (each.kept, each.executed) == (1, EXECUTED):
            own = samplers[each.precision].sample(each.plan, noise, seen)
            near = psnr(own, teacher)
            far = np.sqrt(np.square(own - teacher)[:, :EXECUTED].mean())
            steps = len(samplers[each.precision].compile(each.plan).steps)
            yield each.name, str(steps), f"{near.mean():.1f}", f"{np.percentile(near, 5):.1f}", f"{far:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--episodes", type=int, default=1000, help="of each contender, from seed 0 on")
    parser.add_argument("--pairs", nargs=3, action="append", default=[], metavar=("PLAN", "FIRST", "END"))
    add_page(parser, PAGE)
    given = parser.parse_args()
    weights = Path(os.environ.get("PUSHER_WEIGHTS", WEIGHTS))
    work = given.work / hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    bundle, backend = prepare(work), OnnxRuntime(threads=1, spinning=False)
    samplers = {name: load(bundle, precision=name, backend=backend) for name in ("float32", "int8")}
    rivals = entrants(bundle)
    own = {each: verdicts(work, samplers[each.precision], each, given.episodes) for each in rivals}
    usual = [each for each in rivals if (each.kept, each.executed) == (1, EXECUTED)]
    kept = [each for each in rivals if each.precision == "int8" and each.plan == "fitted:2"]
    success = table(("plan", *HEAD), [(each.name, *row(own[each], own[rivals[0]])) for each in usual])
    head = ("executed", "calls of a picture", *HEAD)
    prefix = table(head, [(str(each.executed), str(each.kept), *row(own[each], own[kept[0]])) for each in kept])
    near = table(("plan", "evaluations", "dB", "5th percentile", "executed, rms"), list(distances(samplers, rivals)))
    parts = {"success": success, "prefix": prefix, "distances": near, "products": counts(samplers["int8"].bundle, 2)}
    pairs = []
    for plan, first, end in given.pairs:
        one, seeds = Entrant("int8", plan), slice(int(first), int(end))
        both = [verdicts(work, samplers[each.precision], each, seeds.stop)[seeds] for each in (one, rivals[0])]
        pairs.append((one.name, f"{seeds.start} to {seeds.stop - 1}", *row(*both)))
    if pairs:
        parts["pairs"] = table(("plan", "seeds", *HEAD), pairs)
    for name, part in parts.items():
        print(f"\n{part}")
        if given.page:
            put_part(PAGE, f"benchmarks/pushing/measure.py, {name}", part)


if __name__ == "__main__":
    main()
