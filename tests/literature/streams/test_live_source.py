"""Frames that a stream leaves out: late ones, and those that resemble the one before."""

from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.literature.streams import SimilarityFilter, latest, stream
from fewstep.literature.streams.live_source import _take_frames
from fewstep.runtime import Sampler, UserError

OPTIONS = {"plan": "lcm:7", "strength": 0.6, "condition": {"class": [1]}, "mode": "sequence"}
FRAMES = np.random.default_rng(0).uniform(-1, 1, (20, 1, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("queue", [1, 2])
def test_the_newest_frames_win(sampler: Sampler, queue: int) -> None:
    """The source yields ten frames while the first is sampled."""
    read, taken = Event(), Event()

    def camera() -> Iterator[np.ndarray]:
        yield FRAMES[0]
        taken.wait(10)
        yield from FRAMES[1:11]
        read.set()

    frames, indices = stream(sampler, **OPTIONS), []
    for out in latest(frames, camera(), queue):
        indices.append(out.index)
        taken.set()
        read.wait(10)
    assert indices == [0, *range(11 - queue, 11)]
    assert frames.stats().dropped == 10 - queue


def test_an_error_of_the_source_comes_after_its_frames(sampler: Sampler) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield FRAMES[0]
        raise OSError("unplugged")

    seen = []
    with pytest.raises(OSError, match="unplugged"):
        for out in latest(stream(sampler, **{**OPTIONS, "mode": "batch"}), camera()):
            seen.append(out.index)
    assert seen == [0]


def test_frames_that_are_not_finite_are_dropped_and_a_mistake_leaves_frames_to_flush(sampler: Sampler) -> None:
    masked = np.ma.array(FRAMES[3], mask=FRAMES[3] == FRAMES[3].max())
    source = [FRAMES[0], np.full((1, 4, 4), np.nan), masked, FRAMES[4], FRAMES[5], np.zeros((1, 4, 5))]
    newest = SimpleNamespace(frames=lambda: enumerate(source), check=lambda: None, stop=lambda: None)
    frames = stream(sampler, **{**OPTIONS, "plan": "lcm:5", "mode": "batch"})
    with pytest.raises(UserError, match="given 'image' has the shape .*, not"):
        list(_take_frames(frames, newest))  # type: ignore[arg-type]
    assert [out.index for out in frames.flush()] == [3, 4] and frames.stats().dropped == 2
    newest.frames = lambda: enumerate([None])
    with pytest.raises(UserError, match="starts from .image."):
        list(_take_frames(frames, newest))  # type: ignore[arg-type]


def test_a_reader_that_leaves_ends_the_thread(sampler: Sampler) -> None:
    ended = Event()

    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield FRAMES[0]
        finally:
            ended.set()

    run = latest(stream(sampler, **OPTIONS), camera())
    next(run)
    run.close()
    assert ended.wait(10)


def test_the_source_is_read_from_the_first_frame_that_is_asked_for(sampler: Sampler) -> None:
    """A caller who never iterates does not open the camera."""
    opened = Event()

    def camera() -> Iterator[np.ndarray]:
        opened.set()
        yield FRAMES[0]

    run = latest(stream(sampler, **OPTIONS), camera())
    assert not opened.wait(0.05)
    assert next(run).index == 0 and opened.is_set()
    run.close()


def test_a_long_queue_is_refused(sampler: Sampler) -> None:
    with pytest.raises(UserError, match="a queue cannot have 64 frames"):
        latest(stream(sampler, **OPTIONS), FRAMES, 64)


def test_black_frames_are_like_black_frames_alone() -> None:
    black, grey = np.zeros(4), np.ones(4)
    assert SimilarityFilter().skips(black, black, 0, 0)
    assert not SimilarityFilter().skips(grey, black, 0, 0)
