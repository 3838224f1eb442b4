"""How fast is each form of a denoiser here? Every contender in a process of its own, all taking turns.

What is timed is one call of the body, fed what it meets in the middle of the plan. Of a body with several graphs, or of
several networks, it is a mean step of the plan. The loop around it costs the same in every precision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from fewstep.measure.bodies import is_run_by_onnxruntime, open_body
from fewstep.measure.rollouts.calibrated_plan import judged_plans
from fewstep.measure.rollouts.prompts import HELD_OUT, prompt_rows
from fewstep.measure.speed.machine import Machine, this_machine
from fewstep.measure.speed.mean_step import middle_feeds, parts_of, race_bodies
from fewstep.measure.speed.race import LONGEST_TURN, Race, check_batches
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.named import named
from fewstep.runtime.backends.qnn import Qnn
from fewstep.runtime.bundle.networks import edges_of, whole_bodies
from fewstep.runtime.bundle.platforms import QNN
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.options import Options
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

CPU = "onnxruntime"
FLOAT16 = "float16 is not timed: onnxruntime's CPU kernels compute it in float32; --backend names one that runs it"


@dataclass(frozen=True)
class BenchOptions(Options):
    """Race the bodies of a bundle: one call of each, every contender in its own process, taking turns.

    bundle: The bundle's folder.
    backend: Also time the float and int8 bodies that these backends run: onnxruntime-cuda, openvino, openvino-bf16,
        tensorrt, tensorrt-rtx, qnn.
    plan: SOLVER:STEPS; its middle step feeds the bodies. Default: the plan along which int8 was calibrated.
    batches: Samples in one call; a guided plan doubles its rows.
    threads: Threads of one call; 0 for all cores that this process may use.
    rounds: Turns that each contender takes.
    turn_seconds: Length of a turn in seconds.
    spinning: Waiting threads spin, which is fastest for a program alone on its cores. --no-spinning is for a program
        that shares its cores.
    """

    bundle: Path
    backend: tuple[str, ...] = ()
    plan: str = ""
    batches: tuple[int, ...] = (1, 8)
    threads: int = 0
    rounds: int = 9
    turn_seconds: float = 0.5
    spinning: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or not 0 < self.turn_seconds <= LONGEST_TURN:
            what = f"{self.rounds} rounds of {self.turn_seconds:g} s cannot be timed"
            raise UserError(what, f"give at least 1 round, and turns of more than 0 and at most {LONGEST_TURN:g} s")
        if self.threads < 0:
            raise UserError(f"--threads is {self.threads}", "give 0 for all cores, or more")
        check_batches(self.batches)
        for name in self.backend:
            named(name)


class Benchmark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One race a batch size. The first contender, float32, is what the others are compared with."""

    model: str
    plan: str
    spinning: bool
    machine: Machine
    races: tuple[Race, ...]
    notes: tuple[str, ...]

    def ratio(self, body: str) -> float | None:
        """How many times faster than the first contender a body is, at the batch size where it wins least."""
        return min((each.ratio for one in self.races for each in one.timings if each.name == body), default=None)


def bench(options: BenchOptions, progress: Progress = SILENT) -> Benchmark:
    """Time every body of a bundle that runs here. The machine should do nothing else."""
    bundle = open_bundle(options.bundle)
    names = contenders_here(bundle)
    samplers = {name: open_body(bundle, name, options.threads) for name in names}
    elsewhere = list(_elsewhere(bundle, options.backend))
    plans = _plans(bundle, samplers, [body for _, body in elsewhere], options.plan)
    plan = plans[names[0]]
    notes = [] if options.backend else [FLOAT16]
    if all(bundle.manifest.bodies[name].precision != "int8" for name in names):
        notes.append(f"there is no int8 body to time: fewstep calibrate {bundle.path}")
    notes += [
        f"{name}: several graphs run the steps of {plan.name}; times are the mean of a step, memory the largest graph's"
        for name in names
        if len(bundle.manifest.bodies[name].graphs) > 1
    ]
    if QNN.name in options.backend and Qnn().is_emulated():
        notes.append(f"{QNN.name}: this CPU executes the arithmetic of an NPU, so its time says nothing of one")
    notes += [
        f"{backend}: nothing to time, the bundle has no body for it"
        for backend in options.backend
        if backend != CPU and backend not in dict(elsewhere)
    ]
    prompts = HELD_OUT[: max(options.batches)]
    rows = None if bundle.manifest.text is None else prompt_rows(bundle, prompts)
    races = []
    for batch in options.batches:
        fed = {name: middle_feeds(sampler, plans[name], batch, rows) for name, sampler in samplers.items()}
        own = {body for _, body in elsewhere if any(edges_of(bundle.manifest, body).values()) or plans[body] != plan}
        imitated = own - fed.keys()  # for a group, or a plan of their own
        fed |= {
            body: middle_feeds(open_body(bundle, body, options.threads), plans[body], batch, rows) for body in imitated
        }
        parts = [part for name in names for part in parts_of(bundle, name, plans[name], fed[name])]
        for backend, body in elsewhere:
            feeds = fed.get(body) or fed[names[0]]
            parts += parts_of(bundle, body, plans[body], feeds, f"{body}, {backend}", backend)
        timing = (options.threads, options.rounds, options.turn_seconds, progress, options.spinning)
        races.append(race_bodies(parts, *timing))
    return Benchmark(bundle.manifest.name, plan.name, options.spinning, this_machine(), tuple(races), tuple(notes))


def contenders_here(bundle: Bundle) -> list[str]:
    """The bodies that onnxruntime runs as they are deployed, float32 first if there is one."""
    names = [name for name, body in whole_bodies(bundle.manifest).items() if is_run_by_onnxruntime(body)]
    if not names:
        raise UserError(f"{bundle.path} has no body that onnxruntime runs", "name another engine: --backend tensorrt")
    return sorted(names, key=lambda name: name != "float32")


def _plans(bundle: Bundle, samplers: dict[str, Sampler], elsewhere: Sequence[str], plan: str) -> dict[str, Plan]:
    """By body the plan asked for, or the one that the first int8 body was calibrated along: of those timed, if any."""
    bodies, reference = bundle.manifest.bodies, next(iter(samplers.values()))
    calibrated = {name: body for name, body in bodies.items() if body.plan is not None}
    timed = {name: body for name, body in calibrated.items() if name in samplers or name in elsewhere}
    by_body = judged_plans(reference, timed or dict(islice(calibrated.items(), 1)) or {"": reference.body}, plan)
    first = next(iter(by_body.values()))
    return {name: by_body.get(name, first) for name in bodies}


def _elsewhere(bundle: Bundle, backends: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(backend, body) of what other backends run: their shortest float first, then int8."""
    for backend in backends:
        bodies = named(backend).bodies if backend != CPU else {}
        for precision in ("float16" if "float16" in bodies else "float32", "int8"):
            names = bodies.get(precision, ())
            yield from ((backend, name) for name in names[:1] if name in whole_bodies(bundle.manifest))
