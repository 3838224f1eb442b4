"""Estimate the memory and disk that an export takes for the denoiser and the other networks, from its source only."""

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.graph.files import io
from fewstep.graph.resource_needs import Needs

ALONE = 900 * 10**6  # bytes of torch, its exporter, onnxruntime, and the source's library


def estimate_needs(source: Source, dtype: str = "float32") -> Needs | None:
    """Return the needs of a torch module: its weights once in float32, and the memory of the packages. None for other
    sources, whose needs are known only after tracing.

    The other networks are loaded one at a time, after the denoiser is in files. A float16 graph is written after the
    float32 one.
    """
    if not isinstance(source, TorchSource):
        return None
    tensors = (*source.module.parameters(), *source.module.buffers())
    weights = 4 * sum(tensor.numel() for tensor in tensors)
    written = () if source.companions is None else source.companions.file_sizes
    memory = max(weights + ALONE, *(size + ALONE for size in written), 0)
    disk = weights + sum(written) + (weights // 2 if dtype == "float16" else 0)
    large = sum(size > io.EXTERNAL_ABOVE for size in (weights, *written))  # in files separate from their graphs
    files = 3 + len(written) + large  # body, prologue and the table of the verification
    return Needs(memory, disk, files)
