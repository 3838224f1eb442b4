"""Frames of a source that does not wait: a thread reads the source and keeps the newest frames that nobody took."""

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Condition, Thread

import numpy as np

from fewstep.literature.streams.stream import Frame, Stream, StreamedFrame, arrays_of
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import MASKED, find_missing


def latest(stream: Stream, source: Iterable[Frame], queue: int = 1) -> Iterator[StreamedFrame]:
    """The frames of a camera-like source through a stream.

    A frame that waits while `queue` newer ones come is dropped, as is one of masked values, NaN or infinity, and
    `Stream.stats` counts both. The source counts the indices, which go on after the stream's former frames. An error of
    the source is raised here, once the frames before it are out. A frame of another shape is a mistake of the program:
    it ends the run with a UserError, and `Stream.flush` has the frames on their way. The thread begins with the first
    frame that is asked for, and ends with its source.

    Args:
        source: yields arrays that stay as they are; a camera that reuses its buffer yields copies.
        queue: frames that wait at most, 1 or 2. Frames of a longer queue would be older when they are shown.
    """
    if queue not in (1, 2):
        raise UserError(f"a queue of {queue} frames", "give 1 or 2: what waits longer is shown late")
    return _take_frames(stream, _LatestFrames(source, queue))


def _take_frames(stream: Stream, newest: "_LatestFrames") -> Iterator[StreamedFrame]:
    first = stream.next_index
    try:
        for index, frame in newest.frames():
            if _is_finite(frame):  # else its index is missing, which `push` counts as dropped
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
    """A thread that reads a source into a queue of bounded length."""

    def __init__(self, source: Iterable[Frame], length: int) -> None:
        self._waiting: deque[tuple[int, Frame]] = deque(maxlen=length)
        self._changed = Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._read, args=(source,), daemon=True)

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Indices and frames as they come. The first call starts the thread."""
        self._thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                taken = self._waiting.popleft()
            yield taken

    def check(self) -> None:
        """Raise the error that the source ended with."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread once the source yields its next frame."""
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
