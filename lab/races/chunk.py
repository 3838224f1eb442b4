"""Compare the time of a policy's chunk on this CPU with one call of its baked file: medians and slow calls.

    python -m lab.races.chunk BUNDLE [--plan dpmpp_2m:2] [--rounds 10] [--turn-seconds 1.5]

Each chunk has new conditions and the next seed, as those of a control loop, and one thread. The baked file is called
with constant inputs by `InferenceSession.run`, which draws no noise and checks nothing. The two take turns in processes
of their own. A row has the median in milliseconds, and percentiles over the median, over all turns.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.options import parser_of, positive, refusing
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.resolve_run import resolve_run
from fewstep.measure.rollouts.seeds import draw_conditions
from fewstep.measure.speed.contender_process import Call, Seconds
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.sampling.loading import load

CONDITIONS = 16  # distinct ones, in turn
PERCENTILES = (90.0, 99.0, 99.9)


def open_sampler(bundle: Path, plan: str) -> dict[str, Call]:
    """Return a call that samples one chunk in int8."""
    sampler = load(bundle, precision="int8", backend=OnnxRuntime(threads=1))
    compiled, seeds = sampler.compile(plan), count()
    drawn = [draw_conditions(sampler.bundle.manifest, range(place, place + 1)) for place in range(CONDITIONS)]

    def call() -> object:
        seed = next(seeds)
        return sampler.sample(compiled, [seed], drawn[seed % CONDITIONS])

    return {"": call}


def open_baked(file: Path) -> dict[str, Call]:
    """Return a call of a baked file with constant inputs of one sample."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    shapes = {
        value.name: [size if isinstance(size, int) else 1 for size in value.shape] for value in session.get_inputs()
    }
    drawn = np.random.default_rng(0)
    return {
        "": partial(
            session.run, None, {name: drawn.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        )
    }


def lines(found: Mapping[str, Sequence[Seconds]]) -> Iterator[str]:
    """Yield the table of the calls' wall and CPU times."""
    yield (
        "| contender | time | calls | ms | "
        + " | ".join(f"p{percentile:g} / median" for percentile in PERCENTILES)
        + " |"
    )
    yield "|---" * (len(PERCENTILES) + 4) + "|"
    for name, calls in found.items():
        for kind, seconds in zip(("wall", "processor"), zip(*calls, strict=True), strict=True):
            middle = float(np.median(seconds))
            ratios = (f"{each / middle:.2f}" for each in np.percentile(seconds, PERCENTILES))
            yield f"| {name} | {kind} | {len(seconds)} | {1e3 * middle:.3f} | {' | '.join(ratios)} |"


def main(given: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="dpmpp_2m:2")
    parser.add_argument("--rounds", type=positive, default=10, help="number of turns (default 10)")
    parser.add_argument("--turn-seconds", type=float, default=1.5, help="seconds of a turn (default 1.5)")
    options = parser.parse_args(given)
    with refusing(parser), TemporaryDirectory() as folder:
        file = Path(folder) / "baked.onnx"
        asked = BakeOptions(options.bundle, options.plan, file, precision="int8")
        bake(asked, resolve_run(asked))
        openers = {
            "fewstep": partial(open_sampler, options.bundle, options.plan),
            "baked file": partial(open_baked, file),
        }
        found: dict[str, list[Seconds]] = {name: [] for name in openers}
        with (
            TimedProcess("fewstep", openers["fewstep"]) as ours,
            TimedProcess("baked file", openers["baked file"]) as baked,
        ):
            for _ in range(options.rounds):
                for process in (ours, baked):
                    found[process.name] += process.run_turn(options.turn_seconds)
        print("\n".join(lines(found)))


if __name__ == "__main__":
    from lab.races import chunk  # the processes of contenders import the functions by this name

    chunk.main()
