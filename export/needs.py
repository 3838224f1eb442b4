"""What an export takes of memory and disk, from its source alone: the denoiser's, and of each network beside it."""

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.graph import io
from fewstep.graph.needs import Needs

ALONE = 900 * 10**6  # bytes of torch, its exporter, onnxruntime, and the source's library


def needs(source: Source, dtype: str = "float32") -> Needs | None:
    """Of a torch module: its weights once, in float32, and the packages around it. None where only tracing tells.

    The networks beside a denoiser come one after the other, when it is in files. A bundle in float16 is written after
    the one in float32.
    """
    if not isinstance(source, TorchSource):
        return None
    tensors = (*source.module.parameters(), *source.module.buffers())
    weights = 4 * sum(tensor.numel() for tensor in tensors)
    written = () if source.beside is None else source.beside.written
    memory = max(weights + ALONE, *(size + ALONE for size in written), 0)
    disk = weights + sum(written) + (weights // 2 if dtype == "float16" else 0)
    large = sum(size > io.EXTERNAL_ABOVE for size in (weights, *written))  # in files beside their graphs
    files = 3 + len(written) + large  # body, prologue and the table of the verification
    return Needs(memory, disk, files)
