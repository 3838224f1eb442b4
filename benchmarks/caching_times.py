"""The cost of light steps: processor time of evaluations and of whole runs, and memory.

    python -m benchmarks.caching_times BUNDLE [--plan dpmpp_2m:20] [--engine onnxruntime] [--precision float32]

BUNDLE has a light network (`fewstep export --cache`). One sample, one thread. In each round there are an evaluation of
the full and of the light network, a run of the plan with all steps full, one with every second step light and
extrapolated features, and one of the number of full steps that takes as long as the second run, by the first round. All
times are medians. Memory is the peak of the process, first without the light network and then with it. Linux only.
"""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import process_time

from benchmarks import options
from benchmarks.caching import OF_ALL_SOLVERS
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.measure.speed.mean_step import middle_feeds
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER, LIGHT
from fewstep.runtime.backends.registry import NAMED, create_backend
from fewstep.runtime.sampling.loading import PRECISIONS, load
from fewstep.runtime.sampling.sampler import Sampler

SEED = 0
SHORT = "ddim:2"  # a run that loads the networks


def time_call(call: Callable[[], object]) -> float:
    """The processor seconds of a call."""
    begun = process_time()
    call()
    return process_time() - begun


def measure_times(sampler: Sampler, plan: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of `full`, `light` and of each plan, which take turns."""
    conditions = held_out_conditions(sampler.bundle.manifest, [SEED])
    cached, solver, equal = f"{plan}+{OF_ALL_SOLVERS}", plan.partition(":")[0], ""

    def run(name: str) -> object:
        return sampler.sample(name, [SEED], conditions)

    feeds = middle_feeds(sampler, sampler.compile(f"{SHORT}+every"), 1)
    times: dict[str, list[float]] = {}
    for number in range(rounds):
        turns: dict[str, Callable[[], object]] = {
            "full": partial(sampler.denoiser.networks[DENOISER].graph, feeds[DENOISER]),
            "light": partial(sampler.denoiser.networks[LIGHT].graph, feeds[LIGHT]),
            plan: partial(run, plan),
            cached: partial(run, cached),
        }
        for name, call in turns.items():
            times.setdefault(name, []).append(time_call(call))
        equal = equal or f"{solver}:{equal_steps(plan, {name: time[0] for name, time in times.items()}):.0f}"
        times.setdefault(equal, []).append(time_call(partial(run, equal)))
        last = ", ".join(f"{name} {time[-1]:.3f} s" for name, time in times.items())
        print(f"round {number + 1}: {last}", file=sys.stderr, flush=True)
    return {name: median(time) for name, time in times.items()}


def equal_steps(plan: str, seconds: Mapping[str, float]) -> float:
    """The number of full steps that take as long as the plan with light steps, from the seconds of both."""
    return int(plan.partition(":")[2]) * seconds[f"{plan}+{OF_ALL_SOLVERS}"] / seconds[plan]


def measure_peaks(sampler: Sampler) -> dict[str, int]:
    """The peak bytes of this process after a run of full steps, and after one with a light step, which loads the light
    network."""
    conditions, peaks = held_out_conditions(sampler.bundle.manifest, [SEED]), {}
    for plan in (SHORT, f"{SHORT}+every"):
        sampler.sample(plan, [SEED], conditions)
        peaks[plan] = 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    return peaks


def solver_and_steps(text: str) -> str:
    """Return the plan SOLVER:STEPS unless it has another form."""
    solver, _, steps = text.partition(":")
    if not (solver and steps.isdecimal() and int(steps) > 1):
        raise ArgumentTypeError(f"{text!r} is not SOLVER:STEPS, such as dpmpp_2m:20")
    return text


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--plan", default="dpmpp_2m:20", type=solver_and_steps, help="SOLVER:STEPS (default %(default)s)"
    )
    parser.add_argument("--engine", default="onnxruntime", choices=list(NAMED), help="default %(default)s")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="default %(default)s")
    parser.add_argument("--rounds", type=options.positive, default=5, help="number of turns (default %(default)s)")
    given = parser.parse_args()
    with options.refusing(parser):
        sampler = load(given.bundle, given.precision, backend=create_backend(given.engine, 1))
        features = sampler.bundle.manifest.features
        if features is None:
            raise UserError(f"{given.bundle} has no light network", "export with --cache")
        sampler.compile(given.plan)
    for plan, peak in measure_peaks(sampler).items():
        print(f"peak of {plan}: {peak / 1e6:.0f} MB", flush=True)
    seconds = measure_times(sampler, given.plan, given.rounds)
    print(f"light: {seconds['light'] / seconds['full']:.1%} of the time, {features.share:.1%} of the work")
    for name, value in seconds.items():
        print(f"{name}: {1e3 * value:.1f} ms")
    as_long = equal_steps(given.plan, seconds)
    print(f"full steps of equal time: {as_long:.1f}")


if __name__ == "__main__":
    main()
