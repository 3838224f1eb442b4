"""The outputs that a plan gets in a comparison: those of a recorded network, or the random ones of a recording."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep, select_rows
from fewstep.pipelines.recording.stand_ins import UNRECORDED, recording_error
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.argument_rows import branch_values, rows_first
from fewstep.pipelines.relations.arguments import Argument, branch_names
from fewstep.pipelines.relations.networks import RecordedNetworks
from fewstep.pipelines.relations.relations import branch_calls, same
from fewstep.pipelines.rounding import OF_TIMES, TOLERANCE
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Step

Array = NDArray[np.floating[Any]]


class NetworkOutputs:
    """The network of a plan's step, with the conditions that each branch has in some rows of a recording. A condition
    that has a default gets it, or its null value, as in a run of a bundle."""

    def __init__(self, run: CallRecord, modules: RecordedNetworks, rows: slice = slice(None)) -> None:
        self.modules, self.run, self.rows = modules, run, rows
        self.order = branch_names(modules.quiet.found.branches, modules.quiet.arguments)

    def __call__(self, index: int, step: Step, u: Array) -> list[Array]:
        x = torch.from_numpy(np.ascontiguousarray(u, np.float32))
        time = torch.full((len(x),), step.time)
        outputs, module = list[Array](), self.modules.at(self.run.steps[index])
        for branch in step.branches:
            number = self.order.index(branch)
            values = [
                self._value(self.run.steps[index], path, argument, number, len(x))
                for path, argument in module.arguments.arguments.items()
                if argument.condition is not None
            ]
            ends = [torch.full((len(x),), step.to)] if step.to is not None else []
            output = self._evaluate(module, (x, time, *ends, *values), index, number)
            outputs += np.split(output, step.heads, axis=1)
        return outputs

    def _evaluate(self, module: RecordedNetwork, given: Sequence[Tensor], index: int, branch: int) -> Array:
        return evaluate(module, given)

    def _value(self, step: SchedulerStep, path: str, argument: Argument, branch: int, rows: int) -> Tensor:
        """Return a condition of a branch [rows, ...]."""
        condition = argument.condition
        if condition is not None and condition.default is not None:
            if branch == self.modules.quiet.arguments.unconditional and condition.null is not None:
                return torch.full((rows, *condition.shape), condition.null)
            return torch.tensor(condition.default).reshape(1, *condition.shape).expand(rows, *condition.shape)
        recorded: Tensor = list(branch_values(step, self.modules.at(step).found, path, argument.repeats))[branch][
            self.rows
        ]
        return recorded


def evaluate(module: nn.Module, given: Sequence[Tensor]) -> Array:
    """Return a network's output. Raises UserError if its code fails, as it does if it needs different arguments for
    this batch."""
    try:
        output: Array = module(*given).numpy()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        what = f"a network fails for {len(given[0])} samples with the arguments that its pipeline passes for one"
        fix = f"let its forward take one time for each sample; or {UNRECORDED}"
        raise UserError(f"{what} ({reason})", fix) from error
    return output


class RecordedOutputs(NetworkOutputs):
    """A stand-in for the network of a plan: it returns the random outputs of a recorded run. Raises UserError if the
    plan would pass other arguments to the network than the pipeline passed. No network runs."""

    def __init__(self, run: CallRecord, modules: RecordedNetworks, name: str) -> None:
        super().__init__(run, modules)
        self.name = name

    def _evaluate(self, module: RecordedNetwork, given: Sequence[Tensor], index: int, branch: int) -> Array:
        step = self.run.steps[index]
        call, number = list(branch_calls(step, module.found.x))[branch]
        samples = len(step.sample)
        recorded = dict(_branch_arguments(module, call, number, samples))
        for path, value in module.bind(*given).items():
            by_row = value.movedim(0, 1) if path in module.found.second_axes else value
            is_time = path in module.found.times
            difference = _difference(by_row, recorded.get(path), self._largest_time(path) if is_time else 0.0)
            if not difference <= (OF_TIMES if is_time else TOLERANCE):
                label = "x" if path == module.found.x else f"argument {path}"
                what = f"a different {label} in step {index + 1} of {len(self.run.steps)}"
                by = f"it differs by {difference:.2g} of its largest number"
                raise recording_error(f"the plan of {self.name}'s scheduler feeds its network {what}: {by}")
        output: Array = module.place(select_rows(call.output, number, samples)).numpy()
        return output

    def _largest_time(self, path: str) -> float:
        """Return the largest absolute value of a time in all steps: the last one is zero in some schedules."""
        calls = [call for step in self.run.steps for call in step.calls if path in call.leaves]
        return max(float(torch.as_tensor(call.leaves[path], dtype=torch.float64).abs().max()) for call in calls)


def _branch_arguments(
    module: RecordedNetwork, call: NetworkCall, branch: int, samples: int
) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that a call passed for a branch by path, with the rows of that branch."""
    rows = len(call.leaves[module.found.x])
    for path, value in rows_first(call, module.found).items():
        count = 1 if path in (module.found.x, *module.found.times) else module.arguments.repeats.get(path, 0)
        has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows * count > 0
        yield path, select_rows(value, branch, samples * count) if has_rows else value


def _difference(value: Any, expected: Any, least: float = 0.0) -> float:
    """Return the largest difference of two arguments, relative to the largest finite number of the second, or to
    `least` if that is larger: infinite for other shapes, and for values that are not numbers and differ. Equal
    infinities, as masks have them, do not differ."""
    is_number = isinstance(expected, bool | int | float)
    if not isinstance(value, Tensor) or not (is_number or isinstance(expected, Tensor)):
        return 0.0 if same(value, expected) else float("inf")
    recorded = torch.as_tensor(expected, dtype=torch.float64)
    if recorded.dim() and recorded.shape != value.shape:
        return float("inf")
    if not recorded.numel():
        return 0.0
    largest = float(torch.where(recorded.isinf(), 0.0, recorded).abs().max())
    apart = torch.where(value.double() == recorded, 0.0, (value.double() - recorded).abs())
    return float(apart.max()) / max(largest, least, 1e-12)
