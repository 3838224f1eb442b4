"""Run a decoder in bands of rows: the same picture as in one run, up to rounding, in less memory.

Only the images between two segments are in memory as a whole, and only the weights of the segment that runs. The
statistics of a GroupNorm are accumulated in float64, and the rows at the edge of a band are computed from the true rows
around them. So results differ from those of one run by the order of sums only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fewstep.runtime.arrays import Arrays, Float32
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bands.cut import DecoderParts, Segment
from fewstep.runtime.bands.group_norm import ImageNorm, Statistics
from fewstep.runtime.bands.onnx_file import FileNode, OnnxFile, without_row_padding
from fewstep.runtime.bands.rows import CONVOLUTIONS
from fewstep.runtime.bands.stored_rows import StoredRows
from fewstep.runtime.machine.memory_pages import release_free_memory

BAND_BYTES = 2**24  # of one image in a band: 8 and 4 MB take 5 and 10 % longer, and save no memory


@dataclass
class _Run:
    """The state of one decoding: images, statistics of the images that a GroupNorm reads, and rows of latents."""

    height: int
    images: dict[str, StoredRows] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def store(self, name: str, rows: Float32) -> None:
        """Append rows [1, C, rows, W] to an image."""
        if name in self.statistics:
            self.statistics[name].add(rows[0])
        self.images.setdefault(name, StoredRows()).append(rows)


@dataclass(frozen=True)
class _Band:
    """A band of a segment: its first unit and the one after its last, and the units that are computed for it.
    `is_inside` bands have all rows around them that their results depend on."""

    start: int
    end: int
    first: int
    last: int
    is_inside: bool


@dataclass(frozen=True)
class BandedDecoder:
    """A decoder in bands, as a loaded graph.

    latents: the name of its input. wide_sums: see `OnnxRuntime.open`. load_whole: loads the decoder as one graph, for
        one that turns out not to be as its cut assumes.
    """

    file: OnnxFile
    cut: DecoderParts
    engine: OnnxRuntime
    latents: str
    wide_sums: bool
    load_whole: Callable[[], LoadedGraph]

    def __call__(self, feeds: Arrays) -> dict[str, Float32]:
        """Decode latents [N, C, H, W], one after the other."""
        results = [self._decode(latent[None]) for latent in feeds[self.latents]]
        return {name: np.concatenate([result[name] for result in results]) for name in self.file.outputs}

    def _decode(self, latent: Float32) -> dict[str, Float32]:
        run = _Run(latent.shape[2], statistics={name: Statistics() for name in self._norm_inputs})
        for name, image in {self.latents: latent, **self._run_head(latent)}.items():
            if image.shape != self.image_shape(name, latent.shape):
                return self.whole({self.latents: latent})
            run.store(name, image)
        for place, segment in enumerate(self.cut.segments):
            later = {name for segment in self.cut.segments[place + 1 :] for name in segment.inputs}
            self._run_segment(segment, run, later)
        results = {name: run.images[name].rows(0, run.images[name].end) for name in self.file.outputs}
        del run
        release_free_memory()
        return results

    @cached_property
    def whole(self) -> LoadedGraph:
        """The decoder as one graph, loaded when it is first needed."""
        return self.load_whole()

    @cached_property
    def _norm_inputs(self) -> frozenset[str]:
        return frozenset(norm.x for segment in self.cut.segments for norm in segment.norms)

    def image_shape(self, name: str, latents: Sequence[int]) -> tuple[int, ...]:
        """Return the shape [1, C, H, W] of an image for latents of a shape [1, C, H, W]."""
        layout = self.cut.layouts[name]
        return (1, layout.channels, layout.rows * latents[2], layout.columns * latents[3])

    def _run_head(self, latent: Float32) -> dict[str, Float32]:
        if not self.cut.given:
            return {}
        inputs = {self.latents: latent}
        model = self.file.write_part(self.cut.head, inputs, self.cut.given)
        return self.engine.open_part(model, self.file.path.name, self.wide_sums)(inputs)

    def _run_segment(self, segment: Segment, run: _Run, later: set[str]) -> None:
        """Run a segment band by band. Rows that no later band and no later segment reads are freed."""
        affine = {name: x for norm in segment.norms for name, x in norm.affine(run.statistics[norm.x]).items()}
        sessions: dict[tuple[int, ...], LoadedGraph] = {}
        for band in self._bands(segment, run):
            feeds: dict[str, Float32] = dict(affine)
            for name in segment.inputs:
                before, after = self._margins(segment, band, name)
                rate, image = self._rate(segment, name), run.images[name]
                feeds[name] = image.rows(band.start * rate - before, band.end * rate + after)
                if name not in later:
                    image.free_before((band.end - segment.halo) * rate)
            shapes = tuple(value.shape[2] for value in feeds.values())
            if shapes not in sessions:
                sessions.clear()
                sessions[shapes] = self._open(segment, feeds, band.is_inside)
            for name, value in sessions[shapes](feeds).items():
                before, after = self._margins(segment, band, name)
                run.store(name, value[:, :, before : value.shape[2] - after])
        for name in set(segment.inputs) - later:
            del run.images[name]

    def _bands(self, segment: Segment, run: _Run) -> Iterator[_Band]:
        width = run.images[segment.inputs[0]].width // self.cut.layouts[segment.inputs[0]].columns
        total, step = run.height * segment.units, self.band_units(segment, width)
        for start in range(0, total, step):
            end = min(start + step, total)
            first, last = max(start - segment.halo, 0), min(end + segment.halo, total)
            is_inside = bool(segment.margins) and (first, last) == (start - segment.halo, end + segment.halo)
            yield _Band(start, end, first, last, is_inside)

    def band_units(self, segment: Segment, width: int) -> int:
        """Return the units of a band of a segment, for latents of a width: those in which its largest image has
        BAND_BYTES."""
        layouts = [self.cut.layouts[name] for name in (*segment.inputs, *segment.outputs)]
        largest = max(layout.channels * layout.rows // segment.units * layout.columns * width for layout in layouts)
        return max(1, BAND_BYTES // (4 * largest))

    def _rate(self, segment: Segment, name: str) -> int:
        """Return the rows of an image for each unit of a segment."""
        return self.cut.layouts[name].rows // segment.units

    def _margins(self, segment: Segment, band: _Band, name: str) -> tuple[int, int]:
        """Return the rows of an image before and after a band that the segment takes, or returns, with it."""
        if band.is_inside:
            return segment.margins[name], segment.margins[name]
        rate = self._rate(segment, name)
        return (band.start - band.first) * rate, (band.last - band.end) * rate

    def _open(self, segment: Segment, feeds: Mapping[str, Float32], is_inside: bool) -> LoadedGraph:
        nodes: list[FileNode] = [*segment.constants]
        for operation in segment.operations:
            if isinstance(operation, ImageNorm):
                nodes += operation.apply_nodes()
            else:
                nodes.append(
                    without_row_padding(operation) if is_inside and operation.op in CONVOLUTIONS else operation
                )
        model = self.file.write_part(nodes, feeds, segment.outputs)
        return self.engine.open_part(model, self.file.path.name, self.wide_sums)
