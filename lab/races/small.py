"""Compare the speed of small int8 bodies with float32 on this CPU, in calls of one and of eight rows.

    python -m lab.races.small BUNDLE ... [--threads 1,2] [--batches 1,8] [--rounds 12] [--turn-seconds 0.1]

A bundle has bodies for cpu-x86 and openvino, along one plan. Contenders take turns in processes of their own. A cell
has the least milliseconds of a call, as other programs disturb most calls of two threads. In brackets is the speed
relative to float32 on onnxruntime, and the last column has that of the fastest int8. `openvino-bf16` runs float32 in
bf16 where the processor has it, as OpenVINO does by default.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf
from pathlib import Path

from benchmarks.options import parser_of, positive, refusing, several
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.mean_step import middle_feeds
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.reading import open_bundle

INT8 = "int8-cpu-x86"
FIRST = "float32, onnxruntime"
CONTENDERS = {
    FIRST: ("float32", "onnxruntime"),
    "float32, openvino-bf16": ("float32", "openvino-bf16"),
    "int8, onnxruntime": (INT8, "onnxruntime"),
    "int8, onnxruntime-rows": (INT8, "onnxruntime-rows"),
    "int8, openvino": ("int8-openvino", "openvino"),
}


def feeds_of(bundle: Path, rows: int) -> Arrays:
    """Return the inputs of a call of `rows` rows, from the middle of the plan that int8 was calibrated along."""
    opened = open_bundle(bundle)
    with open_body(opened, INT8, threads=1) as sampler:
        fed = middle_feeds(sampler, select_plan(sampler.plans, opened.body(INT8)), rows)[DENOISER]
    return {name: array[:rows] for name, array in fed.items()}  # of the first branch alone


def open_contender(bundle: Path, body: str, backend: str, threads: int, batches: Sequence[int]) -> dict[str, Call]:
    """Return the calls of a body by their number of rows."""
    opened = open_bundle(bundle)
    network = create_backend(backend, threads).load(opened, body)
    names = [value.name for value in opened.body(body).graph.inputs]
    given = {rows: feeds_of(bundle, rows) for rows in batches}
    fed = {rows: {name: arrays[name] for name in names} for rows, arrays in given.items()}
    return {str(rows): partial(network, arrays) for rows, arrays in fed.items()}


def race(
    bundle: Path, threads: int, batches: Sequence[int], rounds: int, seconds: float
) -> dict[int, dict[str, float]]:
    """Return each contender's least seconds of a call, by the number of rows.

    `onnxruntime-rows` takes part with more than one thread.
    """
    openers = {
        name: partial(open_contender, bundle, body, backend, threads, batches)
        for name, (body, backend) in CONTENDERS.items()
        if threads > 1 or backend != "onnxruntime-rows"
    }
    least = {rows: dict.fromkeys(openers, inf) for rows in batches}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(TimedProcess(name, opener)) for name, opener in openers.items()}
        for _ in range(rounds):
            for rows, found in least.items():
                for name, process in processes.items():
                    found[name] = min(found[name], *process.wall_times(seconds, str(rows)))
    return least


def head() -> Iterator[str]:
    yield f"| network | threads | rows | {' | '.join(CONTENDERS)} | fastest int8 |"
    yield "|---" * (len(CONTENDERS) + 4) + "|"


def line(network: str, threads: int, rows: int, found: Mapping[str, float]) -> str:
    """Return the table's line of one kind of call, from the seconds of each contender."""
    speeds = {name: found[FIRST] / seconds for name, seconds in found.items()}
    cells = [f"{1e3 * found[name]:.2f} ({speeds[name]:.2f})" if name in found else "" for name in CONTENDERS]
    fastest = max(speed for name, speed in speeds.items() if name.startswith("int8"))
    return f"| {network} | {threads} | {rows} | {' | '.join(cells)} | {fastest:.2f} |"


def main(given: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--threads", type=several, default=(1, 2), help="threads of a call (default 1,2)")
    parser.add_argument("--batches", type=several, default=(1, 8), help="rows of a call (default 1,8)")
    parser.add_argument("--rounds", type=positive, default=12, help="number of turns (default 12)")
    parser.add_argument("--turn-seconds", type=float, default=0.1, help="seconds of a turn (default 0.1)")
    options = parser.parse_args(given)
    with refusing(parser):
        print("\n".join(head()), flush=True)
        for bundle in options.bundles:
            name = open_bundle(bundle).manifest.name
            for threads in options.threads:
                found = race(bundle, threads, options.batches, options.rounds, options.turn_seconds)
                for rows, times in found.items():
                    print(line(name, threads, rows, times), flush=True)


if __name__ == "__main__":
    from lab.races import small  # the processes of contenders import the functions by this name

    small.main()
