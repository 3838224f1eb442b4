"""Large attention in int8: pairs of QuantizeLinear and DequantizeLinear on the operands of its two products.

    MatMul(Softmax(MatMul(q, k)), v)      ==>      MatMul(pair(Softmax(MatMul(pair(q), pair(k)))), pair(v))

The two products are chosen separately. Operands have one symmetric scale, except the probabilities, which are uint8 of
[0, largest]. The step between two codes is 1/255 of the largest probability. In a row whose probabilities are all far
smaller, they are rounded to 0. Only samples can show whether that matters (`calibration.attention_precision.py`).

OpenVINO 2026.4 fuses the whole into one kernel, which multiplies the codes. For 4096 tokens and 8 heads of width 40 it
takes 0.78 of the time in float32 with the scores in int8, and 0.44 with both products; 0.84 and 0.59 of the time in
bf16. For 1024 tokens and 16 heads of width 72 these are 0.69, 0.42, 0.82 and 0.65 (AVX512-VNNI, one thread).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fewstep.calibration.lowering.encoding import integer_name, name_after_rounding, scale_name, zero_point_name
from fewstep.calibration.ranges.channel_scales import LEAST_ROOM
from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.passes.split_attention import attention_of
from fewstep.graph.types import infer_types

LEAST_TOKENS = 1024  # of queries and of keys; in smaller attention, products are a small part of a step
HEADROOM = 1 + LEAST_ROOM  # factor of largest magnitudes, as channels have at least


@dataclass(frozen=True)
class LargeAttention:
    """The names of the tensors of an attention operation: the operands and results of its two matrix products, query x
    key and probabilities x value. `nodes` compute the probabilities from queries and keys."""

    query: str
    key: str
    scores: str
    probabilities: str
    value: str
    mixed: str
    nodes: tuple[Node, ...]

    @property
    def operands(self) -> tuple[str, ...]:
        return (self.query, self.key, self.probabilities, self.value)


@dataclass(frozen=True)
class Int8Products:
    """The matrix products of attention that run in int8, by the names of their outputs, and the largest magnitude of
    each of their inputs."""

    products: tuple[str, ...]
    largest: Mapping[str, float]


def find_large_attention(prepared: Graph) -> tuple[LargeAttention, ...]:
    """Return the attention operations with at least LEAST_TOKENS queries and keys at the default sizes, in the graph's
    order."""
    idx, usual, found = index(prepared), infer_types(prepared).usual, []

    def is_scale(node: Node) -> bool:
        number = prepared.constants.get(node.inputs[1]) if node.op in ("Mul", "Div") else None
        return number is not None and number.size == 1

    for softmax in (node for node in prepared.nodes if node.op == "Softmax" and not node.domain):
        attention = attention_of(softmax, idx, is_scale)
        shape = usual[softmax.output].shape if softmax.output in usual else ()
        if attention is None or not all(isinstance(size, int) and size >= LEAST_TOKENS for size in shape[-2:]):
            continue
        query, key = attention.scores.inputs
        found.append(
            LargeAttention(
                query=query,
                key=key,
                scores=attention.scores.output,
                probabilities=softmax.output,
                value=attention.product.inputs[1],
                mixed=attention.product.output,
                nodes=(attention.scores, *attention.between),
            )
        )
    return tuple(found)


def quantize_products(graph: Graph, chosen: Int8Products) -> Graph:
    """Return the graph with pairs on both operands of the chosen products."""
    new, pairs, nodes = NewNodes(graph), dict[str, str](), list[Node]()
    softmaxes = {node.output for node in graph.nodes if node.op == "Softmax"}

    def pair_nodes(tensor: str) -> Iterator[Node]:
        """Yield the nodes of a tensor's pair at the first call for it, and nothing afterwards."""
        if tensor in pairs:
            return
        kind = np.uint8 if tensor in softmaxes else np.int8
        reach = HEADROOM * max(chosen.largest[tensor], float(np.finfo(np.float32).tiny))
        scale = min(reach, 1.0) / 255 if kind is np.uint8 else reach / 127
        code = (
            new.constant(scale_name(tensor), np.array(scale, np.float32)),
            new.constant(zero_point_name(tensor), np.array(0, kind)),
        )
        integers, pairs[tensor] = new.name(integer_name(tensor)), new.name(name_after_rounding(tensor))
        yield Node("QuantizeLinear", (tensor, *code), (integers,), {}, integers)
        yield Node("DequantizeLinear", (integers, *code), (pairs[tensor],), {}, pairs[tensor])

    for node in graph.nodes:
        if node.output not in chosen.products:
            nodes.append(node)
            continue
        for tensor in node.inputs:
            nodes.extend(pair_nodes(tensor))
        nodes.append(replace(node, inputs=tuple(pairs[name] for name in node.inputs)))
    return graph.with_nodes(nodes, new.constants)
