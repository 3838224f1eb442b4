"""Groups as torch's operations, with exact integers in place of cuDNN's kernels, which need a GPU."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks.nvidia.cudnn.fused_groups import fuse_groups
from benchmarks.nvidia.cudnn.operations import Operation
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.graph import GROUP
from tests.calibration.lowering.bodies.small_body import EDGES, body, feeds, table

torch = pytest.importorskip("torch")
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from benchmarks.nvidia.cudnn import cudnn_kernels  # noqa: E402
from benchmarks.nvidia.cudnn.cudnn_kernels import (  # noqa: E402
    KERNELS,
    CudnnKernels,
    Kernel,
    groups_in_torch,
    kernel_options,
    product_in_torch,
)
from benchmarks.nvidia.cudnn.executor import Executor, IntegerKernels, finish  # noqa: E402

SUMMED = Operation((2, 4, 5, 5), (6, 4, 3, 3), "int8", ("scale", "bias", "residual", "silu"))
WHOLE, PART = 10.0, 6.0  # microseconds of a kernel with a residual, and of one without


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that need no GPU. Like cuDNN's, they require channels last."""

    def run(kernel: Kernel, x: torch.Tensor, weights: torch.Tensor, operands: Sequence[torch.Tensor]) -> torch.Tensor:
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert weights.is_contiguous(memory_format=torch.channels_last)
        found = IntegerKernels()(kernel.operation, "", x, weights, operands)
        return found.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(cudnn_kernels, "open_cudnn", lambda: (None, None))
    monkeypatch.setattr(cudnn_kernels, "operation_graph", lambda *_: None)
    monkeypatch.setattr(Kernel, "run", run)


def kernels(rest: float) -> CudnnKernels:
    """Kernels with `rest` microseconds of other operations in torch."""
    return CudnnKernels(lambda kernel, *_: WHOLE if "residual" in kernel.operation.epilogue else PART, lambda _: rest)


def small(spatial: int = 2) -> tuple[Callable[[object], Executor], list[torch.Tensor], list[str]]:
    """An executor of the small body on kernels, and its inputs."""
    graph = fuse_groups(lower(body(spatial), table(body(spatial), EDGES), TENSORRT).graph)
    given = {**feeds(body(spatial)), GROUP: np.array([1])}
    inputs = {value.name: torch.from_numpy(given[value.name]) for value in graph.inputs}
    return lambda compute: Executor(graph, "cpu", compute), list(inputs.values()), list(inputs)  # type: ignore[arg-type]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("spatial", [1, 2])
@pytest.mark.parametrize("rest", [1.0, 20.0])
def test_a_traced_body_gives_what_integers_give(spatial: int, rest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here torch computes the int8 products, since it can on a CPU."""
    executor, tensors, names = small(spatial)
    (expected,) = executor(IntegerKernels())(dict(zip(names, tensors, strict=True)))
    run = executor(kernels(rest))

    def flat(*given: torch.Tensor) -> torch.Tensor:
        return run(dict(zip(names, given, strict=True)))[0]

    with torch.no_grad():
        flat(*tensors)
        traced = make_fx(flat)(*tensors)
        found = traced(*tensors)
    assert sum(node.target == torch.ops.fewstep.cudnn_group.default for node in traced.graph.nodes) == 5
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("rest", "is_whole"), [(WHOLE - PART - 1, False), (WHOLE - PART + 1, True)])
def test_the_form_of_a_group_that_takes_less_time_is_chosen(rest: float, is_whole: bool) -> None:
    executor, tensors, names = small()
    given = kernels(rest)
    executor(given)(dict(zip(names, tensors, strict=True)))
    summed = [group for group, _ in given.groups.values() if group.rest or "residual" in epilogue(group.number)]
    assert [group.rest is None for group in summed] == [is_whole]


def epilogue(number: int) -> tuple[str, ...]:
    return KERNELS[number].operation.epilogue


def test_what_follows_the_bias_may_be_left_to_torch() -> None:
    whole, (kernel, rest) = kernel_options(SUMMED)
    assert whole == (SUMMED, None)
    assert (kernel.epilogue, rest and rest.epilogue) == (("scale", "bias"), ("residual", "silu"))
    assert kernel_options(kernel) == [(kernel, None)]


def test_a_product_of_few_rows_is_padded() -> None:
    of = Operation((1, 3, 8), (1, 8, 16), "int8", ("scale",))
    x = torch.arange(-12, 12, dtype=torch.int8).reshape(1, 3, 8)
    weights = torch.arange(-64, 64, dtype=torch.int8).reshape(1, 8, 16)
    scale = torch.full((16,), 0.5)
    found = product_in_torch(of, x, weights, [scale])
    assert (found == (0.5 * (x.double() @ weights.double())).half()).all()


def test_torch_computes_a_group_in_half_precision_with_its_bias() -> None:
    of = Operation((2, 4, 5, 5), (6, 4, 3, 3), "half", ("bias", "silu"), (1, 1), (1, 1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    x, weights, bias = (torch.randn(shape, generator=generator).half() for shape in (of.x, of.weights, (6,)))
    sums = torch.nn.functional.conv2d(x.float(), weights.float(), padding=1)
    expected = finish(of, sums, [bias])
    torch.testing.assert_close(groups_in_torch(of, "", x, weights, [bias]), expected, atol=2e-2, rtol=2e-2)
