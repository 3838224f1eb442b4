"""Streams of frames that share the network's calls, and the frames that they leave out."""

from fewstep.literature.streams.newest import latest
from fewstep.literature.streams.similar import Similar
from fewstep.literature.streams.stats import Stats
from fewstep.literature.streams.stream import Stream, StreamedFrame, stream

__all__ = ["Similar", "Stats", "Stream", "StreamedFrame", "latest", "stream"]
