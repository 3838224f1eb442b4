"""Load the decoder of a bundle: in bands of rows, if its images are large."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from fewstep.runtime.arrays import Arrays, Float32
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, needs_wide_sums_of, refuse_wrong_int8
from fewstep.runtime.bands.banded_decoder import BandedDecoder
from fewstep.runtime.bands.cut import cut
from fewstep.runtime.bands.onnx_file import read_onnx
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import DECODER

LEAST = 2**27  # bytes of the largest image; for smaller ones, opening the segments takes more than 5 % of the time


@dataclass(frozen=True)
class DecoderOfSizes:
    """A decoder of latents of free sizes, as a loaded graph: in bands, or as a whole if its largest image has less than
    `least` bytes. The whole graph is loaded when it is first needed."""

    banded: BandedDecoder
    least: int

    def __call__(self, feeds: Arrays) -> dict[str, Float32]:
        _, _, height, width = feeds[self.banded.latents].shape
        return (self.banded if largest_image(self.banded, height, width) >= self.least else self.banded.whole)(feeds)


def load_decoder(bundle: Bundle, described: GraphEntry, threads: int, in_bands: bool = False) -> LoadedGraph:
    """Load the decoder that a bundle describes. If it can be cut into segments, it runs in bands with `in_bands`, and
    by default if an image between two segments has at least `LEAST` bytes. One that multiplies integers does not by
    default, since bands take up to 1.27 times as long. Raises UserError if it cannot be loaded."""
    engine = OnnxRuntime(threads)
    refuse_wrong_int8(bundle, DECODER)
    path, wide_sums = bundle.graph(described), needs_wide_sums_of(bundle, DECODER)
    banded, least = _cut_decoder(bundle, described, engine, path, wide_sums, in_bands), 0 if in_bands else LEAST
    sizes = [size for size in described.inputs[0].shape[2:] if isinstance(size, int)]
    if banded is not None and len(sizes) < 2:
        return DecoderOfSizes(banded, least)
    if banded is not None and largest_image(banded, *sizes) >= least:
        return banded
    return engine.open_checked(bundle, described, path, wide_sums)


def _cut_decoder(
    bundle: Bundle, described: GraphEntry, engine: OnnxRuntime, path: Path, wide_sums: bool, cuts_int8: bool
) -> BandedDecoder | None:
    shape, output = described.inputs[0].shape, described.outputs[0]
    channels = shape[1] if len(shape) == 4 else None
    if not isinstance(channels, int) or len(described.outputs) != 1 or output.role != "image":
        return None
    if len(described.inputs) > 1:  # a band would need the rows of the other inputs too
        return None
    try:
        file = read_onnx(path)
        if not cuts_int8 and any(node.op == "QLinearConv" for node in file.nodes):
            return None
        parts = cut(file, described.inputs[0].name, channels)
    except ValueError:  # onnxruntime says what is wrong with the file
        return None
    if parts is None or file.outputs != (output.name,):
        return None
    name = described.inputs[0].name
    return BandedDecoder(file, parts, engine, name, wide_sums, lambda: engine.load_companion(bundle, DECODER))


def largest_image(banded: BandedDecoder, height: int, width: int) -> int:
    """Return the bytes of the largest image between two segments, for latents of a height and a width."""
    names = {name for segment in banded.cut.segments for name in (*segment.inputs, *segment.outputs)}
    return max(4 * prod(banded.image_shape(name, (1, 1, height, width))) for name in names)
