"""Chunks that carry on: equality with the whole run, int8, memory and latency, as docs/measured/streaming.md has them.

python -m benchmarks.streaming.measure --work FOLDER [--chunks 10000]
"""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.markdown import table
from benchmarks.options import parser_of
from benchmarks.streaming import speech
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.compile import compile_plan
from fewstep.plans.noise import stacked
from fewstep.plans.spec import DenoiserFacts
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.execute import execute, finish
from fewstep.runtime.loading import load
from fewstep.runtime.request import slots_of
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.slots import Carrying, Slots

PLAN, GUIDANCE = "ddim:8", 2.0
STREAMS, CHUNKS = 32, 8  # samples at once, and chunks of each
FIRST_SEED = 7_000  # held out: calibration starts at 1 000 000
Chunks = list[np.ndarray]


def vowels(number: int, streams: int) -> dict[str, np.ndarray]:
    """The vowels of a chunk [streams]."""
    return {"vowel": np.random.default_rng(number).integers(speech.VOWELS, size=streams)}


def seeds(number: int, streams: int) -> list[int]:
    return [FIRST_SEED + stream + 1000 * number for stream in range(streams)]


def streamed(
    sampler: Sampler, chunks: int, streams: int, carries: bool = True, pasts: Sequence[Slots | None] | None = None
) -> tuple[Chunks, list[Slots]]:
    """Samples [streams, BANDS, FRAMES] of each chunk, and what each leaves; without `carries` each begins with zeros.
    pasts: what chunks begin with instead."""
    carried, samples, left = None, [], list[Slots]()
    for number in range(chunks):
        carried = carried if pasts is None else pasts[number]
        x, after = sampler.carry_on(PLAN, seeds(number, streams), vowels(number, streams), GUIDANCE, carried=carried)
        carried = after if carries else None
        samples.append(x)
        left.append(after)
    return samples, left


def streamed_in_torch(sampler: Sampler, chunks: int, streams: int) -> Chunks:
    """The same samples by torch and the executor's arithmetic: no engine rounds otherwise."""
    module, plan = speech.make()[0].eval(), sampler.compile(PLAN, GUIDANCE)
    slots = slots_of(plan, None, sampler.bundle.manifest, streams)
    samples = []
    for number in range(chunks):
        vowel = torch.from_numpy(vowels(number, streams)["vowel"])
        both = torch.cat([vowel, torch.full_like(vowel, speech.NULL)])

        def network(index: int, step: Any, u: np.ndarray, fed: Any, both: torch.Tensor = both) -> tuple[Any, Any]:
            with torch.no_grad():
                x, time = torch.from_numpy(np.concatenate([u, u])), torch.full((2 * streams,), step.time)
                velocity, past, heard = module(x, time, both, *map(torch.from_numpy, (fed["past"], fed["heard"])))
            return np.split(velocity.numpy(), 2), {"past": past.numpy(), "heard": heard.numpy()}

        *_, last = execute(plan, Carrying(network, slots), sampler.draws(seeds(number, streams)))
        slots = last.slots
        samples.append(finish(plan, [last]))
    return samples


def whole(sampler: Sampler, chunks: int, streams: int) -> Chunks:
    """The same samples as one run of torch in float64 over the whole series, by a mask: no chunk is apart."""
    module, plan = speech.make()[0].eval().double(), sampler.compile(PLAN, GUIDANCE)
    labels = torch.from_numpy(np.stack([vowels(number, streams)["vowel"] for number in range(chunks)], axis=1))
    both = torch.cat([labels, torch.full_like(labels, speech.NULL)])

    def network(index: int, step: Any, u: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            time = torch.full((2 * streams,), step.time, dtype=torch.float64)
            velocity = module.whole(torch.from_numpy(np.concatenate([u, u])), time, both)
        return [*np.split(velocity.numpy(), 2)]

    def draws(number: int) -> np.ndarray:
        shape = (speech.BANDS, speech.FRAMES)
        return np.concatenate([stacked(seeds(chunk, streams), number, shape) for chunk in range(chunks)], axis=2)

    facts = DenoiserFacts(speech.SPEC.schedule, "flow", grid=sampler.bundle.manifest.grid or "trailing")
    bare = compile_plan(PLAN, facts, GUIDANCE)
    assert [step.time for step in bare.steps] == [step.time for step in plan.steps]
    return np.split(finish(bare, execute(bare, network, draws, np.float64), np.float64), chunks, axis=2)


def seam(chunks: Chunks) -> float:
    """The mean jump between chunks, relative to the mean change from frame to frame within them."""
    jumps = [np.abs(b[:, :, 0] - a[:, :, -1]).mean() for a, b in zip(chunks, chunks[1:], strict=False)]
    return float(np.mean(jumps) / np.mean([np.abs(np.diff(each, axis=2)).mean() for each in chunks]))


def milliseconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median processor time of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time()
            run()
            times[name].append(1000 * (time.process_time() - started))
    return {name: float(np.median(each)) for name, each in times.items()}


def one(sampler: Sampler, carries: bool) -> Callable[[], Any]:
    """A chunk of one stream, a new one at each call."""
    kept: dict[str, Any] = {"carried": None, "number": 0}

    def run() -> None:
        kept["number"] += 1
        condition = {"vowel": [kept["number"] % speech.VOWELS]}
        x, after = sampler.carry_on(PLAN, [kept["number"]], condition, GUIDANCE, carried=kept["carried"])
        kept["carried"] = after if carries else None

    return run


def megabytes() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--chunks", type=int, default=10_000, help="of the test of memory")
    parser.add_argument("--rounds", type=int, default=200, help="of timing")
    given = parser.parse_args()
    bundle = given.work / "speech"
    if not bundle.exists():
        export(ExportOptions(f"{Path(__file__).with_name('speech.py')}:make", bundle))
        calibrate(CalibrateOptions(bundle, plan=PLAN, guidance=GUIDANCE, target=("cpu-x86", "openvino")))
    opened = {
        "onnxruntime, float32": load(bundle, body="float32", backend=OnnxRuntime(threads=1)),
        "OpenVINO, float32": load(bundle, body="float32", backend=OpenVino(threads=1, batch=2)),
        "onnxruntime, int8": load(bundle, body="int8-cpu-x86", backend=OnnxRuntime(threads=1)),
        "OpenVINO, int8": load(bundle, body="int8-openvino", backend=OpenVino(threads=1, batch=2)),
    }
    exact = opened["onnxruntime, float32"]
    samples = {name: streamed(sampler, CHUNKS, STREAMS)[0] for name, sampler in opened.items()}
    alone = {name: streamed(sampler, CHUNKS, STREAMS, carries=False)[0] for name, sampler in opened.items()}
    pasts = [None, *streamed(exact, CHUNKS, STREAMS)[1][:-1]]
    alike = {name: streamed(sampler, CHUNKS, STREAMS, pasts=pasts)[0] for name, sampler in opened.items()}
    at_once = whole(exact, CHUNKS, STREAMS)
    in_torch = streamed_in_torch(exact, CHUNKS, STREAMS)
    worst = max(float(np.abs(a - b).max()) for a, b in zip(in_torch, at_once, strict=True))
    data = speech.series(STREAMS, CHUNKS, torch.Generator().manual_seed(1))[0].numpy()
    lines = [
        ["data", *["-"] * 5, f"{seam(np.split(data, CHUNKS, axis=2)):.2f}", "-"],
        ["torch and numpy", f"{worst:.1e}", *["-"] * 4, f"{seam(in_torch):.2f}", "-"],
    ]
    for name, chunks in samples.items():
        worst = max(float(np.abs(a - b).max()) for a, b in zip(chunks, at_once, strict=True))
        quality = [psnr(a, b).mean() for a, b in zip(chunks, samples["onnxruntime, float32"], strict=True)]
        apart = np.mean([psnr(a, b).mean() for a, b in zip(alone[name], alone["onnxruntime, float32"], strict=True)])
        fed = np.mean([psnr(a, b).mean() for a, b in zip(alike[name], samples["onnxruntime, float32"], strict=True)])
        is_exact = name == "onnxruntime, float32"
        decibels = ["-"] * 4 if is_exact else [f"{each:.2f}" for each in (apart, fed, np.mean(quality), quality[-1])]
        lines.append([name, f"{worst:.1e}", *decibels, f"{seam(chunks):.2f}", f"{seam(alone[name]):.2f}"])
    decibels = ["PSNR without carry", "from float32's past", "with carry", "last chunk"]
    names = ["", "largest difference from the whole run", *decibels]
    print(f"## Samples\n\n{table([*names, 'seam with carry', 'without'], lines)}\n", flush=True)
    runs = {(name, carries): one(sampler, carries) for name, sampler in opened.items() for carries in (True, False)}
    times = milliseconds({f"{name}/{carries}": run for (name, carries), run in runs.items()}, given.rounds)
    timed = [[name, f"{times[f'{name}/True']:.2f}", f"{times[f'{name}/False']:.2f}"] for name in opened]
    print(
        f"## Processor time of a chunk\n\n{table(['', 'carries on, ms', 'begins each time, ms'], timed)}\n", flush=True
    )
    run, marks = one(opened["onnxruntime, int8"], carries=True), []
    for number in range(given.chunks):
        run()
        if number + 1 in (given.chunks // 10, given.chunks // 2, given.chunks):
            marks.append([str(number + 1), f"{megabytes():.1f}"])
    print(f"## Resident memory\n\n{table(['chunks', 'MB'], marks)}", flush=True)


if __name__ == "__main__":
    main()
