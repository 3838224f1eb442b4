"""Streams of frames that share the network's calls, and the frames that they leave out."""

from fewstep.literature.streams.live_source import latest
from fewstep.literature.streams.similarity_filter import SimilarityFilter
from fewstep.literature.streams.stats import Stats
from fewstep.literature.streams.stream import Stream, StreamedFrame, stream

__all__ = ["SimilarityFilter", "Stats", "Stream", "StreamedFrame", "latest", "stream"]
