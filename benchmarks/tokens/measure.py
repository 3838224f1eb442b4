"""docs/measured/tokens.md, from the two trained denoisers of tokens: `python -m benchmarks.tokens.measure --work DIR`.

Each part is kept in the work folder as JSON, and an interrupted run goes on. `--part NAME` measures one again.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.settings import reference
from benchmarks.markdown import put_part, table
from benchmarks.options import add_work, parser_of
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.measure.bodies import open_body
from fewstep.measure.distances import distance
from fewstep.measure.distances.features import open_extractor
from fewstep.measure.judge import Seeds, Want, judge
from fewstep.measure.judged_batch import Contender
from fewstep.measure.measure import MeasureOptions, measure
from fewstep.measure.rollouts.held_out import held_out_conditions
from fewstep.measure.rollouts.token_course import open_token_course
from fewstep.measure.sampling_job import FLOAT, Sampling, SamplingJob
from fewstep.measure.workers.pinned_bundle import pinned
from fewstep.plans.plan import regroup
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.tokens import advance

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "measured" / "tokens.md"
NAMES = ("fashion_tokens", "action_tokens")
INT8 = "int8-cpu-x86"
PLAN = "maskgit:8"  # calibrated along, and measured
GUIDANCE = {"fashion_tokens": 2.0, "action_tokens": None}
SAMPLES, SETS = 1000, 3  # of an FD, and sets of them that int8 and float32 share
JUDGES = 256  # seeds
AT_ONCE = 50
TRIED = ("maskgit:8", "maskgit:49", "likeliest:8", "first_hitting:8", "omnivoice:8")
KNOWN = 6  # actions of the former chunk
EPISODES = 500
LARGE = (  # plan, weight of guidance, shape and ids: OmniVoice's 5 s, and a block of LLaDA's text
    ("omnivoice:32", 2.0, (8, 125), 1025),
    ("llada:8", None, (64,), 126_464),
    ("maskgit:8", None, (64,), 126_464),
    ("maskgit:8", 2.0, (64,), 126_464),
    ("dream_entropy:8", None, (64,), 126_464),
)
BLOCKS, ACROSS = 28, 1024  # of a body beside the executor, as OmniVoice and Qwen3-0.6B have them

sys.path.append(str(FOLDER))  # recipes import what lies beside them
Values = dict[str, Any]


def bundle_of(work: Path, name: str) -> Path:
    """The exported and calibrated bundle, made once."""
    bundle = work / name
    if not (bundle / "manifest.json").exists():
        export(ExportOptions(f"{FOLDER / name}.py:make", bundle))
        calibrate(CalibrateOptions(bundle, plan=PLAN, guidance=GUIDANCE[name], target=("cpu-x86",)))
    return bundle


def sampled(sampler: Sampler, plan: str, count: int, first: int = 0) -> NDArray[np.int64]:
    """Ids [count, *shape] of held-out seeds."""
    parts = []
    for start in range(first, first + count, AT_ONCE):
        seeds = range(start, min(start + AT_ONCE, first + count))
        values = held_out_conditions(sampler.bundle.manifest.conditions, seeds)
        guidance = GUIDANCE[sampler.bundle.manifest.name]
        parts.append(np.asarray(sampler.sample(plan, seeds, values, guidance), np.int64))
    return np.concatenate(parts)


class Judge:
    """The distance of decoded tokens to the 10 000 test pictures, by the features of fashion-mnist-cnn."""

    def __init__(self) -> None:
        import codebooks
        import fashion_tokens
        import torch

        extractor = open_extractor("fashion-mnist-cnn", (1, 28, 28), 1)
        assert extractor is not None
        self._extract, books = extractor.extract, fashion_tokens.trained().books
        self._decode = lambda ids: codebooks.summed(torch.from_numpy(ids), books).numpy()
        self._encode = lambda pictures: codebooks.encode(pictures, books).numpy()
        self._real = fashion_tokens.pictures_of(None, "train")[0][:SAMPLES]
        self.reference = reference(extractor)

    def _of_pictures(self, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([self._extract(pictures[start : start + 500]) for start in range(0, len(pictures), 500)])

    def __call__(self, ids: NDArray[np.int64]) -> float:
        return distance.frechet(distance.fit(self._of_pictures(self._decode(ids))), self.reference)

    @property
    def floors(self) -> tuple[float, float]:
        """Of as many training pictures as they are, and of what their tokens decode to."""
        own = distance.frechet(distance.fit(self._of_pictures(self._real.numpy())), self.reference)
        return own, self(self._encode(self._real))


def quality(work: Path) -> Values:
    """FD of samplers in float32, and of int8 along the calibrated plan."""
    bundle, judge = bundle_of(work, "fashion_tokens"), Judge()
    float32, int8 = (load(bundle, body=body) for body in (FLOAT, INT8))
    starts = range(0, SETS * SAMPLES, SAMPLES)
    pairs = [[judge(sampled(body, PLAN, SAMPLES, first)) for body in (float32, int8)] for first in starts]
    rows = {PLAN: pairs[0][0]} | {each: judge(sampled(float32, each, SAMPLES)) for each in TRIED if each != PLAN}
    return {"floors": judge.floors, "float32": rows, "pairs": pairs}


def agreement(work: Path) -> Values:
    """How far int8 agrees with float32 on each model."""
    shares = {}
    for name in NAMES:
        bundle = open_bundle(bundle_of(work, name))
        samplers = {body: open_body(bundle, body, 1) for body in (FLOAT, INT8)}
        plan: Any = regroup(samplers[FLOAT].compile(PLAN, GUIDANCE[name]), samplers[INT8].body.groups)
        sampling = Sampling(SamplingJob(pinned(bundle.path), by_rows=False), samplers)
        seeds = Seeds(JUDGES, bundle.manifest.x_shape, partial(held_out_conditions, bundle.manifest.conditions))
        found = judge(sampling.answers, [Contender(INT8, samplers[INT8].body.groups, JUDGES)], plan, seeds, Want())
        own = found.bodies[INT8].tokens
        assert own is not None
        size = (FOLDER / f"{name}.safetensors").stat().st_size
        shares[name] = {"differ": own.disagreement, "same": own.same, "bytes": size}
        shares[name]["next"] = _next_to(samplers, plan) if name == "action_tokens" else None
    return shares


def _next_to(samplers: dict[str, Sampler], plan: Any) -> float:
    """The share of likeliest bins that differ in int8 and are next to float32's."""
    seeds = range(JUDGES)
    conditions = held_out_conditions(samplers[FLOAT].bundle.manifest.conditions, seeds)
    course = open_token_course(samplers[FLOAT], plan, seeds, conditions)
    run, apart = course.run_by(samplers[INT8].step_call(plan, JUDGES, conditions).logits), []
    for state, exact, other in zip(course.own_states, course.reference.logits, run.logits, strict=True):
        is_open = state.u == course.mask
        apart.append(np.abs(exact[is_open].argmax(-1) - other[is_open].argmax(-1)))
    bins = np.concatenate(apart)
    return float((bins == 1).sum() / (bins > 0).sum())


def speed(work: Path) -> Values:
    """Ratios of int8 to float32, each in its own process and in turns, on one thread."""
    rows: Values = {}
    for name in NAMES:
        made = measure(
            MeasureOptions(bundle_of(work, name), ("ms",), batches=(1, 8, 32), threads=1, rounds=15, turn_seconds=0.3)
        )
        rows[name] = [
            {"rows": race.batch, "ratio": each.ratio, "low": each.ratio_low, "high": each.ratio_high}
            | {"ms": 1e3 * each.median, "float_ms": 1e3 * race.timings[0].median}
            | {"mib": each.peak_mib, "float_mib": race.timings[0].peak_mib}
            for race in made.races
            for each in race.timings[1:]
        ]
    return rows


def calls(work: Path) -> Values:
    """Evaluations of ancestral sampling and of First-Hitting, of one sample at a time."""
    sampler, steps = load(bundle_of(work, "fashion_tokens")), 1_000
    counts = []
    for seed in range(8):
        values = held_out_conditions(sampler.bundle.manifest.conditions, [seed])
        run: Iterator[Any] = sampler.steps(f"mdlm:{steps}", [seed], values)
        counts.append(sum(state.is_evaluated for state in run))
    positions = prod(sampler.bundle.manifest.x_shape)
    return {"ancestral": steps, "skipping": float(np.mean(counts)), "first_hitting": positions}


def continued(work: Path) -> Values:
    """Chunks of actions that continue a former one whose goal and obstacle were seen a little elsewhere: with its first
    actions known, and without."""
    import action_tokens
    import torch

    generator = torch.Generator().manual_seed(7)
    data, seen, _ = action_tokens.demonstrations(EPISODES, generator)
    later = seen + 0.02 * torch.randn(seen.shape, generator=generator) * torch.tensor([0, 0, 1, 1, 1, 1])
    ids = action_tokens.tokens(data).numpy()
    outcome: Values = {"data": _seam(ids), "p95": _seam(ids, 95)}
    for body in (FLOAT, INT8):
        sampler = load(bundle_of(work, "action_tokens"), body=body)
        given = np.full(ids.shape, -1)
        former = sampler.sample(PLAN, range(EPISODES), {"observation": seen.numpy()})
        given[..., :KNOWN] = former[..., :KNOWN]
        seeds, told = range(EPISODES, 2 * EPISODES), {"observation": later.numpy()}
        kept = sampler.sample(PLAN, seeds, told, given={"ids": given})
        fresh = sampler.sample(PLAN, seeds, told)
        exact = bool((kept[..., :KNOWN] == former[..., :KNOWN]).all())
        fresh[..., :KNOWN] = former[..., :KNOWN]  # what was sent already
        outcome[body] = {"exact": exact, "known": _seam(kept), "fresh": _seam(fresh), "p95": _seam(kept, 95)}
    return outcome


def _seam(ids: NDArray[Any], percentile: float | None = None) -> float:
    """The mean jump, or a percentile of the jumps, from the last known action to the first new one."""
    import action_tokens
    import torch

    x = action_tokens.positions(torch.from_numpy(np.asarray(ids, np.int64))).numpy()
    jumps = np.linalg.norm(x[:, KNOWN] - x[:, KNOWN - 1], axis=1)
    return float(jumps.mean() if percentile is None else np.percentile(jumps, percentile))


def host(work: Path) -> Values:
    """The executor's part of a step where all positions are open, beside a body of OmniVoice's size and its head."""
    return {"rows": [_beside_a_body(*case) for case in LARGE]}


def _beside_a_body(name: str, guidance: float | None, shape: tuple[int, ...], ids: int) -> Values:
    """Milliseconds of processor time on one thread, medians."""
    import torch
    from masked_transformer import MaskedBlock

    from fewstep.plans.compile_tokens import compile_tokens
    from fewstep.plans.spec import DenoiserFacts, ScheduleSpec

    plan = compile_tokens(name, DenoiserFacts(ScheduleSpec("flow"), "logits"), shape, ids, guidance, ())
    branches, rng, x = len(plan.steps[1].branches), np.random.default_rng(0), np.full((1, *shape), ids - 1)
    logits = rng.standard_normal((branches, *shape, ids), np.float32)
    block, head = MaskedBlock(ACROSS, 16).eval(), torch.nn.Linear(ACROSS, prod(shape[:-1]) * ids)
    torch.set_num_threads(1)
    rows, unknown = torch.randn(branches, shape[-1], ACROSS), x == ids - 1
    parts: dict[str, Callable[[], object]] = {
        "host": lambda: advance(plan, 1, x, unknown, unknown, logits, np.array([8]), [0], ids - 1),
        "block": lambda: block(rows),
        "head": lambda: head(rows),
    }
    times: dict[str, list[float]] = {part: [] for part in parts}
    with torch.no_grad():
        for _ in range(5):
            for part, call in parts.items():
                start = process_time()
                call()
                times[part].append(1e3 * (process_time() - start))
    own = {part: median(each) for part, each in times.items()}
    body = BLOCKS * own["block"] + own["head"]
    return {"plan": name, "guidance": guidance, "shape": shape, "ids": ids, "host": own["host"], "body": body}


PARTS: dict[str, Callable[[Path], Values]] = {
    each.__name__: each for each in (quality, agreement, speed, calls, continued, host)
}


def tables(parts: dict[str, Values]) -> Iterator[tuple[str, str]]:
    """Each table of the page, by its name there."""
    of = parts["quality"]
    names = ("training pictures", "what their tokens decode to")
    ours = [(f"`{name}`", f"{far:.1f}") for name, far in of["float32"].items()]
    yield (
        "quality",
        table(("plan, float32", "FD"), [*ours, *zip(names, map("{:.1f}".format, of["floors"]), strict=True)]),
    )
    agreed = [
        (f"`{name}`", f"{own['bytes'] / 1e6:.1f} MB", f"{100 * own['differ']:.2f} %", f"{100 * own['same']:.1f} %")
        + (("" if own["next"] is None else f"{100 * own['next']:.0f} %"),)
        for name, own in parts["agreement"].items()
    ]
    head = ("denoiser", "weights", "likeliest differs", "same at the end", "of what differs, next to float32's")
    yield "agreement", table(head, agreed)
    gains = np.array([int8 - exact for exact, int8 in of["pairs"]])
    error = gains.std(ddof=1) / len(gains) ** 0.5
    sets = [(str(number), f"{exact:.1f}", f"{int8:.1f}") for number, (exact, int8) in enumerate(of["pairs"], 1)]
    mean = ("mean difference", "", f"{gains.mean():+.1f} ± {error:.1f}")
    yield "sets", table(("set", "float32", "int8"), [*sets, mean])
    times = [
        (f"`{name}`", str(each["rows"]), f"{each['float_ms']:.2f} ms", f"{each['ms']:.2f} ms")
        + (f"{each['ratio']:.2f} ({each['low']:.2f} to {each['high']:.2f})",)
        + (f"{each['float_mib']:.0f} MiB", f"{each['mib']:.0f} MiB")
        for name, own in parts["speed"].items()
        for each in own
    ]
    head = ("denoiser", "rows", "float32", "int8", "times faster", "memory, float32", "int8")
    yield "speed", table(head, times)
    of = parts["continued"]
    bodies = [
        (body, "yes" if own["exact"] else "no", f"{own['known']:.3f}", f"{own['known'] / of['data']:.2f}")
        + (f"{own['fresh']:.3f}", f"{own['fresh'] / of['data']:.2f}")
        for body, own in ((body, of[body]) for body in (FLOAT, INT8))
    ]
    head = ("body", "known actions exact", "jump, known", "times the data's", "jump, without", "times the data's")
    yield "continued", table(head, [*bodies, ("the data", "", f"{of['data']:.3f}", "1.00", "", "")])
    of = parts["calls"]
    plain, first = of["ancestral"], of["first_hitting"]
    counts = (plain, f"{of['skipping']:.0f}"), (first, first)
    names = (f"`mdlm:{plain}`", f"`first_hitting:{first}`")
    asked = [(name, *map(str, each)) for name, each in zip(names, counts, strict=True)]
    yield "calls", table(("plan", "evaluations", "of new tokens"), asked)
    host = [
        (f"`{own['plan']}`", " x ".join(map(str, own["shape"])), str(own["ids"]), "2" if own["guidance"] else "1")
        + (f"{own['host']:.0f} ms", f"{own['body']:.0f} ms")
        + tuple(f"{100 * own['host'] / (own['host'] + own['body'] / faster):.1f} %" for faster in (1, 2))
        for own in parts["host"]["rows"]
    ]
    head = ("plan", "positions", "ids", "branches", "executor", "body, float32", "its part", "body twice as fast")
    yield "host", table(head, host)


def main() -> None:
    parser = parser_of(__doc__)
    add_work(parser, "tokens")
    parser.add_argument("--part", action="append", choices=PARTS, default=[], help="measure this part again")
    given = parser.parse_args()
    parts = {}
    for name, measured in PARTS.items():
        kept = given.work / f"{name}.json"
        if name in given.part or not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            start = perf_counter()
            kept.write_text(json.dumps(measured(given.work)))
            print(f"{name}: {perf_counter() - start:.0f} s", flush=True)
        parts[name] = json.loads(kept.read_text())
    for name, rows in tables(parts):
        put_part(PAGE, f"benchmarks/tokens/measure.py, {name}", rows)


if __name__ == "__main__":
    main()
