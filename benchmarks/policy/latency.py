"""The time of a policy's calls, and the ticks of a loop at 80 Hz: on an idle machine of two cores.

    python -m benchmarks.policy.latency WORK [--calls 10000] [--seconds 600] [--weights policy.safetensors]

WORK is the folder of success_rates.py, with its bundle and the observations that were calibrated on. Calls are whole:
encoder, steps, units. The contenders take turns. float32 has a fifth of int8's calls, and torch (eager) a twentieth.
torch takes part with `--weights`, and is loaded after the loop, so that the memory of the loop is that of a device. The
calls of the loop have other work between them, those of the table have not.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import put_part, table
from benchmarks.options import add_page, parser_of
from benchmarks.policy.closed_loop import observations_of
from benchmarks.policy.rollouts import LIMITS
from benchmarks.policy.simulator import RATE
from benchmarks.policy.table import PAGE
from fewstep.robots.control import PolicyRunner, Rhythm, SequenceRequest, sample_sequences
from fewstep.robots.control.statistics import quantiles
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

# Calls before the next contender's: the first finds a cold cache.
TURNS = {"int8": 500, "float32": 100, "torch": 25}
STEPS = (1, 2, 4)
NETWORK = Path(__file__).with_name("network.py")
Call = Callable[[Mapping[str, NDArray[Any]]], Any]
HEAD = ("sequences", "calls", "p50 ms", "p99 ms", "p99.9 ms", "most ms", "p50 over int8's")


def windows(bundle: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield observations of rollouts, repeatedly."""
    with np.load(observations_of(bundle)) as file:
        arrays = {name: file[name] for name in ("observation", "task")}
    count = len(arrays["observation"])
    for place in iter(lambda: 0, 1):
        for place in range(count):
            yield {name: array[place] for name, array in arrays.items()}


def call_of(sampler: Sampler, steps: int) -> Call:
    plan = sampler.compile(f"dpmpp_2m:{steps}", shaping=LIMITS)
    return lambda window: sample_sequences(sampler, plan, [SequenceRequest(window, 0)])


def torch_call(weights: Path, steps: int, threads: int) -> Call:
    """Return one call of the network in torch for each step. Work around the steps is left out, in its favour."""
    import torch

    from fewstep.export.sources.python_file import load_python_file

    os.environ["POLICY_WEIGHTS"] = str(weights)
    torch.set_num_threads(threads)
    source = load_python_file(f"{NETWORK}:make")
    network: Any = source.module
    x, time_ = torch.zeros(1, *source.spec.x_shape), torch.zeros(1)
    prefix, delay = torch.zeros(1, *source.spec.x_shape), torch.zeros(1, 1)

    @torch.inference_mode()
    def call(window: Mapping[str, NDArray[Any]]) -> Any:
        seen = [torch.from_numpy(np.asarray(window[name], np.float32))[None] for name in ("observation", "task")]
        known = network.encode(*seen)
        for _ in range(steps):
            made = network.predict(x, time_, known, prefix, delay)
        return made

    return call


def race(calls: Mapping[tuple[str, int], Call], bundle: Path, count: int) -> list[tuple[str, ...]]:
    """Return the table's lines of contenders by (name, steps); int8 makes `count` calls."""
    seconds: dict[tuple[str, int], list[float]] = {each: [] for each in calls}
    seen = windows(bundle)
    for call in calls.values():
        for _ in range(20):
            call(next(seen))
    for _ in range(-(-count // TURNS["int8"])):
        for each, call in calls.items():
            for _ in range(TURNS[each[0]]):
                window, began = next(seen), time.perf_counter()
                call(window)
                seconds[each].append(time.perf_counter() - began)
    medians = {each: quantiles(taken).p50 for each, taken in seconds.items()}
    return [
        (
            f"{who}, {steps} steps",
            str(len(taken)),
            *_milliseconds(taken),
            f"{medians[who, steps] / medians['int8', steps]:.2f}",
        )
        for (who, steps), taken in seconds.items()
    ]


def _milliseconds(seconds: list[float]) -> tuple[str, ...]:
    found = quantiles(seconds)
    return tuple(f"{1e3 * each:.2f}" for each in (found.p50, found.p99, found.p999, found.most))


def machine(seconds: float) -> float:
    """Return the fraction of the ticks of an empty loop that begin late, by more than a tenth of a tick."""
    count, late, due = round(seconds * RATE), 0, time.perf_counter()
    for _ in range(count):
        time.sleep(max(0.0, due - time.perf_counter()))
        lateness = time.perf_counter() - due
        if lateness > 0.1 / RATE:
            late, due = late + 1, due + lateness
        due += 1 / RATE
    return late / count


def loop(sampler: Sampler, bundle: Path, seconds: float) -> str:
    """Run a loop of the runner and the same loop without work, which shows the machine's share."""
    seen = windows(bundle)
    empty = machine(seconds / 10)
    with PolicyRunner(sampler, Rhythm(RATE, ("dpmpp_2m:4", "dpmpp_2m:2")), shaping=LIMITS) as runner:
        first = next(seen)
        task = {"task": first["task"]}
        runner.warm_up({"observation": first["observation"][0]}, task)
        runner.reset(0, task)
        gc.freeze()  # as docs/policies.md advises
        found = runner.run(lambda: {"observation": next(seen)["observation"][0]}, lambda action: None, seconds)
    return "\n".join(
        (
            f"- {found.ticks} ticks at {RATE:g} Hz: {100 * found.overrun / found.ticks:.2f} % began late"
            f" (without work {100 * empty:.2f} %)",
            f"- `act`: p50 {1e3 * found.acting.p50:.3f} ms, p99 {1e3 * found.acting.p99:.3f} ms",
            f"- sequences: p50 {1e3 * found.sampling.p50:.2f} ms, p99 {1e3 * found.sampling.p99:.2f} ms",
            f"- {found.sampling.count} sequences: {found.missed} missed the deadline, {found.cut} were predicted early",
            f"- {found.late} late and {found.held} held ticks; plans {dict(found.plans)}",
            f"- resident memory {_resident():.0f} MB",
        )
    )


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=1, help="threads of a call")
    parser.add_argument("--weights", type=Path, help="weights for a comparison with torch")
    add_page(parser, PAGE)
    given = parser.parse_args()
    bundle = max((path for path in given.work.glob("policy-*") if path.is_dir()), key=lambda each: each.stat().st_mtime)
    backend = OnnxRuntime(threads=given.threads, spinning=False)  # waiting threads leave the core to the loop
    said = f"A call has {given.threads} thread{'s' * (given.threads > 1)}.\n\n"
    said += loop(load(bundle, precision="int8", backend=backend), bundle, given.seconds)
    print(said, flush=True)
    calls = {
        (precision, steps): call_of(load(bundle, precision=precision, backend=backend), steps)
        for precision in ("int8", "float32")
        for steps in STEPS
    }
    if given.weights is not None:
        calls |= {("torch", steps): torch_call(given.weights, steps, given.threads) for steps in STEPS}
    made = table(HEAD, race(calls, bundle, given.calls))
    print(made)
    if given.page:
        put_part(PAGE, "benchmarks/policy/latency.py", f"{said}\n\n{made}")


if __name__ == "__main__":
    main()
