"""The kernels that round activations to 8 bits in an engine of TensorRT: part of others, or their own.

A rule, learned from the kernels of TensorRT-RTX 1.7 (docs/measured/nvidia.md). The kernel that makes an activation
rounds it too, if it is elementwise or a norm. Then half of its bytes go, and no kernel comes. Five places differ:

- Convolutions and products keep what they make in float, with their biases and sums. A rounding behind them is a kernel
  of its own, which reads 2 bytes for each number to save one.
- In float a convolution or a product is one kernel with the activation function behind its bias. In int8 that function
  is a kernel of its own, which reads and writes all again, and rounds.
- A convolution in int8 is one kernel with some of these functions (`FUSED`), and writes float. So it can be int8 while
  what reads the function is float, but for wide pictures: there it saves few bytes. GELU is among them in its form with
  tanh.
- A convolution in float writes into the result of Concat. One in int8 does not: a kernel copies what it made.
- A norm with constant scale and shift and a SiLU behind are one kernel, which rounds too. What else stands in front of
  the rounding, such as multipliers or a zero point, is a further kernel that reads and writes it all again.
"""

from collections.abc import Sequence
from dataclasses import replace

from fewstep.calibration.lowering.scheme import Placement
from fewstep.graph.graph import Graph
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.selection import WeightedOp
from fewstep.graph.types import Types, infer_types

BATCH = 2  # of a guided sample
KERNEL = 51_200  # bytes that take as long as a launch: 0.5 us at 102.4 GB/s, of the smallest Orin NX
KEPT = ("Conv", "MatMul", "Gemm", "Concat", "Split", "Slice")  # what these make is not rounded where it is made
ACTIVATIONS = "Gelu | Relu | Tanh | Sigmoid | Mish | HardSwish"
NORMS = "Add(Mul(norm, SCALE), SHIFT)", "Reshape(InstanceNormalization(x, SCALE, SHIFT))"  # with scales, and without
FUSED = "(Gelu | Relu | Tanh | Sigmoid)(Add(Conv(x, W), BIAS))"  # one kernel, in int8 too
FLOAT = 4  # bytes of a number in the prepared graph


def find_slower_operations(prepared: Graph, ops: Sequence[WeightedOp]) -> frozenset[str]:
    """The names of the operations whose roundings move more bytes than they save. Weights of convolutions have one
    scale: ratios of channels would stand between a convolution and its bias, so that no kernel of it is `FUSED`.

    None of them if that would be all, so that a small graph has a body.
    """
    idx, types = index(prepared), infer_types(prepared)
    by_name = {op.name: op for op in ops}
    kept = frozenset(op.x for op in ops if _is_kept(op.x, idx) or _is_fused(op.x, idx))
    in_float = frozenset(op.name for op in ops if not _saves_bytes(op, op.x in kept, idx, types))
    for op in ops:
        maker = by_name.get(_activation_input(op.x, idx) or "")
        if maker is not None and not _pair_saves_bytes(maker, op, idx, types):
            in_float |= {maker.name, op.name}
    return in_float if len(in_float) < len(ops) else frozenset()


def place_roundings(prepared: Graph, ops: Sequence[WeightedOp]) -> Placement:
    """The placing of the roundings of `ops`: what may stand in front of them without a kernel."""
    idx, names = index(prepared), dict.fromkeys(op.x for op in ops)
    return Placement(
        bare=frozenset(name for name in names if _is_kept(name, idx) or _is_norm_and_silu(name, idx)),
        pooled=frozenset(name for name in names if any(reader.op == "Conv" for reader in idx.consumers[name])),
    )


def approximate_gelu(graph: Graph) -> Graph:
    """The graph with GELUs behind convolutions in the form with tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415).

    It differs from GELU by 4.8e-4 at most, near 2.7, where numbers in float16 are 2e-3 apart.
    """
    idx = index(graph)
    behind = {node.output for node in graph.nodes if node.op == "Gelu" and _is_fused(node.output, idx)}
    nodes = (
        replace(node, attributes={**node.attributes, "approximate": "tanh"}) if node.output in behind else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def _saves_bytes(op: WeightedOp, is_alone: bool, idx: Index, types: Types) -> bool:
    """True where an engine moves fewer bytes with the operation in int8, counting a launch as `KERNEL` bytes.

    is_alone: whether the rounding of its activation is a kernel of its own.
    """
    written = _concat_input(op, idx)
    if not is_alone and written is None:
        return True
    read, made = (BATCH * (types.sample_bytes(name) or 0) // FLOAT for name in (op.x, written or op.name))
    saved = idx.graph.constants[op.weight].size + (-2 * read - KERNEL if is_alone else 2 * read)
    return saved > (0 if written is None else 4 * made + KERNEL)


def _pair_saves_bytes(maker: WeightedOp, op: WeightedOp, idx: Index, types: Types) -> bool:
    """True where two operations with an activation function between them move fewer bytes in int8."""
    read, between = (BATCH * (types.sample_bytes(each.x) or 0) // FLOAT for each in (maker, op))
    return read + sum(idx.graph.constants[each.weight].size for each in (maker, op)) > 2 * between


def _activation_input(name: str, idx: Index) -> str | None:
    """The name of what an activation function, which makes a tensor, reads ahead of a bias: an operation's output."""
    node = idx.producers.get(name)
    found = match(node, "Mul(Sigmoid(gate), Add(x, BIAS))", idx) or match(node, f"({ACTIVATIONS})(Add(x, BIAS))", idx)
    return None if found is None else found["x"]


def _is_fused(name: str, idx: Index) -> bool:
    """True where the kernel of a convolution makes what an activation function returns."""
    return match(idx.producers.get(name), FUSED, idx) is not None


def _concat_input(op: WeightedOp, idx: Index) -> str | None:
    """The output of a convolution, with its bias, if a Concat reads it."""
    if op.node.op != "Conv":
        return None
    name, readers = op.name, idx.consumers.get(op.name, ())
    while len(readers) == 1 and readers[0].op == "Add" and any(map(idx.graph.is_constant, readers[0].inputs)):
        name = readers[0].output
        readers = idx.consumers.get(name, ())
    return name if any(reader.op == "Concat" for reader in readers) else None


def _is_kept(name: str, idx: Index) -> bool:
    """True where no kernel makes a tensor that could round it."""
    node = idx.producers.get(name)
    if node is None or node.op in KEPT:
        return True
    if node.op == "Reshape":
        return _is_kept(node.inputs[0], idx)
    if node.op == "Transpose":  # attention's kernel writes what is turned around behind it
        return idx.producer(node.inputs[0], "MatMul") is not None
    if node.op == "Add":
        return all(_is_kept(each, idx) for each in node.inputs if not idx.graph.is_constant(each))
    return False


def _is_norm_and_silu(name: str, idx: Index) -> bool:
    """True where a tensor is x * sigmoid(x) of a norm whose scale and shift are constants, if it has them."""
    node = idx.producers.get(name)
    return any(match(node, f"Mul(Sigmoid(gate), {norm})", idx) is not None for norm in NORMS)
