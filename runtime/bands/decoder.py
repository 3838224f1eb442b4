"""Load the decoder of a bundle: in bands of rows, if its images are large."""

from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, needs_wide_sums_of
from fewstep.runtime.bands.banded_decoder import BandedDecoder
from fewstep.runtime.bands.cut import cut
from fewstep.runtime.bands.onnx_file import read_onnx
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import DECODER

LEAST = 2**27  # bytes of the largest image; for smaller ones, opening the segments takes more than 5 % of the time


def load_decoder(bundle: Bundle, described: GraphEntry, threads: int, least: int = LEAST) -> LoadedGraph:
    """Load the decoder that a bundle describes. It runs in bands if it is cut into segments, and an image between two
    of them has at least `least` bytes. Raises UserError if it cannot be loaded."""
    engine = OnnxRuntime(threads)
    banded = _cut_decoder(bundle, described, engine)
    if banded is not None and largest_image(banded, described) >= least:
        return banded
    return engine.load_companion(bundle, DECODER)


def _cut_decoder(bundle: Bundle, described: GraphEntry, engine: OnnxRuntime) -> BandedDecoder | None:
    shape, output = described.inputs[0].shape, described.outputs[0]
    channels = shape[1] if len(shape) == 4 else None
    if not isinstance(channels, int) or len(described.outputs) != 1 or output.role != "image":
        return None
    try:
        file = read_onnx(bundle.graph(described))
        parts = cut(file, described.inputs[0].name, channels)
    except ValueError:  # onnxruntime says what is wrong with the file
        return None
    if parts is None or file.outputs != (output.name,):
        return None
    is_wide = needs_wide_sums_of(bundle, DECODER)
    name = described.inputs[0].name
    return BandedDecoder(file, parts, engine, name, is_wide, lambda: engine.load_companion(bundle, DECODER))


def largest_image(banded: BandedDecoder, described: GraphEntry) -> int:
    """Return the bytes of the largest image between two segments."""
    latents = [int(size) if isinstance(size, int) else 1 for size in described.inputs[0].shape]
    names = {name for segment in banded.cut.segments for name in (*segment.inputs, *segment.outputs)}
    sizes = []
    for name in names:
        _, channels, height, width = banded.image_shape(name, latents)
        sizes.append(4 * channels * height * width)
    return max(sizes)
