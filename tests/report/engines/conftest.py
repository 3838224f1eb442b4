"""The doubles of GPUs and TensorRT from the tests of the backends."""

from tests.runtime.backends.conftest import cuda as cuda
from tests.runtime.backends.conftest import tensorrt as tensorrt
from tests.runtime.backends.conftest import tensorrt_rtx as tensorrt_rtx
