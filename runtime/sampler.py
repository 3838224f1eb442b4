"""The sampler: a bundle, one of its bodies and an inference engine, ready to run plans.

    with fewstep.runtime.load("bundle", precision="int8") as sampler:
        x = sampler.sample(plan="dpmpp_2m:8", seeds=[0, 1], condition={"class": [3, 5]}, guidance=2.0)

Nothing changes after loading, so one sampler serves any number of threads. A sample depends on its seed and condition,
never on its neighbours in the batch.
"""

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime import conditions, noise
from fewstep.runtime.backends import Backend, Network
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import EXPORT_AGAIN, Bundle, open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Body, Graph, Role
from fewstep.runtime.plan import Denoising, Plan, Step, compile_plan, decode, regroup
from fewstep.runtime.schedule import NoiseSchedule
from fewstep.runtime.step import Network as StepNetwork
from fewstep.runtime.step import StepState, execute, finish

Array = NDArray[np.floating[Any]]
Float32 = NDArray[np.float32]
PLAN_LIMIT = 64 * 2**20  # bytes of a plan file; thousands of steps have a few MB


def load(
    path: Path | str, precision: str = "float32", *, body: str | None = None, backend: Backend | None = None
) -> "Sampler":
    """Open a bundle for sampling.

    Args:
        path: the bundle.
        precision: "float32" or "int8"; the backend knows which body of that precision it runs best.
        body: the name of a body instead, for measuring (e.g. "int8-tensorrt", simulated in float).
        backend: the inference engine and its settings; None is ONNX Runtime on the CPU.
    """
    bundle = open_bundle(path)
    if backend is None:
        backend = OnnxRuntime()
    elif not (hasattr(backend, "open") and hasattr(backend, "bodies")):
        raise UserError(
            f"backend {backend!r} is no inference engine",
            "this version runs ONNX Runtime's CPU provider: leave backend out, or pass an OnnxRuntime(...)",
        )
    chosen = bundle.body(body or choose_body(bundle, precision, backend))
    prologue = bundle.manifest.prologue
    return Sampler(
        bundle=bundle,
        body=chosen,
        denoiser=backend.open(bundle.graph(chosen.graph)),
        prologue=None if prologue is None else backend.open(bundle.graph(prologue)),
    )


def choose_body(bundle: Bundle, precision: str, backend: Backend) -> str:
    """The name of the body that a precision means on a backend."""
    if not isinstance(precision, str) or precision not in backend.bodies:
        raise UserError(f"unknown precision {precision!r}", f"choose one of {', '.join(backend.bodies)}")
    for name in backend.bodies[precision]:
        if name in bundle.manifest.bodies:
            return name
    have = ", ".join(bundle.manifest.bodies)
    wanted = backend.bodies[precision][0]
    target = wanted.removeprefix(f"{precision}-")
    raise UserError(
        f"{bundle.path} has no {wanted} body, only {have}", f"fewstep calibrate {bundle.path} --target {target}"
    )


@dataclass(frozen=True, repr=False)
class Sampler(AbstractContextManager["Sampler"]):
    """A denoiser that is loaded and ready. Made by `load`."""

    bundle: Bundle
    body: Body
    denoiser: Network
    prologue: Network | None

    def __repr__(self) -> str:
        return f"<Sampler of {self.bundle.path}: {self.body.precision} body for {self.body.target}>"

    def __exit__(self, *_: object) -> None:
        """Nothing to put back: the engine's memory goes with the last reference."""

    def sample(
        self,
        plan: str | Path | Plan = "dpmpp_2m:8",
        seeds: Sequence[int] = (0,),
        condition: conditions.Given | None = None,
        guidance: float | None = None,
    ) -> Float32:
        """Samples float32 [len(seeds), *x_shape] in model range.

        Args:
            plan: "SOLVER:STEPS", a compiled plan, or the path of a plan's JSON.
            seeds: one per sample.
            condition: for each condition of the denoiser, one value (or label) per sample.
            guidance: weight of classifier-free guidance; None runs the conditional branch alone.
        """
        compiled = self.compile(plan, guidance)
        return finish(compiled, self._run(compiled, seeds, condition)).astype(np.float32, copy=False)

    def steps(
        self,
        plan: str | Path | Plan = "dpmpp_2m:8",
        seeds: Sequence[int] = (0,),
        condition: conditions.Given | None = None,
        guidance: float | None = None,
    ) -> Iterator[StepState]:
        """The same run, one state per evaluation: for previews, progress, measuring; stop iterating to cancel."""
        return self._run(self.compile(plan, guidance), seeds, condition)

    def _run(self, compiled: Plan, seeds: Sequence[int], condition: conditions.Given | None) -> Iterator[StepState]:
        numbers = check_seeds(seeds)

        def draws(number: int) -> Float32:
            return np.stack([noise.normal(seed, number, self.bundle.manifest.x_shape) for seed in numbers])

        return _finite(execute(compiled, self.network(compiled, len(numbers), condition), draws), compiled)

    def network(self, plan: Plan, samples: int, condition: conditions.Given | None = None) -> StepNetwork:
        """The denoiser along a compiled plan, as the executor calls it: for those who bring their own x."""
        values = conditions.check(self.bundle.manifest.conditions, condition, samples)
        feeds = self._feeds(plan, values, samples)

        def evaluate(index: int, step: Step, u: Array) -> list[Array]:
            outputs = self._evaluate(np.concatenate([u] * len(step.branches)), feeds(index))
            _check_finite(outputs, "the denoiser's output", index, step, plan)
            return np.split(outputs, len(step.branches))

        return evaluate

    def compile(self, plan: str | Path | Plan, guidance: float | None = None) -> Plan:
        """The plan for this sampler: compiled if it is a name, checked if it is not, its steps in the body's groups."""
        manifest = self.bundle.manifest
        if guidance is not None and not (isinstance(guidance, Real) and abs(guidance) <= sys.float_info.max):
            raise UserError(f"guidance {guidance!r} is no finite number", "give a weight such as 2.0, or leave it out")
        if not isinstance(plan, str | Path | Plan):
            raise UserError(f"plan {plan!r} is no plan", "give SOLVER:STEPS such as 'dpmpp_2m:8', or a plan's path")
        if not isinstance(plan, Plan) and (isinstance(plan, Path) or plan.endswith(".json")):
            plan = _read_plan(Path(plan))
        if isinstance(plan, str):
            guided = all(condition.null is not None for condition in manifest.conditions)
            denoising = Denoising(manifest.schedule, manifest.prediction, guided and bool(manifest.conditions))
            return compile_plan(plan, denoising, guidance, groups=self.body.groups)
        _check_plan(plan, guidance, self.bundle)
        return regroup(plan, self.body.groups)

    def _evaluate(self, x: Array, feeds: Mapping[str, NDArray[Any]]) -> Float32:
        """The denoiser on [branches * B, *x_shape], the branches one after the other."""
        graph = self.body.graph
        outputs = self.denoiser({_name(graph, "x"): np.ascontiguousarray(x, np.float32), **feeds})
        output = outputs.get(_name(graph, "output"))
        if output is None or output.shape != x.shape:
            raise UserError(f"{self.bundle.path}: {graph.file} is not what the manifest says", EXPORT_AGAIN)
        return output

    def _feeds(
        self, plan: Plan, given: Mapping[str, NDArray[Any]], samples: int
    ) -> Callable[[int], dict[str, NDArray[Any]]]:
        """The inputs of the body but x, by step. All that does not depend on x is computed here, once a run.

        Samples often share their condition, and the unconditional branch is the same for all: the prologue runs once
        for each (step, distinct condition), and each step deals out its rows when it comes, not all steps at once.
        """
        blocks: list[dict[str, NDArray[Any]]] = []  # per step: conditions and time, [branches * samples, ...]
        for step in plan.steps:
            parts = [given if branch == "cond" else self._null(samples) for branch in step.branches]
            block = {name: np.concatenate([part[name] for part in parts]) for name in given}
            block[_TIME] = np.full(len(parts) * samples, step.time, np.float32)
            blocks.append(block)
        taken = {tensor.name: tensor.role for tensor in self.body.graph.inputs}
        direct = [self._inputs(self.body.graph, block) for block in blocks]
        if "group" in taken.values():
            name = _name(self.body.graph, "group")
            for feeds, step in zip(direct, plan.steps, strict=True):
                feeds[name] = np.array([step.group], np.int64)
        if self.prologue is None or self.bundle.manifest.prologue is None:
            return direct.__getitem__
        joined = {name: np.concatenate([block[name] for block in blocks]) for name in (*given, _TIME)}
        distinct, place = _distinct(joined)
        made = self.prologue(self._inputs(self.bundle.manifest.prologue, distinct))
        rows = {name: row for name, row in made.items() if taken.get(name) == "row"}
        for name, row in rows.items():
            if row.shape[:1] != distinct[_TIME].shape:
                raise UserError(f"{self.bundle.path}: the prologue makes no row {name!r} for each sample", EXPORT_AGAIN)
        places = np.split(place, np.cumsum([len(block[_TIME]) for block in blocks])[:-1])
        return lambda index: direct[index] | {name: row[places[index]] for name, row in rows.items()}

    def _null(self, samples: int) -> dict[str, NDArray[Any]]:
        return {each.name: conditions.null(each, samples) for each in self.bundle.manifest.conditions}

    def _inputs(self, graph: Graph, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The time and condition inputs of a graph, under its own names."""
        by_input = {each.input: each.name for each in self.bundle.manifest.conditions}
        return {
            tensor.name: values[_TIME if tensor.role == "time" else by_input[tensor.name]]
            for tensor in graph.inputs
            if tensor.role in ("time", "condition")
        }


_TIME = ""  # key of the network times among the conditions, which have names


def _name(graph: Graph, role: Role) -> str:
    return next(tensor.name for tensor in (*graph.inputs, *graph.outputs) if tensor.role == role)


def _distinct(values: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp]]:
    """The distinct rows over all arrays [N, ...] together -> [U, ...], and for each of the N its place among them."""
    count = len(next(iter(values.values())))
    flat = [np.ascontiguousarray(array).reshape(count, -1).view(np.uint8) for array in values.values()]
    _, first, place = np.unique(np.concatenate(flat, 1), axis=0, return_index=True, return_inverse=True)
    return {name: array[first] for name, array in values.items()}, place.reshape(-1)


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Whole numbers, at least one."""
    try:
        numbers = [operator.index(seed) for seed in seeds]
    except TypeError as error:
        raise UserError(f"seeds {seeds!r} are not a list of whole numbers", "give seeds=[0, 1, ...]") from error
    if not numbers:
        raise UserError("no seeds, so no samples", "give one seed per sample")
    for number in numbers:
        if not 0 <= number < 2**64:
            raise UserError(f"seed {number} is outside 0 .. 2**64 - 1", "give seeds in that range")
    return numbers


def _read_plan(path: Path) -> Plan:
    if not path.is_file():
        raise UserError(f"there is no plan file {path}", "give a plan as SOLVER:STEPS, or the path of a plan's JSON")
    if path.stat().st_size > PLAN_LIMIT:
        raise UserError(f"plan file {path} is larger than {PLAN_LIMIT} bytes", "compile it again")
    return decode(path.read_bytes(), str(path))


def _check_plan(plan: Plan, guidance: float | None, bundle: Bundle) -> None:
    """A compiled plan belongs to one schedule and prediction, and holds its guidance."""
    manifest = bundle.manifest
    fix = f"give the plan by its name, {plan.name!r}: it is then compiled for this bundle"
    schedule = NoiseSchedule(manifest.schedule).fingerprint
    if plan.schedule != schedule:
        has = f"{manifest.schedule.kind}-{manifest.schedule.timesteps} ({schedule})"
        raise UserError(f"plan {plan.name!r} is for schedule {plan.schedule}, {bundle.path} has {has}", fix)
    if plan.prediction != manifest.prediction:
        raise UserError(
            f"plan {plan.name!r} is for a denoiser that predicts {plan.prediction}, this one {manifest.prediction}", fix
        )
    if guidance is not None and guidance != plan.guidance:
        raise UserError(f"plan {plan.name!r} was compiled with guidance {plan.guidance}, not {guidance:g}", fix)
    for index, step in enumerate(plan.steps):
        if step.network != "denoiser" or not {*step.branches} <= {"cond", "uncond"}:
            raise UserError(
                f"plan {plan.name!r}: step {index} asks for {step.network} {'+'.join(step.branches)}",
                "this version runs the denoiser's branches cond and uncond",
            )


def _finite(states: Iterator[StepState], plan: Plan) -> Iterator[StepState]:
    """The states, as long as they are finite: an overflow is one clear error, not numpy's warnings and then NaNs."""
    while True:
        with np.errstate(all="ignore"):
            state = next(states, None)
        if state is None:
            return
        for row in state.after:
            _check_finite(row, "the sample", state.index, state.step, plan)
        yield state


def _check_finite(array: Array, what: str, index: int, step: Step, plan: Plan) -> None:
    if not np.isfinite(array).all():
        weight = "" if plan.guidance is None else f" with guidance {plan.guidance:g}"
        raise UserError(
            f"{what} is not finite at step {index + 1} of {len(plan.steps)} (time {step.time:g}) "
            f"of plan {plan.name}{weight}",
            "check weights and guidance, or compare with precision float32",
        )
