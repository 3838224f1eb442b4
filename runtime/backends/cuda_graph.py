"""CUDA graphs: the work of a stream, recorded once and launched again as a whole, without CPU work in between."""

import weakref
from collections.abc import Callable
from contextlib import suppress

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.cuda import CudaStream, call, cuda_module, release


class Recording:
    """Work on a CUDA stream that was recorded once and can be launched again. Each launch reads and writes the same
    memory."""

    def __init__(self, stream: CudaStream, work: Callable[[], bool]) -> None:
        """Record a call of `work` on the stream. Raises UserError if a part of it cannot be recorded."""
        call(
            "cudaStreamBeginCapture",
            stream.handle,
            cuda_module().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        try:
            done = work()
        except BaseException:  # an error of `_discard` must not replace this one
            self._discard(stream)
            raise
        if not done:
            self._discard(stream)
            raise UserError("a CUDA graph of the call cannot be recorded", "give cuda_graph=False")
        graph = call("cudaStreamEndCapture", stream.handle)
        self._stream = stream
        try:
            self._launchable = call("cudaGraphInstantiate", graph, 0)
        finally:
            release("cudaGraphDestroy", graph)
        weakref.finalize(self, release, "cudaGraphExecDestroy", self._launchable).atexit = False

    @staticmethod
    def _discard(stream: CudaStream) -> None:
        """End a failed recording, which may be invalid. Until then the stream cannot be used."""
        with suppress(UserError):
            graph = call("cudaStreamEndCapture", stream.handle)
            if graph is not None:
                release("cudaGraphDestroy", graph)

    def launch(self) -> None:
        call("cudaGraphLaunch", self._launchable, self._stream.handle)
