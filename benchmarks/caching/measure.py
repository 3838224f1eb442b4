"""Caching of deep features in the int8 body that ships, beside plans of as much time without it.

    python -m benchmarks.caching.measure --work FOLDER

The body of `fashion_mnist` is cut as it is deployed, and runs with held or led features. T is the time of a run in
evaluations of the full body: full steps, and shallow ones by their measured share. The line is what plans without
caching have at T, between the whole numbers beside it.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.caching.cached import SHALLOW, cached, corrected
from benchmarks.caching.cut import Pair, cut, encoder_cut
from benchmarks.markdown import table
from benchmarks.options import parser_of
from fewstep.export.export import ExportOptions, export
from fewstep.graph import io
from fewstep.graph.session import open_session
from fewstep.models.ready import fashion_mnist
from fewstep.plans.plan import Plan
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.execute import execute, finish
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.slots import Carrying, first_slots

Floats = NDArray[np.floating]
DEEP = "conv2d_24"  # what the U-Net's last level joins with the first: DeepCache's first depth
TEACHER, SOLVER, GUIDANCE = "dpmpp_2m:40@arctan", "unipc_2:{}@arctan(power=1.5)", 2.0
PLAIN, FITTED = (4, 5, 6, 8, 10, 14, 20), (4, 5, 6, 8, 10)
SELECTION, BATCH, ROUNDS, CLASSES = range(1000, 1008), 8, 25, 10


class Cached:
    """A body as it is deployed, cut in two."""

    def __init__(self, sampler: Sampler, pair: Pair) -> None:
        self.sampler, self.pair = sampler, pair
        self.full, self.shallow = (
            open_session(graph, optimize=True, arena=True, threads=1) for graph in (pair.full, pair.shallow)
        )
        self.output = sampler.body.graph.outputs[0].name

    def sample(self, plan: Plan, seeds: Sequence[int], seen: list[dict[str, Floats]] | None = None) -> Floats:
        """Samples [seeds, 1, 28, 28] of a plan of `cached`; what full steps write goes to `seen`."""
        parts = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
        return np.concatenate([self._sample(plan, part, seen) for part in parts])

    def _sample(self, plan: Plan, seeds: Sequence[int], seen: list[dict[str, Floats]] | None) -> Floats:
        plain = without_banks(plan)
        fed = self.sampler.feeds(plain, len(seeds), {"class": [seed % CLASSES for seed in seeds]})

        def call(index, step, u, taken):  # type: ignore[no-untyped-def]
            feeds = {**fed(index), "x": np.concatenate([u] * len(step.branches)), **taken}
            returned = (self.shallow if step.network == SHALLOW else self.full)(feeds)
            made = {name: returned[name] for name in self.pair.tensors if name in returned}
            if seen is not None:
                seen.append(made)
            return np.split(returned[self.output], len(step.branches)), made

        slots = first_slots(plan, lambda name, rows: np.zeros(0), len(seeds))
        return finish(plan, execute(plan, Carrying(call, slots), self.sampler.draws(seeds)))

    def share(self) -> float:
        """Processor time of the shallow graph for a guided sample, as a share of the full one's: a median of pairs."""
        feeds = dict(self.sampler.feeds(self.sampler.compile(SOLVER.format(4), GUIDANCE), 1, {"class": [0]})(2))
        feeds["x"] = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
        whole = self.full(feeds)
        taken = {**feeds, **{name: whole[name] for name in self.pair.tensors}}
        assert np.abs(self.shallow(taken)[self.output] - whole[self.output]).max() < 1e-5  # fed with fresh tensors
        return median(seconds(self.shallow, taken) / seconds(self.full, feeds) for _ in range(ROUNDS))


def seconds(session, feeds: Mapping[str, Floats]) -> float:  # type: ignore[no-untyped-def]
    start = time.process_time()
    session(feeds)
    return time.process_time() - start


def without_banks(plan: Plan) -> Plan:
    """The steps alone, for the inputs of each."""
    steps = tuple(
        msgspec.structs.replace(step, network="denoiser", carry=(), carry_in=(), carry_in_terms=())
        for step in plan.steps
    )
    return msgspec.structs.replace(plan, steps=steps, banks=(), tensors=())


def every(steps: int, interval: int) -> list[bool]:
    """DeepCache's schedule: a full step, then shallow ones up to the next multiple."""
    return [index % interval > 0 for index in range(steps)]


def by_drift(written: Sequence[Floats], full: int) -> list[bool]:
    """CacheQuant's schedule: full steps such that the drift of features from them, in L1, is least in sum."""
    steps = len(written)
    drift = [
        [float(np.abs(written[k] - written[i]).mean()) if k > i else 0.0 for k in range(steps)] for i in range(steps)
    ]
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(1, 0): (0.0, (0,))}
    for count in range(2, full + 1):
        for last in range(count - 1, steps):
            best[count, last] = min(
                (cost + sum(drift[i][i + 1 : last]), (*chosen, last))
                for (done, i), (cost, chosen) in best.items()
                if done == count - 1 and i < last
            )
    _, chosen = min(
        (best[full, last][0] + sum(drift[last][last + 1 :]), best[full, last][1]) for last in range(full - 1, steps)
    )
    return [index not in chosen for index in range(steps)]


def corrections(written: Sequence[Floats], mask: Sequence[bool]) -> dict[int, tuple[Floats, Floats]]:
    """Scale and shift [C, 1, 1] by channel that lead best from the features that are held to a step's own."""
    numbers, held = {}, written[0]
    for index, (own, is_shallow) in enumerate(zip(written, mask, strict=True)):
        if not is_shallow:
            held = own
            continue
        x, y = (each.astype(np.float64).transpose(1, 0, 2, 3).reshape(each.shape[1], -1) for each in (held, own))
        scale = ((x - x.mean(1, keepdims=True)) * y).mean(1) / np.maximum(x.var(1), 1e-12)
        numbers[index] = tuple(each[:, None, None] for each in (scale, y.mean(1) - scale * x.mean(1)))
    return numbers


def rows(work: Path, seeds: range, steps: Sequence[int]) -> Iterator[dict[str, object]]:
    """The rows: name, base, mask, T and dB to the teacher."""
    bundle = work / "bundle"
    if not bundle.exists():
        export(ExportOptions("fashion_mnist", bundle, verify="quick"))
    exact = load(bundle, backend=OnnxRuntime(threads=1))
    lessons = work / f"teacher-{len(seeds)}.npy"
    if not lessons.exists():
        np.save(lessons, plain_samples(exact, TEACHER, seeds))
    teacher = np.load(lessons)
    int8 = load(fashion_mnist(), "int8", backend=OnnxRuntime(threads=1))
    graph, like = (io.load(each.bundle.graph(each.body.graph), root=each.bundle.path) for each in (int8, exact))
    taught = plain_samples(exact, TEACHER, SELECTION)
    deep, decoder = (Cached(int8, cut(graph, names, like)) for names in ((DEEP,), encoder_cut(like)))
    shares = {deep: deep.share(), decoder: decoder.share()}
    print({each.pair.tensors: round(share, 3) for each, share in shares.items()}, flush=True)

    def judged(name: str, base: str, plan: Plan, mask: Sequence[bool], by: Cached) -> dict[str, object]:
        own = psnr(by.sample(plan, seeds), teacher)
        cost = len(mask) - sum(mask) * (1 - shares[by])
        return {"name": name, "base": base, "mask": mask_of(mask), "T": cost, **figures(own)}

    for base in (*(SOLVER.format(n) for n in PLAIN), *(f"fitted:{n}" for n in FITTED)):
        plan = int8.compile(base, GUIDANCE)
        own = psnr(plain_samples(int8, base, seeds), teacher)
        yield {"name": "no caching", "base": base, "mask": "", "T": len(plan.steps), **figures(own)}
    for count in steps:
        bases = [SOLVER.format(count), *([f"fitted:{count}"] if count in FITTED else [])]
        for base in bases:
            plain = int8.compile(base, GUIDANCE)
            seen: list[dict[str, Floats]] = []
            deep.sample(cached(plain, [False] * count, 0, (DEEP,)), SELECTION, seen)
            written = [each[DEEP] for each in seen]
            for interval in (2, 3) if count < 12 else (2, 3, 5):
                mask = every(count, interval)
                yield judged(f"DeepCache, every {interval}", base, cached(plain, mask, 0, (DEEP,)), mask, deep)
            full = count - count // 3
            mask = by_drift(written, full)
            held = cached(plain, mask, 0, (DEEP,))
            yield judged("CacheQuant's schedule", base, held, mask, deep)
            yield judged("the same, corrected", base, corrected(held, corrections(written, mask)), mask, deep)
            mask = every(count, 2)
            names = decoder.pair.tensors
            yield judged("Faster Diffusion, every 2", base, cached(plain, mask, 0, names), mask, decoder)
            for number in (1, 2, 3) if count < 12 else ():
                masks = [[i in chosen for i in range(count)] for chosen in combinations(range(2, count), number)]
                mask = max(
                    masks, key=lambda m: psnr(deep.sample(cached(plain, m, 1, (DEEP,)), SELECTION), taught).mean()
                )
                yield judged(f"best mask of {len(masks)}, led", base, cached(plain, mask, 1, (DEEP,)), mask, deep)
            if count >= 12:
                for interval in (2, 3):
                    mask = [False, *every(count - 1, interval)]
                    yield judged(f"every {interval}, led", base, cached(plain, mask, 1, (DEEP,)), mask, deep)


def figures(own: Floats) -> dict[str, float]:
    return {"dB": float(own.mean()), "error": float(own.std(ddof=1) / len(own) ** 0.5)}


def mask_of(mask: Sequence[bool]) -> str:
    return ", ".join(str(index) for index, is_shallow in enumerate(mask) if is_shallow)


def plain_samples(sampler: Sampler, plan: str, seeds: Sequence[int]) -> Floats:
    parts = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    drawn = [sampler.sample(plan, part, {"class": [seed % CLASSES for seed in part]}, GUIDANCE) for part in parts]
    return np.concatenate(drawn)


def page(made: Sequence[Mapping[str, object]]) -> str:
    """The rows with the lines of plans without caching."""

    def line(is_fitted: bool, cost: float) -> str:
        known = sorted((r["T"], r["dB"]) for r in made if not r["mask"] and r["base"].startswith("fitted") == is_fitted)
        return f"{np.interp(cost, *zip(*known, strict=True)):.1f}" if known[0][0] <= cost <= known[-1][0] else "–"

    head = ("schedule", "plan", "shallow steps", "T", "dB", "line, nominal", "line, fitted")
    return table(
        head,
        [
            (r["name"], f"`{r['base']}`", r["mask"] or "–", f"{r['T']:.2f}", f"{r['dB']:.1f} ± {r['error']:.1f}")
            + (line(False, r["T"]), line(True, r["T"]))
            for r in made
        ],
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle, the teacher and the rows")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 20])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    made = []
    for row in rows(arguments.work, range(arguments.seeds), arguments.steps):
        made.append(row)
        print(json.dumps(row), flush=True)
    print(page(made))


if __name__ == "__main__":
    main()
