"""Whole runs: files of `fewstep bake --unroll` with a fixed batch, which a sampler calls in place of its steps.

    sampler = fewstep.runtime.load("bundle", "float16", backend=OnnxRuntimeCuda(), whole_runs=["run8.onnx"])
    sampler.sample("dpmpp_2m:8", seeds=range(8), condition={"class": [3] * 8}, guidance=2.0)

A GPU then computes all steps in one launch: the state, the noise and the coefficients stay there. A call has one copy
of inputs to the GPU, and one of samples back. Samples are those of the steps up to rounding, from the same draws. A
call that needs the states between steps, or differs from the file in plan or batch, runs its steps as without the file.
A file of `bake --hold` computes calls with that hold, and those without one.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError, first_line
from fewstep.plans.guidance import describe
from fewstep.runtime.arrays import Arrays, Float32
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.checks import LACKS_MEMORY
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.networks import setup_graphs
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.sampling.execute import Draws, Hold
from fewstep.runtime.sampling.finite_checks import is_surely_finite

LOG = logging.getLogger("fewstep")
KEY = "fewstep"  # key of a baked file's metadata
NOISE, DRAWS, CONDITION, GIVEN, SAMPLE = "noise", "draws", "condition", "given", "sample"  # meanings of ports
HELD, MASK = "held", "hold"  # further meanings: the known part of a sample, and its mask
HOLDS = ("none", "noised", "fresh", "clean")  # values of `bake --hold`; a call without a hold prefers the first
BAKE = "bake it with --unroll --batch N, and with --latents if the bundle has companions"
PLANS_KEPT = 16

LoadRun = Callable[[Path], tuple[LoadedGraph, Mapping[str, str]]]  # opens a file as a graph, with its metadata


class RunPort(msgspec.Struct, frozen=True):
    """An input or output of the file, as `fewstep bake` describes it."""

    name: str
    meaning: str
    shape: tuple[int | str, ...]
    dtype: str


class RunFacts(msgspec.Struct, frozen=True):
    """What a baked file's metadata says about its run. The digests are those of `plan_digest` and `graphs_digest`."""

    inputs: tuple[RunPort, ...]
    output: RunPort
    plan: str = ""
    guidance: str = ""
    draws: tuple[int, ...] = ()
    plan_sha256: str = ""
    graphs_sha256: str = ""
    form: str | None = None
    around: bool = False
    hold: str = HOLDS[0]


def hold_kind(hold: Hold | None) -> str:
    """Return the value of `bake --hold` for a hold. It is "values" for a value for each step, which no file takes."""
    if hold is None:
        return HOLDS[0]
    return "values" if isinstance(hold.value, tuple) else "clean" if hold.clean else "fresh" if hold.fresh else "noised"


def plan_digest(plan: AnyPlan) -> str:
    """Return the SHA-256 of a compiled plan."""
    return hashlib.sha256(msgspec.json.encode(plan)).hexdigest()


def graphs_digest(manifest: Manifest, body: Body) -> str:
    """Return the SHA-256 of the graphs that run with a body, and of their conditions."""
    setup = [body.replaces.get(name, graph) for name, graph in setup_graphs(manifest)]
    facts = manifest.digests([*body.graphs, *setup]), manifest.conditions
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


@dataclass
class WholeRun:
    """A loaded baked file that runs all steps in one call. `problem` is the reason why a call failed; all later calls
    are then run step by step instead."""

    name: str
    facts: RunFacts
    call: LoadedGraph
    problem: str = ""

    def sample(self, values: Arrays, draws: Draws, hold: Hold | None = None) -> Float32 | None:
        """Run all steps in one call. Return samples [B, *x_shape], or None if the call failed; the reason is logged.

        values: conditions and given tensors, by name. hold: of the kind of the file, or None.

        If memory was insufficient, which may be temporary, the next call tries again.
        """
        try:
            return self._check_output(self.call(self._feeds(values, draws, hold))[self.facts.output.name])
        except Exception as error:  # engines' exceptions share no base class except Exception
            reason = error.what if isinstance(error, UserError) else first_line(error)
        if LACKS_MEMORY.search(reason):
            LOG.info("%s: this call runs step by step: %s", self.name, reason)
        else:
            self.problem = reason
            LOG.warning("%s: calls run step by step: %s", self.name, reason)
        return None

    def _check_output(self, value: Float32) -> Float32:
        """Return an output with the shape and dtype of the metadata. Raises UserError for another."""
        port = self.facts.output
        if (value.shape, value.dtype) != (port.shape, np.dtype(port.dtype)):
            what = f"its output is {value.dtype} {list(value.shape)}, not {port.dtype} {list(port.shape)}"
            raise UserError(what, "bake it again")
        return value

    def differences(self, plan: AnyPlan, shape: tuple[int, ...], hold: Hold | None = None) -> list[str]:
        """Return how a call differs from the file, in words, by plan, guidance, number of samples, size and hold."""
        facts, (count, *size) = self.facts, self.facts.output.shape
        pairs = (
            ("plan", plan.name, facts.plan),
            ("guidance", describe(plan.guidance), facts.guidance),
            ("samples", shape[0], count),
            ("size", list(shape[1:]), size),
            ("hold", facts.hold if hold is None else hold_kind(hold), facts.hold),
        )
        found = [f"{name} {given}, not {baked}" for name, given, baked in pairs if given != baked]
        return found or ["other numbers of the plan, such as a clip"]

    def _feeds(self, values: Arrays, draws: Draws, hold: Hold | None) -> dict[str, NDArray[Any]]:
        """Return the inputs. The steps would use the same draws."""
        feeds = {}
        for port in self.facts.inputs:
            if port.meaning == NOISE:
                value: NDArray[Any] = draws(0)
            elif port.meaning == DRAWS:
                value = np.stack([draws(number) for number in self.facts.draws])
            elif port.meaning in (HELD, MASK):
                value = self._nothing_held if hold is None else hold.value_at(0) if port.meaning == HELD else hold.mask
            else:
                value = values[port.name]
            feeds[port.name] = np.ascontiguousarray(value, port.dtype)
        return feeds

    @cached_property
    def _nothing_held(self) -> Float32:
        """The value and the mask of a call without a hold."""
        return np.zeros(self.facts.output.shape, np.float32)  # type: ignore[arg-type]  # `read_facts` wants numbers


@dataclass(frozen=True)
class WholeRuns:
    """The baked files that a sampler has loaded, by the digest of their plan, the shape of their samples, and their
    hold.

    digests: the digests of recently used plans, by identity. logged: the reasons that were already logged for runs
        without a file.
    """

    runs: Mapping[tuple[str, tuple[int | str, ...], str], WholeRun]
    digests: dict[int, tuple[AnyPlan, str]] = field(default_factory=dict)
    logged: set[str] = field(default_factory=set)

    def find(self, plan: AnyPlan, shape: tuple[int, ...], hold: Hold | None = None) -> WholeRun | None:
        """Return the baked file for a compiled plan, samples of shape [B, *x_shape] and a hold, or None if none was
        loaded."""
        kept = self.digests.get(id(plan))
        if kept is None or kept[0] is not plan:
            if len(self.digests) >= PLANS_KEPT:
                self.digests.clear()
            kept = self.digests[id(plan)] = plan, plan_digest(plan)
        holds = HOLDS if hold is None else (hold_kind(hold),)
        run = next(filter(None, (self.runs.get((kept[1], shape, name)) for name in holds)), None)
        if run is None and self.runs:
            self._log_differences(plan, shape, hold)
        return run if run is not None and not run.problem else None

    def _log_differences(self, plan: AnyPlan, shape: tuple[int, ...], hold: Hold | None) -> None:
        """Log once how a call differs from the most similar file."""
        differences = {run.name: run.differences(plan, shape, hold) for run in self.runs.values()}
        name = min(differences, key=lambda file: len(differences[file]))
        text = f"calls with another plan or shape than {name} run step by step: {'; '.join(differences[name])}"
        if text not in self.logged and len(self.logged) < PLANS_KEPT:
            self.logged.add(text)
            LOG.info("%s", text)

    def sample(
        self, plan: AnyPlan, values: Arrays, draws: Draws, shape: tuple[int, ...], hold: Hold | None = None
    ) -> Float32 | None:
        """Return finite samples of a shape [B, *x_shape] if a file computes them; otherwise None, and the steps run.

        The steps also run if a value is not finite, since their error names the step.
        """
        run = self.find(plan, shape, hold)
        sample = None if run is None else run.sample(values, draws, hold)
        return sample if sample is not None and is_surely_finite(sample) else None


def open_runs(files: Sequence[Path | str], manifest: Manifest, body: Body, load: LoadRun) -> WholeRuns:
    """Open files of `fewstep bake`. Raises UserError for a file that is not a whole run of this body."""
    if isinstance(files, str | Path):
        raise UserError(f"whole_runs is one path, {str(files)!r}", f"give a list: whole_runs=[{str(files)!r}]")
    runs, graphs = {}, graphs_digest(manifest, body)
    for file in map(Path, files):
        if not file.is_file():
            raise UserError(f"whole_runs: no file {file}", "check the path, or make the file with `fewstep bake`")
        graph, metadata = load(file)
        facts = read_facts(file, metadata)
        if facts.graphs_sha256 != graphs:
            fix = f"bake it from this bundle with --body {body_name(body.precision, body.target)}"
            raise UserError(f"{file} was baked from another body or another bundle", fix)
        if facts.form:  # forms are made from the float32 body
            fix = "bake it with --body float32, or with --body float32-cuda for OnnxRuntimeCuda"
            raise UserError(f"{file} runs the {body.precision} body in the form {facts.form}", fix)
        runs[facts.plan_sha256, facts.output.shape, facts.hold] = WholeRun(file.name, facts, graph)
    return WholeRuns(runs)


def read_facts(file: Path, metadata: Mapping[str, str]) -> RunFacts:
    """Return what a baked file's metadata says about its run. Raises UserError if the file cannot be used in place of
    the steps of a plan."""
    try:
        facts = msgspec.json.decode(metadata[KEY], type=RunFacts)
    except (KeyError, msgspec.DecodeError):
        raise UserError(f"{file} is not a file of `fewstep bake`", BAKE) from None
    if not facts.plan_sha256 or facts.form is None:
        raise UserError(f"{file} does not say which plan and body it runs", "bake it again with this version")
    if facts.around:
        raise UserError(
            f"{file} was baked with --around, whose program may change the samples", "bake it without --around"
        )
    meanings = (NOISE, DRAWS, CONDITION, GIVEN) + (() if facts.hold == HOLDS[0] else (HELD, MASK))
    others = [port for port in facts.inputs if port.meaning not in meanings]
    if others or facts.output.meaning != SAMPLE:
        port = others[0] if others else facts.output
        raise UserError(f"{file} has a port {port.name!r} ({port.meaning}) that a sampler does not feed", BAKE)
    if any(isinstance(size, str) for size in facts.output.shape):
        raise UserError(f"{file} has no fixed batch or size", BAKE)
    return facts
