"""What an export takes of memory and disk, from its source alone."""

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.graph import io
from fewstep.graph.needs import Needs

ALONE = 900 * 10**6  # bytes of torch, its exporter, onnxruntime, and the source's library


def needs(source: Source) -> Needs | None:
    """Of a torch module: its weights once, in float32, and the packages around it. None where only tracing tells."""
    if not isinstance(source, TorchSource):
        return None
    tensors = (*source.module.parameters(), *source.module.buffers())
    weights = 4 * sum(tensor.numel() for tensor in tensors)
    return Needs(weights + ALONE, weights, 3 if weights <= io.EXTERNAL_ABOVE else 4)  # graphs, table, weights
