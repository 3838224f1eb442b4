"""Read frames from a source that does not wait, such as a camera: a thread reads the source and keeps the newest frames
that were not taken yet."""

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Condition, Thread

import numpy as np

from fewstep.literature.streams.stream import Frame, Stream, StreamedFrame, arrays_of
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import MASKED, find_missing


def latest(stream: Stream, source: Iterable[Frame], queue: int = 1) -> Iterator[StreamedFrame]:
    """Yield the frames of a camera-like source, processed by a stream.

    A waiting frame is dropped if `queue` newer ones arrive. A frame with masked values, NaN or infinity is also
    dropped; `Stream.stats` counts both. Indices count all frames of the source, and continue after the stream's earlier
    frames. An error of the source is raised after the frames before it have been returned. A frame of a different
    shape is an error of the program: it ends the run with a UserError, and `Stream.flush` returns the frames in
    progress. The thread starts when the first frame is requested, and ends with its source.

    Args:
        source: yields arrays that do not change afterwards; a camera that reuses its buffer must yield copies.
        queue: largest number of waiting frames, 1 or 2. In a longer queue frames would be older when they are shown.
    """
    if queue not in (1, 2):
        raise UserError(
            f"a queue cannot have {queue} frames", "give 1 or 2: frames of a longer queue would be shown late"
        )
    return _take_frames(stream, _LatestFrames(source, queue))


def _take_frames(stream: Stream, newest: "_LatestFrames") -> Iterator[StreamedFrame]:
    first = stream.next_index
    try:
        for index, frame in newest.frames():
            if _is_finite(frame):  # otherwise its index is missing, and `push` counts it as dropped
                yield from stream.push(frame, first + index)
        yield from stream.flush()
        newest.check()
    finally:
        newest.stop()


def _is_finite(frame: Frame) -> bool:
    if find_missing(frame) == MASKED:
        return False
    arrays = arrays_of(frame).values()
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in arrays)


class _LatestFrames:
    """A thread that reads frames from a source into a queue, which keeps only the latest."""

    def __init__(self, source: Iterable[Frame], length: int) -> None:
        self._waiting: deque[tuple[int, Frame]] = deque(maxlen=length)
        self._changed = Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._read, args=(source,), daemon=True)

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield indices and frames as they arrive. The first call starts the thread."""
        self._thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                taken = self._waiting.popleft()
            yield taken

    def check(self) -> None:
        """Raise the error that ended the source, if any."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread as soon as the source yields its next frame."""
        with self._changed:
            self._ended = True

    def _read(self, source: Iterable[Frame]) -> None:
        try:
            for each in enumerate(source):
                with self._changed:
                    if self._ended:
                        return
                    self._waiting.append(each)
                    self._changed.notify()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()
