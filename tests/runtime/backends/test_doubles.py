"""The doubles have the names and parameters of the originals, if these are installed. The originals say plainly that
there is no GPU.
"""

import importlib.util
import inspect
import operator
import re
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import cuda as calls
from fewstep.runtime.backends.tensorrt_log import last_error, logger
from tests.runtime.backends.cuda_double import Attribute, CudaDouble, Error, Kind, Mode
from tests.runtime.backends.tensorrt_double import engine, tensorrt_double

OWN = {"refuse", "compute"}  # of the double alone


def has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_cuda_bindings = pytest.mark.skipif(not has("cuda.bindings.runtime"), reason="cuda-bindings is not installed")
needs_tensorrt_rtx = pytest.mark.skipif(not has("tensorrt_rtx"), reason="tensorrt-rtx is not installed")


@needs_cuda_bindings
def test_cuda_functions_take_what_the_double_takes() -> None:
    from cuda.bindings import runtime

    ours = {
        name: value for name, value in vars(CudaDouble).items() if name.startswith("cuda") and inspect.isfunction(value)
    }
    assert len(ours) > 15
    for name, function in ours.items():
        real = re.match(rf"{name}\(([^)]*)\)", getattr(runtime, name).__doc__ or "")
        assert real is not None, name
        parameters = [part for part in real[1].split(",") if part.strip()]
        assert len(parameters) == len(inspect.signature(function).parameters) - 1, name
    for enum, theirs in (
        (Kind, runtime.cudaMemcpyKind),
        (Attribute, runtime.cudaDeviceAttr),
        (Mode, runtime.cudaStreamCaptureMode),
    ):
        assert all(int(getattr(theirs, member.name)) == member.value for member in enum)
    assert runtime.cudaStreamNonBlocking == CudaDouble.cudaStreamNonBlocking


@needs_tensorrt_rtx
def test_tensorrt_has_what_the_double_has() -> None:
    import tensorrt_rtx

    double = tensorrt_double("tensorrt_rtx", "1.7", CudaDouble((8, 9), 64))
    compared = set()
    for name, ours in vars(double).items():
        if inspect.isclass(ours) and not issubclass(ours, Enum):
            methods = {each for each, value in vars(ours).items() if inspect.isfunction(value) and each[0] != "_"}
            compared |= methods - OWN
            assert methods - OWN <= set(dir(getattr(tensorrt_rtx, name))), name
    assert len(compared) >= 15
    for enum in (double.TensorIOMode, double.CudaGraphStrategy, double.ILogger.Severity):
        path = "ILogger.Severity" if enum.__name__ == "Severity" else enum.__name__
        theirs = operator.attrgetter(path)(tensorrt_rtx)
        assert {member.name for member in enum} <= set(theirs.__members__)
    assert np.dtype(tensorrt_rtx.nptype(tensorrt_rtx.DataType.INT64)) == np.int64
    for owner, name in (
        (tensorrt_rtx.ICudaEngine, "num_io_tensors"),
        (tensorrt_rtx.Runtime, "engine_host_code_allowed"),
        (tensorrt_rtx.IRuntimeConfig, "cuda_graph_strategy"),
    ):
        assert hasattr(owner, name)


@needs_cuda_bindings
def test_a_gpu_is_described_and_a_machine_without_one_is_refused() -> None:
    try:
        device, multiprocessors = calls.describe(0)
    except UserError as error:
        assert str(error).startswith("CUDA: cudaGetDeviceCount: ") or "CUDA cannot be called" in str(error)
    else:
        assert re.fullmatch(r"sm\d{2,3}", device) and multiprocessors > 0


@needs_tensorrt_rtx
def test_the_real_runtime_tells_our_logger_why_it_refuses_an_engine() -> None:
    import tensorrt_rtx

    runtime = tensorrt_rtx.Runtime(logger(tensorrt_rtx))
    assert runtime.deserialize_cuda_engine(b"no engine" * 100) is None
    assert "Error Code" in last_error(tensorrt_rtx)


@pytest.fixture
def context(tiny_bundle: Path, cuda: CudaDouble, tensorrt: Any) -> Any:
    """Return an execution context of the body, with addresses for a batch of 2 and its shapes set; `logged` has its
    errors.
    """
    logged: list[str] = []

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            logged.append(message)

    content = engine((tiny_bundle / "graphs/body.onnx").read_bytes(), "10.3.0", (1, 2, 8))
    made = tensorrt.Runtime(Logger()).deserialize_cuda_engine(content).create_execution_context()
    for name, shape in {"x": (2, 1, 4, 4), "row": (2, 1), "v": (2, 1, 4, 4)}.items():
        made.set_tensor_address(name, cuda.cudaMalloc(4 * int(np.prod(shape)))[1])
        if name != "v":
            assert made.set_input_shape(name, shape)
    made.logged = logged
    return made


def test_the_double_refuses_what_tensorrt_refuses(context: Any, cuda: CudaDouble) -> None:
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    assert not context.set_input_shape("x", (9, 1, 4, 4)) and "out of profile" in context.logged[-1]
    addresses = dict(context.addresses)
    for wrong, why in (
        (None, "no address was set for v"),
        (cuda.cudaMalloc(4)[1], "is no device memory of 128 bytes"),  # too short
        (cuda.cudaHostAlloc(128, 0)[1], "is no device memory"),
    ):
        context.addresses = {name: at for name, at in {**addresses, "v": wrong}.items() if at is not None}
        assert not context.execute_async_v3(int(stream)) and why in context.logged[-1]
    context.addresses = addresses
    assert not context.set_tensor_address("x", addresses["x"] + 8) and "is not aligned to 256" in context.logged[-1]
    assert context.execute_async_v3(int(stream))
    assert context.execute_async_v3(int(stream))  # one after the other
    _, other = cuda.cudaStreamCreateWithFlags(1)
    assert not context.execute_async_v3(int(other)) and "is in use" in context.logged[-1]
    cuda.cudaFree(addresses["x"])  # while the call waits for its turn
    assert cuda.cudaStreamSynchronize(stream) == (Error.cudaErrorIllegalAddress,)


def test_the_double_computes_nothing_before_its_stream_is_waited_for(context: Any, cuda: CudaDouble) -> None:
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    _, host = cuda.cudaHostAlloc(128, 0)
    view = cuda.find(host, 128, None).content.view(np.float32)
    view[:] = 1.0
    assert context.execute_async_v3(int(stream))
    cuda.cudaMemcpyAsync(host, context.addresses["v"], 128, Kind.cudaMemcpyDeviceToHost, stream)
    assert (view == 1.0).all()
    cuda.cudaStreamSynchronize(stream)
    assert np.isnan(view).all()  # of inputs that nobody wrote
