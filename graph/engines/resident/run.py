"""A run along one plan whose state stays on the device, from the noise to the last step.

    run = resident("bundle", "dpmpp_2m:8", TensorRt(), "int8", guidance=2.0)
    x = run(seeds=[0, 1], condition={"class": [3, 5]})

The run is the one that `fewstep bake` writes, cut in three. The parts before and after the steps run once in
onnxruntime on the CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.graph.bake.bake import BakeOptions, assembled
from fewstep.graph.bake.cut import Cut, Steps, at_shapes, cut
from fewstep.graph.bake.draws import DRAWN, NOISE, drawn
from fewstep.graph.bake.metadata import BakedPort
from fewstep.graph.engines.resident.steps import ResidentSteps
from fewstep.graph.graph import Array, Graph
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.recent import Recent
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.conditions import check
from fewstep.runtime.request import check_seeds

BATCHES = 4  # shapes for which the steps stay open
GIVEN = ("given", "held", "hold")  # the meanings of inputs that are neither noise nor conditions
Stepper = Callable[[Sequence[Array], Arrays], list[Array]]  # (state, fixed inputs) -> the next state
Shapes = tuple[tuple[int, ...], ...]


@dataclass
class Resident:
    """A run of any number of samples; steps are opened once for each number. One call at a time.

    open: gives a function that runs all steps of a stretch, whose graph has fixed shapes. conditions: the bundle's.
    inputs: inputs of a call. draws: numbers of the draws in its input `draws`.
    """

    open: Callable[[Steps, Graph], Stepper]
    parts: Cut
    conditions: tuple[Condition, ...]
    inputs: tuple[BakedPort, ...]
    draws: tuple[int, ...]
    ahead: Callable[[Arrays], Arrays]
    behind: Callable[[Arrays], Arrays]
    _opened: Recent[Shapes, list[Stepper]] = field(default_factory=partial(Recent, BATCHES))

    def __call__(
        self, seeds: Sequence[int], condition: Mapping[str, Any] | None = None, given: Arrays | None = None
    ) -> Array:
        """Samples [B, ...], one for each seed.

        condition: values or labels by name, as in `Sampler.sample`. given: other inputs [B, ...] by name.
        """
        numbers, given = check_seeds(seeds), given or {}
        named = {**check(self.conditions, condition, len(numbers)), **given}
        for name in given:
            if name not in {port.name for port in self.inputs if port.meaning in GIVEN}:
                raise UserError(
                    f"the run takes no {name!r}", f"it takes {', '.join(port.name for port in self.inputs)}"
                )
        return self.run({port.name: self._input(port, numbers, named) for port in self.inputs})

    def run(self, feeds: Arrays) -> Array:
        """The output of a baked run for its inputs."""
        values: dict[str, Array] = {**feeds, **self.ahead(feeds)}
        state = [values[name] for name in self.parts.start]
        for steps, stepper in zip(self.parts.steps, self._steppers(state, values), strict=True):
            state = stepper(state, {name: values[name] for name in steps.fixed})
            values |= dict(zip(steps.behind, state, strict=True))
        (samples,) = self.behind(values).values()
        return samples

    def _steppers(self, state: Sequence[Array], values: Arrays) -> list[Stepper]:
        """The open steps for a state of these shapes."""

        def opened() -> list[Stepper]:
            steppers = []
            for steps in self.parts.steps:
                inputs = {name: values[name] for name in steps.fixed} | dict(zip(steps.state, state, strict=True))
                steppers.append(self.open(steps, at_shapes(steps, inputs)))
            return steppers

        return self._opened.used(tuple(row.shape for row in state), opened)

    def _input(self, port: BakedPort, seeds: Sequence[int], named: Mapping[str, Any]) -> Array:
        if port.meaning in DRAWN:
            return drawn(port.meaning, self.draws, seeds, [int(n) for n in port.shape[1 + (port.meaning != NOISE) :]])
        if port.name not in named:
            raise UserError(f"the run takes {port.name!r}", f"give it, as {port.dtype} {list(port.shape)}")
        value = np.asarray(named[port.name], port.dtype)
        wanted = (len(seeds), *port.shape[1:])
        if value.shape != wanted:
            raise UserError(f"{port.name!r} is {list(value.shape)}", f"give {list(wanted)}: one for each seed")
        return value


def resident(
    bundle: Path | str,
    plan: str,
    backend: TensorRt,
    precision: str | None = None,
    body: str | None = None,
    guidance: float | Guidance | None = None,
) -> Resident:
    """A run along a plan with its state on the backend's GPU. UserError for options that `fewstep bake` refuses, and
    for free sizes."""
    options = BakeOptions(Path(bundle), plan, Path("resident.onnx"), precision, body, guidance, latents=True)
    manifest = open_bundle(bundle).manifest
    if manifest.sizes:
        named = ", ".join(size.name for size in manifest.sizes)
        raise UserError(f"a resident run has fixed sizes, and {named} are free", "load the bundle, or fix the sizes")
    run, _ = assembled(options)
    parts = cut(run)
    ahead, behind = (open_session(graph, optimize=True) for graph in (parts.ahead, parts.behind))
    return Resident(partial(ResidentSteps, backend), parts, manifest.conditions, run.inputs, run.draws, ahead, behind)
