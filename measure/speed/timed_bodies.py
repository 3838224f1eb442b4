"""The bodies of a bundle that are timed: every contender in its own process, all taking turns.

One call of the body is timed, with its feeds in the middle of the plan. For a body with several graphs, or several
networks, it is a mean step of the plan: each graph runs as often as in the plan. The loop around the body costs the
same in every precision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fewstep.measure.bodies import find_excluded_bodies
from fewstep.measure.body_backends import backend_of, is_simulated
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.contender_process import WARM_UP
from fewstep.measure.speed.mean_step import make_contender, middle_feeds
from fewstep.measure.speed.race import Race, Turns, run_race
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.calibrate_command import calibrate_fix
from fewstep.runtime.bundle.networks import common_bodies, edges_of
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, QNN
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.unsuited_bodies import describe_losses
from fewstep.runtime.progress import SILENT, Progress

STARTING = 0.5  # seconds in which a process starts and opens a small network, on an idle machine
PROFILED = 10  # calls of a profile
FLOAT16 = "float16 is not timed: onnxruntime's CPU kernels compute it in float32; --backend names one that runs it"


@dataclass(frozen=True)
class TimedBodies:
    """The bodies to time, and how.

    here: names of the bodies that run on their own backends; ratios are relative to the first (`select_local_bodies`).
    elsewhere: (backend, body) of bodies on backends that a user names (`select_backend_bodies`).
    plans: the plan of each body, whose steps provide its inputs.
    turns: batch sizes, number of rounds, and seconds per turn.
    """

    here: Sequence[str]
    elsewhere: Sequence[tuple[str, str]]
    plans: Mapping[str, Plan]
    turns: Turns

    def estimate_seconds(self, evaluation: float, load: float) -> float:
        """Return the expected time of all turns, of starting processes and of their profiles, in seconds.

        evaluation: the seconds of an evaluation of one sample. load: see `measure_load`. Both are of the present
        machine. A turn has at least one call before the counted ones, and a call of several networks runs each step.
        """
        steps = self.plans[self.here[0]].steps
        networks, bodies = len({step.network for step in steps}), len(self.here) + len(self.elsewhere)
        counted_calls = bodies * (1 if networks == 1 else 1 + networks) * self.turns.rounds
        calls = [evaluation * batch * (1 if networks == 1 else len(steps)) for batch in self.turns.batches]
        turns = sum(max(WARM_UP, call) + max(self.turns.seconds, call) for call in calls) * counted_calls
        return turns + bodies * (len(calls) * STARTING * load + PROFILED * calls[0])


def select_local_bodies(bundle: Bundle) -> list[str]:
    """Return the names of the bodies whose backends are on this machine: float32 first, if there is one, and bodies of
    backends other than onnxruntime last. Raises UserError if there is none."""
    bodies, refused = common_bodies(bundle.manifest), find_excluded_bodies(bundle)
    names = [name for name, body in bodies.items() if not is_simulated(body) and name not in refused]
    if not names:
        raise UserError(f"{bundle.path} has no body that onnxruntime runs", "name another engine: --backend tensorrt")
    return sorted(names, key=lambda name: (name != FLOAT, _other_backend(bundle, name) is not None))


def select_backend_bodies(bundle: Bundle, backends: Sequence[str]) -> list[tuple[str, str]]:
    """Return (backend, body name) for the bodies that these backends run: for each backend, the smallest float type
    first, then int8."""
    found = []
    for backend in backends:
        bodies = create_backend(backend).bodies if backend != ONNXRUNTIME else {}
        for precision in ("float16" if "float16" in bodies else "float32", "int8"):
            names = bodies.get(precision, ())
            found += [(backend, name) for name in names[:1] if name in common_bodies(bundle.manifest)]
    return found


def run_races(
    bundle: Bundle, timed: TimedBodies, records: ConditionRecords | None = None, progress: Progress = SILENT
) -> tuple[Race, ...]:
    """Time all bodies in turns, once for each batch size. Return one result per batch size. `records` are user-supplied
    conditions."""
    plans, first, threads = timed.plans, timed.here[0], timed.turns.threads
    fed_alone = {  # bodies with range groups, or with a separate plan
        body
        for _, body in timed.elsewhere
        if any(edges_of(bundle.manifest, body).values()) or plans[body] != plans[first]
    }
    samplers, finished = {name: open_body(bundle, name, threads) for name in timed.here}, list[Race]()
    for batch in timed.turns.batches:
        feeds = {name: middle_feeds(sampler, plans[name], batch, records) for name, sampler in samplers.items()}
        for body in fed_alone - feeds.keys():
            feeds[body] = middle_feeds(open_body(bundle, body, threads), plans[body], batch, records)
        contenders = [
            make_contender(bundle, name, plans[name], feeds[name], _other_backend(bundle, name)) for name in timed.here
        ]
        for backend, body in timed.elsewhere:
            fed = feeds.get(body) or feeds[first]
            contenders.append(make_contender(bundle, body, plans[body], fed, backend, f"{body}, {backend}"))
        finished.append(run_race(contenders, timed.turns, progress, profiled=not finished))  # batch hardly matters
    return tuple(finished)


def timing_notes(bundle: Bundle, timed: TimedBodies, backends: Sequence[str]) -> Iterator[str]:
    """Yield notes that explain the measured times: about the bodies that were timed, and about those that were not."""
    bodies, found = bundle.manifest.bodies, dict(timed.elsewhere)
    if not backends:
        yield FLOAT16
    if not any(bodies[name].is_quantized for name in timed.here):
        yield f"there is no int8 body to time: {calibrate_fix(bundle)}"
    for name in timed.here:
        if len(bodies[name].graphs) > 1:
            steps = f"several graphs run the steps of {timed.plans[name].name}"
            yield f"{name}: {steps}; times are the mean of a step"
    yield from describe_losses(bodies[name] for name in timed.here)
    if QNN.name in backends:
        from fewstep.runtime.backends.qnn import Qnn  # only needed to time it

        if Qnn().is_emulated():
            yield f"{QNN.name}: this CPU emulates an NPU, so the time says nothing about a real one"
    for backend in backends:
        if backend != ONNXRUNTIME and backend not in found:
            yield f"{backend}: nothing to time, the bundle has no body for it"


def _other_backend(bundle: Bundle, name: str) -> str | None:
    """Return the name of a body's backend; None for onnxruntime on the CPU."""
    backend = backend_of(bundle.manifest.bodies[name])
    return None if backend == ONNXRUNTIME else backend
