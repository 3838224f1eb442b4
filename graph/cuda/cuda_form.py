"""Rewrite a graph with the operations for which ONNX Runtime's CUDA provider has fast kernels."""

from dataclasses import dataclass

from fewstep.graph.cuda.bfloat16 import bfloat16_form
from fewstep.graph.cuda.channels_last import FIRST, LAST, channels_last
from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.index import index
from fewstep.graph.passes.contrib_attention import fuse_attention
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.types import infer_types

LONG = 1024  # keys of an attention operation whose kernel is faster in float32 too (`is_preferred` of the backend)
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # no kernel: the provider keeps the memory


def cuda_form(graph: Graph) -> Graph:
    """Rewrite a body's graph with the operations for which ONNX Runtime's CUDA provider has fast kernels.

    GroupNorm with SiLU is one operation with channels last, and so are the convolutions and everything between them.
    Attention is one operation. The types stay those of the graph: float32 or float16. Results are equal up to the
    rounding of that type. Only providers with these operations of com.microsoft can run the result. A bfloat16 graph
    keeps its channels first, since the provider has no other kernels of that type (`bfloat16.py`).

    Raises UserError for a bfloat16 graph with an operation that the provider does not compute on the GPU.
    """
    types = infer_types(graph)  # ONNX's inference does not know the outputs of operations of com.microsoft
    fused = fuse_attention(graph, types)
    return bfloat16_form(fused, types) if has_type(graph, BFLOAT16) else channels_last(fused, types)


def has_long_attention(portable: Graph, form: Graph) -> bool:
    """Return whether at least half of the attentions that the rewritten graph `form` computes as one operation have
    LONG keys or more. A free number of keys does not count."""
    types, left = infer_types(portable), {name for node in form.nodes for name in node.outputs}
    fused = [node.output for node in portable.nodes if node.op == "Softmax" and node.output not in left]
    keys = [(types.shape(name) or ("?",))[-1] for name in fused]
    return bool(keys) and 2 * sum(isinstance(key, int) and key >= LONG for key in keys) >= len(keys)


@dataclass(frozen=True)
class FormSize:
    """The kernels that the provider launches for a graph: the numbers of GroupNorms, of attentions, of remaining
    Transposes, and of all kernels."""

    norms: int
    attentions: int
    transposes: int
    kernels: int


def form_size(graph: Graph) -> FormSize:
    """Count the operations of a graph that the provider computes with channels-last convolutions.

    Views are not counted. Transposes between channels first and last next to a convolution are not counted either,
    because they cancel the Transposes that onnxruntime adds around it.
    """
    idx = index(graph)

    def cancels(node: Node) -> bool:
        perm = list(node.attributes.get("perm", ())) if node.op == "Transpose" else []
        source, readers = idx.producers.get(node.inputs[0]) if node.inputs else None, idx.consumers.get(node.output, ())
        if perm == FIRST["perm"]:
            return bool(readers) and all(reader.op == "Conv" for reader in readers)
        return perm == LAST["perm"] and source is not None and source.op == "Conv"

    nodes = [node for node in graph.nodes if node.op not in VIEWS and not cancels(node)]
    count = [node.op for node in nodes].count
    norms = count("GroupNorm") + count("SkipGroupNorm")
    return FormSize(norms, count("MultiHeadAttention"), count("Transpose"), len(nodes))
