"""BAC's claim, on a transformer policy in int8: success in closed loop, beside fewer steps of plans without caching.

    python -m benchmarks.caching.episodes --work FOLDER

The policy and its task are `gaps.py`. Episodes run side by side, and all contenders begin alike.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.caching import gaps
from benchmarks.caching.cached import Mask, cached
from benchmarks.caching.cut import branches
from benchmarks.caching.judge import Floats, Switched
from benchmarks.caching.schedules import by_block
from benchmarks.markdown import table
from benchmarks.options import parser_of
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.graph import io
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.loading import load

PLAIN = ("ddpm:100", "ddpm:50", "ddpm:20", "ddpm:10", *(f"dpmpp_2m:{steps}" for steps in (1, 2, 3, 4, 6, 8, 10)))
KEPT = (("ddpm:100", (5, 10)), ("ddpm:50", (10,)), ("ddpm:20", (5,)), ("ddpm:10", (3,)), ("dpmpp_2m:10", (3, 5)))
FIRST = 1_000  # the first episode: the task was made with those from 0 on, until plain plans solved enough of them
SEEN = range(2_000_000, 2_000_200)  # of episodes that ranges and similarities are from


def solved(body: Switched, plan: Plan, episodes: int) -> Floats:
    """Whether each episode is solved."""
    task = gaps.Task(range(FIRST, FIRST + episodes))
    for number in range(gaps.TICKS // gaps.EXECUTED):
        left = np.flatnonzero(~task.is_solved)
        if not len(left):
            break
        seeds = [10_000 * number + FIRST + int(episode) for episode in left]
        actions = np.zeros((episodes, gaps.HORIZON, 2))
        actions[left] = body.sample(plan, seeds, given={"obs": task.seen()[left].astype(np.float32)})
        for action in actions.transpose(1, 0, 2)[: gaps.EXECUTED]:
            task.step(action)
    return task.is_solved.astype(float)


def rows(work: Path, episodes: int) -> Iterator[tuple[str, str, float, Floats]]:
    """Name, base, T and what was solved."""
    bundle, observed = work / "gaps", gaps.demonstrations(SEEN)[0][:64].reshape(-1, 1, gaps.SEEN).astype(np.float32)
    drawn = observed[np.random.default_rng(0).permutation(len(observed))[:256]]
    if not bundle.exists():
        export(ExportOptions(f"{Path(gaps.__file__)}:make", bundle))
        np.savez(work / "seen.npz", obs=drawn)
        calibrate(CalibrateOptions(bundle, "dpmpp_2m:8", target=("cpu-x86",), conditions=work / "seen.npz"))
    exact, int8 = (load(bundle, each, backend=OnnxRuntime(threads=1)) for each in ("float32", "int8"))
    like = io.load(exact.bundle.graph(exact.body.graph), root=bundle)
    names = branches(like)
    body = Switched(int8, names, like, lambda seeds: {"obs": drawn[: len(seeds)]})

    def run(name: str, base: str, mask: Mask) -> tuple[str, str, float, Floats]:
        plan = cached(int8.compile(base), mask, 0, names)
        cost = body.cost(plan, mask) if mask.any() else float(len(mask))
        return name, base, cost, solved(body, plan, episodes)

    for base in PLAIN:
        yield run("no caching", base, np.zeros((len(int8.compile(base).steps), len(names)), bool))
    for base, counts in KEPT:
        seen: list[dict[str, Floats]] = []
        none = np.zeros((len(int8.compile(base).steps), len(names)), bool)
        body.sample(cached(int8.compile(base), none, 0, names), range(32), seen, {"obs": drawn[:32]})
        written = [[each[name] for each in seen] for name in names]
        for count in counts:
            yield run(f"BAC, {count} updates", base, by_block(written, count, [False, False, True] * gaps.LAYERS))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--episodes", type=int, default=200)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, base, cost, own in rows(arguments.work, arguments.episodes):
        error = 100 * (own.mean() * (1 - own.mean()) / len(own)) ** 0.5
        lines.append((name, f"`{base}`", f"{cost:.2f}", f"{100 * own.mean():.1f} ± {error:.1f} %"))
        print(*lines[-1], flush=True)
    print(table(("schedule", "plan", "T", "solved"), lines))


if __name__ == "__main__":
    main()
