"""Groups by kernels of cuDNN, as one torch operation that torch's compiler does not touch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.nvidia.cudnn.executor import RESULTS, finish, float_products
from benchmarks.nvidia.cudnn.operation_graphs import FIRST_OPERAND, RESULT, WEIGHTS, X, operation_graph
from benchmarks.nvidia.cudnn.operations import ACTIVATIONS, Operation

LEAST_ROWS = 32  # of a product by torch._int_mm, which takes more than 16


@cache
def open_cudnn() -> tuple[Any, Any]:
    """The module cudnn and a handle."""
    torch.zeros(1, device="cuda")  # torch loads the library that the module cudnn takes, so it comes first
    cudnn = import_module("cudnn")
    return cudnn, cudnn.create_handle()


@dataclass
class Kernel:
    """An operation with its plans. number: of the plan that runs; name: of that plan."""

    operation: Operation
    graph: Any
    number: int = -1
    name: str = ""
    workspace: Any = None
    built: set[int] = field(default_factory=set)

    def names(self) -> list[str]:
        """All plans, in the order of cuDNN's heuristics."""
        return [self.graph.get_plan_name_at_index(number) for number in range(self.graph.get_execution_plan_count())]

    def choose(self, number: int) -> None:
        """Compile a plan, which the next calls run. Raises cuDNN's own errors."""
        if number not in self.built:
            self.graph.build_plan_at_index(number)
            self.built.add(number)
        size = max(self.graph.get_workspace_size_plan_at_index(number), 1)
        self.workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.number, self.name = number, self.graph.get_plan_name_at_index(number)

    def run(self, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> Tensor:
        """Return the result on the current stream. Tensors have the layout of the graph."""
        result = empty_result(self.operation, x.device)
        given = {X: x, WEIGHTS: weights, RESULT: result}
        rest = iter(operands)
        for number, step in enumerate(self.operation.epilogue):
            if step not in ACTIVATIONS:
                given[FIRST_OPERAND + number] = next(rest)
        cudnn, handle = open_cudnn()
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        self.graph.execute_plan_at_index(given, self.workspace, self.number, handle=handle)
        return result


def empty_result(of: Operation, device: Any) -> Tensor:
    """Allocate a result, with channels last."""
    layout = torch.channels_last if of.is_convolution else torch.contiguous_format
    return torch.empty(of.y, dtype=RESULTS[of.result], device=device, memory_format=layout)


KERNELS: list[Kernel] = []  # by the number that torch's operation is called with


@torch.library.custom_op("fewstep::cudnn_group", mutates_args=())
def cudnn_group(number: int, x: Tensor, weights: Tensor, operands: list[Tensor]) -> Tensor:
    """Compute a group with the plan that was chosen for its kernel."""
    return KERNELS[number].run(with_channels_last(x), weights, operands)


@cudnn_group.register_fake
def _(number: int, x: Tensor, weights: Tensor, operands: list[Tensor]) -> Tensor:
    return empty_result(KERNELS[number].operation, x.device)


def with_channels_last(x: Tensor) -> Tensor:
    """An image with its channels last; anything else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@dataclass(frozen=True)
class Group:
    """How a group is computed: by a kernel, and the rest of its epilogue in torch.

    number: of the kernel in KERNELS. rest: None if the kernel computes everything.
    """

    number: int
    rest: Operation | None

    def __call__(self, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> Tensor:
        """Return the result for operands in the kernel's layout."""
        count = len(reading(KERNELS[self.number].operation))
        value = cudnn_group(self.number, x, weights, list(operands[:count]))
        return value if self.rest is None else finish(self.rest, value, operands[count:])


class CudnnKernels:
    """Convolutions by cuDNN, products by torch.

    choose: selects the plan of a new kernel, and returns its microseconds. time: of a call. groups: by their
    products, with the operands of their first call. products: those of matrices in int8, likewise.
    """

    def __init__(
        self,
        choose: Callable[[Kernel, Tensor, Tensor, Sequence[Tensor]], float],
        time: Callable[[Callable[[], Tensor]], float],
    ) -> None:
        self._choose, self._time = choose, time
        self._groups: dict[Operation, Group] = {}
        self.groups: dict[str, tuple[Group, tuple[Tensor, Tensor, list[Tensor]]]] = {}
        self.products: dict[str, tuple[Operation, Tensor, Tensor]] = {}

    def __call__(self, of: Operation, name: str, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> Tensor:
        if not of.is_convolution:
            self.products.setdefault(name, (of, x, weights))
            return product_in_torch(of, x, weights, operands)
        pairs = zip(reading(of), operands, strict=True)
        given = (with_channels_last(x), weights, [_operand(of, step, operand) for step, operand in pairs])
        if of not in self._groups:  # the first call, which nothing traces
            self._groups[of] = self._choose_group(of, *given)
        self.groups.setdefault(name, (self._groups[of], given))
        return self._groups[of](*given)

    def _choose_group(self, of: Operation, x: Tensor, weights: Tensor, operands: list[Tensor]) -> Group:
        """Choose a kernel of the whole group, or one of its sums with scale and bias, followed by torch, whichever
        is faster.
        """
        options = []
        for kernel_of, rest in kernel_options(of):
            try:
                kernel = Kernel(kernel_of, operation_graph(open_cudnn()[0], kernel_of, open_cudnn()[1]))
                count = len(reading(kernel_of))
                spent = self._choose(kernel, x, weights, operands[:count])
            except Exception as error:  # cuDNN's errors share no base class but Exception
                failure = error
                continue
            KERNELS.append(kernel)
            group = Group(len(KERNELS) - 1, rest)
            if rest is not None:
                value = kernel.run(x, weights, operands[:count])
                spent += self._time(partial(finish, rest, value, operands[count:]))
            options.append((spent, group))
        if not options:
            raise failure
        return min(options, key=lambda option: option[0])[1]


def kernel_options(of: Operation) -> list[tuple[Operation, Operation | None]]:
    """An operation for one kernel; and for one of the sums with scale, factor and bias, with the rest for torch."""
    first = tuple(step for step in of.epilogue if step in ("scale", "factor", "bias"))
    if first == of.epilogue:
        return [(of, None)]
    rest = replace(of, epilogue=of.epilogue[len(first) :], precision=of.floats)
    return [(of, None), (replace(of, epilogue=first), rest)]


def _operand(of: Operation, step: str, operand: Tensor) -> Tensor:
    """Return an operand of a step in cuDNN's form."""
    if step == "residual":
        return with_channels_last(operand)
    return operand.to(RESULTS[of.floats] if step == "bias" and of.precision != "int8" else torch.float32)


def reading(of: Operation) -> list[str]:
    """Return the steps of an epilogue that read a tensor."""
    return [step for step in of.epilogue if step not in ACTIVATIONS]


def product_in_torch(of: Operation, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """A product of int8 matrices by torch._int_mm, and its epilogue in torch."""
    return finish(of, integer_product(x[0], weights[0]).unsqueeze(0), operands)


def integer_product(x: Tensor, weights: Tensor) -> Tensor:
    """The int32 product of int8 matrices."""
    missing = max(LEAST_ROWS - len(x), 0)
    return torch._int_mm(torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x, weights)[: len(x)]


def groups_in_torch(of: Operation, _: str, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """A group in half precision by torch's own convolution, with its bias."""
    bias = operands[0] if of.epilogue[:1] == ("bias",) else None
    value = torch_convolution(of, with_channels_last(x), weights, bias)
    if bias is None:
        return finish(of, value, operands)
    return finish(replace(of, epilogue=of.epilogue[1:]), value, operands[1:])


def torch_convolution(of: Operation, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose pads are equal at both ends, else one of padded input."""
    if of.pads[:2] != of.pads[2:]:
        value = float_products(of, x, weights)
        return value if bias is None else value + bias.view(1, -1, 1, 1)
    groups = x.shape[1] // weights.shape[1]
    return torch.nn.functional.conv2d(x, weights, bias, of.strides, of.pads[:2], of.dilations, groups)
