"""Process streams of frames whose network calls are batched across streams, with filters that skip frames."""

from fewstep.literature.streams.live_source import latest
from fewstep.literature.streams.similarity_filter import SimilarityFilter
from fewstep.literature.streams.stats import Stats
from fewstep.literature.streams.stream import Stream, StreamedFrame, stream

__all__ = ["SimilarityFilter", "Stats", "Stream", "StreamedFrame", "latest", "stream"]
