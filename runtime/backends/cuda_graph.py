"""CUDA graphs: the work of a stream, recorded once and launched again as one, without the CPU's work between."""

import weakref
from collections.abc import Callable

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.cuda import CudaStream, call, cuda_module, release


class Recording:
    """Work on a stream that can be launched again. It reads and writes the same memory each time."""

    def __init__(self, stream: CudaStream, work: Callable[[], bool]) -> None:
        """Record a call of `work` on the stream. UserError if a part of it cannot be recorded."""
        call(
            "cudaStreamBeginCapture",
            stream.handle,
            cuda_module().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        try:
            done = work()
        finally:
            graph = call("cudaStreamEndCapture", stream.handle)  # always: the stream is of no use before
        if not done:
            release("cudaGraphDestroy", graph)
            raise UserError("a CUDA graph of the call cannot be recorded", "give cuda_graph=False")
        self._stream = stream
        self._launchable = call("cudaGraphInstantiate", graph, 0)
        weakref.finalize(self, release, "cudaGraphExecDestroy", self._launchable).atexit = False
        call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        call("cudaGraphLaunch", self._launchable, self._stream.handle)
