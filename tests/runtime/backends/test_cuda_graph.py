"""Recordings of CUDA's runtime, on a double: a failure leaves no graph, and raises its own error."""

import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.cuda import CudaStream
from fewstep.runtime.backends.cuda_graph import Recording
from tests.runtime.backends.cuda_double import CudaDouble, Error


def fail() -> bool:
    raise ValueError("the work's own error")


def test_work_that_raises_leaves_no_graph(cuda: CudaDouble) -> None:
    stream = CudaStream()
    with pytest.raises(ValueError, match="the work's own error"):
        Recording(stream, fail)
    assert cuda.graphs == [] and cuda.streams[int(stream)].recorded is None
    Recording(stream, lambda: True).launch()  # the stream is of use
    assert cuda.calls["cudaGraphLaunch"] == 1


def test_work_that_raises_has_its_own_error_where_the_recording_is_invalid(
    cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "cudaStreamEndCapture", lambda stream: (Error.cudaErrorStreamCaptureUnsupported, None))
    with pytest.raises(ValueError, match="the work's own error"):
        Recording(CudaStream(), fail)


def test_a_graph_that_cannot_be_made_ready_is_destroyed(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudaGraphInstantiate", lambda graph, flags: (Error.cudaErrorMemoryAllocation, None))
    with pytest.raises(UserError, match="cudaGraphInstantiate: out of memory"):
        Recording(CudaStream(), lambda: True)
    assert cuda.graphs == []
