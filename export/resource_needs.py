"""Estimate the memory and disk that an export takes for the denoiser and the other networks, from its source only."""

from fewstep.export.export_options import ExportPrecision
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.export.weights_only import BITS
from fewstep.graph.files import io
from fewstep.graph.resource_needs import Needs

SCALES = 1.15  # bytes of weights in integers with their scales, relative to those of the integers
ALONE = 900 * 10**6  # bytes of torch, its exporter, onnxruntime, and the source's library


def estimate_needs(source: Source, precision: ExportPrecision = "float32") -> Needs | None:
    """Return the needs of a torch module: its weights once in float32, and the memory of the packages. None for other
    sources, whose needs are known only after tracing.

    The other networks are loaded one at a time, after the denoiser is in files. A float16 graph is written after the
    float32 one. Weights in integers are made from those of the source, in the type in which it stores them.
    """
    if not isinstance(source, TorchSource):
        return None
    tensors = (*source.module.parameters(), *source.module.buffers())
    weights = 4 * sum(tensor.numel() for tensor in tensors)
    written = () if source.companions is None else source.companions.file_sizes
    memory = max(weights + ALONE, *(size + ALONE for size in written), 0)
    disk = weights + sum(written) + (weights // 2 if precision == "float16" else 0)
    if (bits := BITS.get(precision)) is not None:
        stored = sum(tensor.nbytes for tensor in tensors) / max(weights, 1)  # the share of float32's bytes
        memory = ALONE + int(max(weights, *written, 0) * (stored + bits / 32))
        disk = int((weights + sum(written)) * bits / 32 * SCALES)
    large = sum(size > io.EXTERNAL_ABOVE for size in (weights, *written))  # in files separate from their graphs
    files = 3 + len(written) + large  # body, prologue and the table of the verification
    return Needs(memory, disk, files)
