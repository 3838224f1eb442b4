"""Steps in ONNX Runtime: state and inputs lie in bound memory, and two copies of the state take turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fewstep.graph.bake.cut import Steps
from fewstep.graph.engines.resident.run import Stepper
from fewstep.graph.graph import Array, Graph
from fewstep.graph.io import save
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.checks import imported
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, open_session, provider_settings

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class OnOnnxRuntime:
    """A provider and the memory that it computes in. The default is the CPU; `on_gpu` gives the CUDA provider."""

    provider: str = CPU
    settings: tuple[tuple[str, str], ...] = ()
    memory: tuple[str, int] = ("cpu", 0)

    def open(self, steps: Steps, graph: Graph) -> Stepper:
        onnxruntime = imported("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[cpu]'")
        with TemporaryDirectory() as folder:
            file = save(graph, Path(folder) / "step.onnx")[0]
            session = open_session(onnxruntime, file, (self.provider, dict(self.settings)))
        try:
            return _Steps(onnxruntime.OrtValue, session, steps, graph, self.memory)
        except Exception as error:  # memory may be short
            raise UserError(f"no memory for a run: {first_line(error)}", "take fewer samples a call") from error


def on_gpu(device: int = 0) -> OnOnnxRuntime:
    """The CUDA provider."""
    return OnOnnxRuntime(PROVIDER, tuple(provider_settings(device).items()), ("cuda", device))


class _Steps:
    """The memory of a run, and two bindings: even steps read the first state and write the second, odd steps the other
    way round. The memory holds the number of each step."""

    def __init__(self, values: Any, session: Any, steps: Steps, graph: Graph, memory: tuple[str, int]) -> None:
        self._session, self._steps = session, steps
        shapes = {value.name: (value.shape, value.dtype) for value in graph.inputs}
        places = [*steps.fixed, *steps.state]
        self._first = {name: values.ortvalue_from_shape_and_type(*shapes[name], *memory) for name in places}
        self._second = [values.ortvalue_from_shape_and_type(*shapes[name], *memory) for name in steps.state]
        self._numbers = [values.ortvalue_from_numpy(np.array(i, np.int64), *memory) for i in range(steps.count)]
        rows = [self._first[name] for name in steps.state]
        self._bindings = [self._bound(rows, self._second), self._bound(self._second, rows)]

    def __call__(self, state: Sequence[Array], fixed: Arrays) -> list[Array]:
        try:
            return self._run(state, fixed)
        except Exception as error:  # onnxruntime's share no base class but Exception
            raise UserError(f"a step fails in onnxruntime: {first_line(error)}", "take fewer samples a call") from error

    def _run(self, state: Sequence[Array], fixed: Arrays) -> list[Array]:
        for name, value in {**fixed, **dict(zip(self._steps.state, state, strict=True))}.items():
            self._first[name].update_inplace(np.ascontiguousarray(value))
        for number in range(self._steps.count):
            binding = self._bindings[number % 2]
            binding.bind_ortvalue_input(self._steps.number, self._numbers[number])
            self._session.run_with_iobinding(binding)
        is_odd = self._steps.count % 2
        last = self._second if is_odd else [self._first[name] for name in self._steps.state]
        return [np.array(row.numpy()) for row in last]

    def _bound(self, read: Sequence[Any], written: Sequence[Any]) -> Any:
        binding = self._session.io_binding()
        for name in self._steps.fixed:
            binding.bind_ortvalue_input(name, self._first[name])
        for name, row in zip(self._steps.state, read, strict=True):
            binding.bind_ortvalue_input(name, row)
        for name, row in zip(self._steps.nexts, written, strict=True):
            binding.bind_ortvalue_output(name, row)
        return binding
