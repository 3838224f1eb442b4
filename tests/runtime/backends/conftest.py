"""Install the doubles of GPUs and TensorRT."""

import sys

import pytest

from tests.runtime.backends.cuda_double import CudaDouble
from tests.runtime.backends.tensorrt_double import tensorrt_double


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    """A GPU of compute capability 8.9 with 64 multiprocessors, in place of `cuda.bindings.runtime`."""
    double = CudaDouble(capability=(8, 9), multiprocessors=64)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", double)
    return double


@pytest.fixture
def tensorrt(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> object:
    """TensorRT 10.3 on that GPU."""
    double = tensorrt_double("tensorrt", "10.3.0", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    return double


@pytest.fixture
def tensorrt_rtx(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> object:
    """TensorRT-RTX 1.7 on that GPU: it compiles at run time, and can keep the result."""
    double = tensorrt_double("tensorrt_rtx", "1.7.1.116", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", double)
    return double
