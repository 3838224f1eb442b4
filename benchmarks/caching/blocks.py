"""Caching of a transformer's blocks in int8, beside plans of as much time without it.

    python -m benchmarks.caching.blocks --work FOLDER [--steps 8 20 50] [--page]

The network is the zoo's `dit_8`, 8 blocks of attention and a perceptron. A step may take what each of the 16 adds.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.caching import schedules, skipping
from benchmarks.caching.cached import Mask, cached
from benchmarks.caching.cut import branches
from benchmarks.caching.judge import Floats, Switched, around, row, script
from benchmarks.caching.measure import SELECTION, classes
from benchmarks.options import parser_of
from benchmarks.zoo.members import FOLDER
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.fitting.fit import fit
from fewstep.calibration.fitting.options import FitOptions
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.execute import execute, finish
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

SCRIPT = "benchmarks/caching/blocks.py"
SOURCE, GUIDANCE, PATCH = f"{FOLDER}/dit_8.py:make", 2.0, 4
TEACHER, EULER = "dpmpp_2m:160@arctan", "ddim:{}@trailing"
SOLVERS = (  # the best of dit_flow, which has half of the blocks, and of other denoisers
    "gradient_estimation:{}@trailing",
    "dpm_2m:{}@arctan",
    "dpm_3m:{}@ays_svd",
    "ipndm:{}@ays_svd",
    "unipc_2:{}@arctan(power=1.5)",
)
SHARE = 0.5  # of the tokens: RAS's
PLAIN, FITTED = (4, 5, 6, 8, 10, 14, 20, 28, 40, 50), (5, 8)


def attention_on_background(graph: Graph, sampler: Sampler, plan: Any, samples: Floats) -> list[float]:
    """The share of attention that goes to dark tokens of the sample, by block, halfway."""
    weights = [node.output for node in graph.nodes if node.op == "Softmax"]
    side = samples.shape[-1] // PATCH
    lit = samples.reshape(len(samples), side, PATCH, side, PATCH).max(axis=(2, 4)).reshape(len(samples), -1) > -0.9
    halfway = len(plan.steps) // 2
    fed = sampler.feeds(plan, len(samples), classes(SELECTION))(halfway)
    step, noise = plan.steps[halfway], sampler.draws(SELECTION)(0)
    x = (step.alpha * samples + step.sigma * noise).astype(np.float32)
    returned = open_session(graph, weights)({**fed, "x": np.concatenate([x] * len(step.branches))})
    return [float((returned[name][: len(x)].mean(axis=(1, 2)) * ~lit).sum(axis=1).mean()) for name in weights]


def rows(work: Path, seeds: range, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows: name, base, what is taken, T and dB to the teacher."""
    bundle = work / "dit_8"
    if not bundle.exists():
        export(ExportOptions(SOURCE, bundle))
        calibrate(CalibrateOptions(bundle, "dpmpp_2m:8", guidance=GUIDANCE, target=("cpu-x86",)))
        for count in FITTED:
            few = {"seeds": 24, "selection_seeds": 16, "judge_seeds": 16, "iterations": 2, "features": "none"}
            fit(FitOptions(bundle, count, guidance=GUIDANCE, **few))
    exact, int8 = (load(bundle, each, backend=OnnxRuntime(threads=1)) for each in ("float32", "int8"))

    def plain(sampler: Sampler, name: str, own: Sequence[int]) -> Floats:
        return around(sampler, name, GUIDANCE, own, classes)

    lessons = work / f"teacher-dit-{len(seeds)}.npy"
    if not lessons.exists():
        np.save(lessons, plain(exact, TEACHER, seeds))
    teacher, taught = np.load(lessons), plain(exact, TEACHER, SELECTION)
    like = io.load(exact.bundle.graph(exact.body.graph), root=bundle)
    names = branches(like)
    body = Switched(int8, names, like, classes)

    def judged(name: str, base: str, mask: Mask, order: int = 0) -> dict[str, Any]:
        plan = cached(int8.compile(base, GUIDANCE), mask, order, names)
        taken = f"{100 * mask.mean():.0f} % of {mask.size}"
        return row(name, base, taken, body.cost(plan, mask), body.sample(plan, seeds), teacher)

    best = {}
    for count in PLAIN:
        own = {each: psnr(plain(int8, each.format(count), SELECTION), taught).mean() for each in SOLVERS}
        best[count] = max(own, key=own.__getitem__).format(count)
        yield row("no caching", best[count], "", count, plain(int8, best[count], seeds), teacher)
    for count in FITTED:
        yield row("no caching", f"fitted:{count}", "", count, plain(int8, f"fitted:{count}", seeds), teacher)
    for count in steps:
        for base in (best[count], *([f"fitted:{count}"] if count in FITTED else [])):
            bare = int8.compile(base, GUIDANCE)
            seen: list[dict[str, Floats]] = []
            none = np.zeros((count, len(names)), bool)
            body.sample(cached(bare, none, 0, names), SELECTION, seen)
            written = [[each[name] for each in seen] for name in names]
            background = attention_on_background(like, exact, bare, taught)
            mask = schedules.by_profile(count, background)
            yield judged("ProfilingDiT", base, mask)
            for updates in sorted({max(2, count // 5), count // 2}):
                mask = schedules.by_block(written, updates, [False, True] * 8)
                yield judged(f"BAC, {updates} updates", base, mask)
                yield judged(f"BAC, {updates} updates, led", base, mask, 1)
            shares = [1 - body.share(cached(bare, none, 0, names), frozenset([name])) for name in names]

            def judge(mask: Mask, bare=bare) -> float:  # type: ignore[no-untyped-def]
                return float(psnr(body.sample(cached(bare, mask, 0, names), SELECTION[:4]), taught[:4]).mean())

            def cost(mask: Mask, count=count, shares=shares) -> float:  # type: ignore[no-untyped-def]
                return float(count - (mask @ shares).sum())

            front = [mask for mask in schedules.evolved(count, len(names), judge, cost) if mask.any()]
            for part in (0.6, 0.75, 0.9):
                mask = min(front, key=lambda each: abs(cost(each) / count - part))
                yield judged(f"ECAD's search, {part:.0%}", base, mask)
            for lowest in (False, True):
                wrap = partial(
                    skipping.regions, steps=count, share=SHARE, guidance=GUIDANCE, patch=PATCH, lowest=lowest
                )
                own, partly = around(int8, base, GUIDANCE, seeds, classes, wrap), wrap(lambda *_: ())[1]
                name = f"RAS, half of the tokens, the {'least' if lowest else 'greatest'} wait"
                yield row(name, base, f"{sum(partly)} steps", count - (1 - SHARE) * sum(partly), own, teacher)
        base = EULER.format(count)
        euler = int8.compile(base, GUIDANCE)
        call, left_out = skipping.stable(int8.network(euler, len(SELECTION), classes(SELECTION)), count)
        finish(euler, execute(euler, call, int8.draws(SELECTION)))
        own = around(int8, base, GUIDANCE, seeds, classes, partial(skipping.stable, steps=count, frozen=left_out))
        yield row("SADA, frozen", base, f"{sum(left_out)} steps", count - sum(left_out), own, teacher)
        yield row("its base", base, "–", count, plain(int8, base, seeds), teacher)


if __name__ == "__main__":
    script(parser_of(__doc__), SCRIPT, rows, [8, 20, 50])
