"""Caching of deep features in the int8 body that ships, beside plans of as much time without it.

    python -m benchmarks.caching.measure --work FOLDER [--page]

The body of `fashion_mnist` is cut as it is deployed, and runs with held or led features. T is the time of a run in
evaluations of the full body: full steps, and shallow ones by their measured share. The line is what plans without
caching have at T, between the whole numbers beside it.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.caching.cached import Mask, cached, corrected
from benchmarks.caching.cut import encoder_cut
from benchmarks.caching.judge import Floats, Switched, around, row, script
from benchmarks.caching.schedules import by_drift, corrections, every
from benchmarks.options import parser_of
from fewstep.export.export import ExportOptions, export
from fewstep.graph import io
from fewstep.measure.rollouts.metrics import psnr
from fewstep.models.ready import fashion_mnist
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

SCRIPT = "benchmarks/caching/measure.py"
DEEP = "conv2d_24"  # what the U-Net's last level joins with the first: DeepCache's first depth
SOLVER, GUIDANCE = "unipc_2:{}@arctan(power=1.5)", 2.0
TEACHERS = {40: "dpmpp_2m:40@arctan", 100: "dpmpp_2m:100@arctan"}
PLAIN, FITTED = (4, 5, 6, 8, 10, 14, 20), (4, 5, 6, 8, 10)
LONG = (14, 20, 28, 40, 50)  # beside plans of 50 steps
OTHERS = ("dpm_3m:28@ays_svd", "dpmpp_2m:28@arctan", "dpm_3m:34@ays_svd")  # of another solver, beside these
SELECTION, CLASSES = range(1000, 1008), 10


def classes(seeds: Sequence[int]) -> dict[str, list[int]]:
    return {"class": [seed % CLASSES for seed in seeds]}


def rows(work: Path, seeds: range, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows: name, base, what is taken, T and dB to the teacher."""
    bundle, is_long = work / "bundle", max(steps) > 20
    if not bundle.exists():
        export(ExportOptions("fashion_mnist", bundle, verify="quick"))
    exact = load(bundle, backend=OnnxRuntime(threads=1))
    int8 = load(fashion_mnist(), "int8", backend=OnnxRuntime(threads=1))

    def plain(sampler: Sampler, name: str, own: Sequence[int]) -> Floats:
        return around(sampler, name, GUIDANCE, own, classes)

    name = TEACHERS[100 if is_long else 40]
    lessons = work / f"teacher-{len(seeds)}-{name.partition('@')[0].replace(':', '-')}.npy"
    if not lessons.exists():
        np.save(lessons, plain(exact, name, seeds))
    teacher = np.load(lessons)
    taught = plain(exact, name, SELECTION) if min(steps) < 12 else teacher
    like = io.load(exact.bundle.graph(exact.body.graph), root=exact.bundle.path)
    deep, decoder = (Switched(int8, names, like, classes) for names in ((DEEP,), encoder_cut(like)))

    def judged(name: str, base: str, plan: Plan, mask: Mask, by: Switched) -> dict[str, Any]:
        whole = np.repeat(mask, len(by.tensors), axis=1)
        taken = ", ".join(str(index) for index in np.flatnonzero(mask))
        return row(name, base, taken, by.cost(plan, whole), by.sample(plan, seeds), teacher)

    for base in (*(SOLVER.format(n) for n in (LONG if is_long else PLAIN)), *(f"fitted:{n}" for n in FITTED)):
        count = len(int8.compile(base, GUIDANCE).steps)
        yield row("no caching", base, "", count, plain(int8, base, seeds), teacher)
    for base in OTHERS if is_long else ():
        count = len(int8.compile(base, GUIDANCE).steps)
        yield row("another solver", base, "–", count, plain(int8, base, seeds), teacher)
    for count in steps:
        bases = [SOLVER.format(count), *([f"fitted:{count}"] if count in FITTED else [])]
        for base in bases:
            bare = int8.compile(base, GUIDANCE)
            seen: list[dict[str, Floats]] = []
            deep.sample(cached(bare, [False] * count, 0, (DEEP,)), SELECTION, seen)
            written = [each[DEEP] for each in seen]
            for interval in (2, 3) if count < 12 else (2, 3, 5):
                mask = every(count, interval)
                yield judged(f"DeepCache, every {interval}", base, cached(bare, mask, 0, (DEEP,)), mask, deep)
            mask = by_drift(written, count - count // 3)
            held = cached(bare, mask, 0, (DEEP,))
            yield judged("CacheQuant's schedule", base, held, mask, deep)
            yield judged("the same, corrected", base, corrected(held, corrections(written, mask)), mask, deep)
            mask = every(count, 2)
            yield judged("Faster Diffusion, every 2", base, cached(bare, mask, 0, decoder.tensors), mask, decoder)
            for number in (1, 2, 3) if count < 12 else ():
                chosen = combinations(range(2, count), number)
                masks = [np.isin(np.arange(count), each)[:, None] for each in chosen]
                mask = max(
                    masks, key=lambda m: psnr(deep.sample(cached(bare, m, 1, (DEEP,)), SELECTION), taught).mean()
                )
                yield judged(f"best mask of {len(masks)}, led", base, cached(bare, mask, 1, (DEEP,)), mask, deep)
            for interval in (2, 3) if count >= 12 else ():
                mask = np.concatenate([[[False]], every(count - 1, interval)])
                yield judged(f"every {interval}, led", base, cached(bare, mask, 1, (DEEP,)), mask, deep)


if __name__ == "__main__":
    script(parser_of(__doc__), SCRIPT, rows, [8, 20])
