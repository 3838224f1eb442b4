"""The speed of each body of a bundle here: every contender in a process of its own, all taking turns.

What is timed is one call of the body, fed what it meets in the middle of the plan. Of a body with several graphs, or of
several networks, it is a mean step of the plan: each runs as often as the plan has it. The loop around it costs the
same in every precision.
"""

from collections.abc import Iterator, Mapping, Sequence

from fewstep.measure.bodies import not_judged
from fewstep.measure.body_backends import backend_of, is_simulated
from fewstep.measure.opened_body import open_body
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.mean_step import contender_of, middle_feeds
from fewstep.measure.speed.race import Race, Turns, race
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.named import named
from fewstep.runtime.bundle.networks import edges_of, whole_bodies
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, QNN
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

FLOAT16 = "float16 is not timed: onnxruntime's CPU kernels compute it in float32; --backend names one that runs it"


def timed_here(bundle: Bundle) -> list[str]:
    """The bodies whose engines are here, float32 first if there is one, bodies of other engines than onnxruntime last.

    UserError where there is none.
    """
    bodies, refused = whole_bodies(bundle.manifest), not_judged(bundle)
    names = [name for name, body in bodies.items() if not is_simulated(body)]
    names = [name for name in names if name not in refused]
    if not names:
        raise UserError(f"{bundle.path} has no body that onnxruntime runs", "name another engine: --backend tensorrt")
    return sorted(names, key=lambda name: (name != FLOAT, is_elsewhere(bundle, name)))


def is_elsewhere(bundle: Bundle, name: str) -> bool:
    """True where another engine than onnxruntime runs a body as it is deployed."""
    return backend_of(bundle.manifest.bodies[name]) != ONNXRUNTIME


def timed_elsewhere(bundle: Bundle, backends: Sequence[str]) -> list[tuple[str, str]]:
    """(backend, body) of what other backends run: their shortest float first, then int8."""
    found = []
    for backend in backends:
        bodies = named(backend).bodies if backend != ONNXRUNTIME else {}
        for precision in ("float16" if "float16" in bodies else "float32", "int8"):
            names = bodies.get(precision, ())
            found += [(backend, name) for name in names[:1] if name in whole_bodies(bundle.manifest)]
    return found


def races(
    bundle: Bundle,
    names: Sequence[str],
    plans: Mapping[str, Plan],
    turns: Turns,
    elsewhere: Sequence[tuple[str, str]] = (),
    records: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> tuple[Race, ...]:
    """A race for each batch size. Ratios are to the first body.

    names: bodies on their own engines (`timed_here`). plans: by body. elsewhere: of `timed_elsewhere`. records: of
    one's own conditions.
    """
    samplers, run = {name: open_body(bundle, name, turns.threads) for name in names}, list[Race]()
    own = {body for _, body in elsewhere if any(edges_of(bundle.manifest, body).values())}
    own |= {body for _, body in elsewhere if plans[body] != plans[names[0]]}
    for batch in turns.batches:
        fed = {name: middle_feeds(sampler, plans[name], batch, records) for name, sampler in samplers.items()}
        for body in own - fed.keys():  # for a group, or along a plan of its own
            fed[body] = middle_feeds(open_body(bundle, body, turns.threads), plans[body], batch, records)
        contenders = []
        for name in names:
            engine = backend_of(bundle.manifest.bodies[name]) if is_elsewhere(bundle, name) else None
            contenders.append(contender_of(bundle, name, plans[name], fed[name], engine))
        for backend, body in elsewhere:
            feeds = fed.get(body) or fed[names[0]]
            contenders.append(contender_of(bundle, body, plans[body], feeds, backend, f"{body}, {backend}"))
        run.append(race(contenders, turns, progress, profiled=not run))  # kinds hardly depend on the batch
    return tuple(run)


def timing_notes(
    bundle: Bundle, names: Sequence[str], plans: Mapping[str, Plan], backends: Sequence[str]
) -> Iterator[str]:
    """Notes for a reader of times: on what is timed, and what is not."""
    bodies, found = bundle.manifest.bodies, dict(timed_elsewhere(bundle, backends))
    if not backends:
        yield FLOAT16
    if all(bodies[name].precision != "int8" for name in names):
        yield f"there is no int8 body to time: fewstep calibrate {bundle.path}"
    for name in names:
        if len(bodies[name].graphs) > 1:
            steps = f"several graphs run the steps of {plans[name].name}"
            yield f"{name}: {steps}; times are the mean of a step"
    if QNN.name in backends and _is_emulated():
        yield f"{QNN.name}: this CPU executes the arithmetic of an NPU, so its time says nothing of one"
    for backend in backends:
        if backend != ONNXRUNTIME and backend not in found:
            yield f"{backend}: nothing to time, the bundle has no body for it"


def _is_emulated() -> bool:
    from fewstep.runtime.backends.qnn import Qnn  # for who times it

    return Qnn().is_emulated()
