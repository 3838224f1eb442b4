"""Where a TensorRT engine rounds activations to 8 bits: as part of other kernels, or in separate kernels.

The rules are derived from the kernels of TensorRT-RTX 1.7 (lab/measured/nvidia.md). The kernel that produces an
activation also rounds it, if it is elementwise or a norm. That halves the bytes and adds no kernel. There are five
exceptions:

- Convolutions and products write their outputs in float, including biases and sums. A rounding after them is a separate
  kernel, which reads 2 bytes for each number to save one.
- In float a convolution or a product is one kernel together with the activation function after its bias. In int8 that
  function is a separate kernel, which reads and writes everything again, and rounds.
- An int8 convolution is one kernel with some of these functions (`FUSED`), and writes float. So it can be int8 while
  the readers of the function are float, except for wide images, where it saves few bytes. GELU is among them in its
  form with tanh.
- A float convolution writes directly into the output of Concat. An int8 convolution does not: a kernel copies its
  output.
- A norm with constant scale and shift followed by a SiLU is one kernel, which rounds too. Anything else before the
  rounding, such as multipliers or a zero point, is a further kernel that reads and writes everything again.
"""

from collections.abc import Sequence
from dataclasses import replace

from fewstep.calibration.lowering.scheme import Placement
from fewstep.graph.graph import Graph
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.selection import WeightedOp
from fewstep.graph.types import Types, infer_types

BATCH = 2  # rows of a guided sample
KERNEL = 51_200  # bytes that take as long as a launch: 0.5 us at 102.4 GB/s, of the smallest Orin NX
KEPT = ("Conv", "MatMul", "Gemm", "Concat", "Split", "Slice")  # kernels that cannot round their outputs
ACTIVATIONS = "Gelu | Relu | Tanh | Sigmoid | Mish | HardSwish"
NORMS = "Add(Mul(norm, SCALE), SHIFT)", "Reshape(InstanceNormalization(x, SCALE, SHIFT))"  # with scales, and without
FUSED = "(Gelu | Relu | Tanh | Sigmoid)(Add(Conv(x, W), BIAS))"  # one kernel, in int8 too
FLOAT = 4  # bytes of a number in the prepared graph


def find_slower_operations(prepared: Graph, ops: Sequence[WeightedOp]) -> frozenset[str]:
    """Return the names of the operations whose roundings move more bytes than they save. Weights of convolutions have
    one scale: with ratios of channels between a convolution and its bias, no kernel would be `FUSED`.

    If all operations would be slower, return none of them, so that a small graph still has a body.
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
    """Return the placement of the roundings of `ops`: which nodes can precede them without an extra kernel."""
    idx, names = index(prepared), dict.fromkeys(op.x for op in ops)
    return Placement(
        bare=frozenset(name for name in names if _is_kept(name, idx) or _is_norm_and_silu(name, idx)),
        pooled=frozenset(name for name in names if any(reader.op == "Conv" for reader in idx.consumers[name])),
    )


def approximate_gelu(graph: Graph) -> Graph:
    """Return the graph with each GELU after a convolution replaced by its approximation with tanh (Hendrycks and Gimpel
    2016, arXiv 1606.08415).

    The two differ by 4.8e-4 at most, at inputs near 2.7, where numbers in float16 are 2e-3 apart.
    """
    idx = index(graph)
    fused = {node.output for node in graph.nodes if node.op == "Gelu" and _is_fused(node.output, idx)}
    nodes = (
        replace(node, attributes={**node.attributes, "approximate": "tanh"}) if node.output in fused else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def _saves_bytes(op: WeightedOp, is_alone: bool, idx: Index, types: Types) -> bool:
    """Return whether an engine moves fewer bytes with the operation in int8, counting a launch as `KERNEL` bytes.

    is_alone: whether the rounding of its activation is a separate kernel.
    """
    written = _concat_input(op, idx)
    if not is_alone and written is None:
        return True
    read, made = (BATCH * (types.sample_bytes(name) or 0) // FLOAT for name in (op.x, written or op.name))
    saved = idx.graph.constants[op.weight].size + (-2 * read - KERNEL if is_alone else 2 * read)
    return saved > (0 if written is None else 4 * made + KERNEL)


def _pair_saves_bytes(maker: WeightedOp, op: WeightedOp, idx: Index, types: Types) -> bool:
    """Return whether two operations with an activation function between them move fewer bytes in int8."""
    read, between = (BATCH * (types.sample_bytes(operation.x) or 0) // FLOAT for operation in (maker, op))
    return read + sum(idx.graph.constants[operation.weight].size for operation in (maker, op)) > 2 * between


def _activation_input(name: str, idx: Index) -> str | None:
    """Return the tensor to which a bias is added before an activation function, if that function computes the tensor
    `name`. Otherwise return None."""
    node = idx.producers.get(name)
    found = match(node, "Mul(Sigmoid(gate), Add(x, BIAS))", idx) or match(node, f"({ACTIVATIONS})(Add(x, BIAS))", idx)
    return None if found is None else found["x"]


def _is_fused(name: str, idx: Index) -> bool:
    """Return whether the kernel of a convolution computes this output of an activation function."""
    return match(idx.producers.get(name), FUSED, idx) is not None


def _concat_input(op: WeightedOp, idx: Index) -> str | None:
    """Return the output of a convolution, including its bias, if a Concat reads it; else None."""
    if op.node.op != "Conv":
        return None
    name, readers = op.name, idx.consumers.get(op.name, ())
    while len(readers) == 1 and readers[0].op == "Add" and any(map(idx.graph.is_constant, readers[0].inputs)):
        name = readers[0].output
        readers = idx.consumers.get(name, ())
    return name if any(reader.op == "Concat" for reader in readers) else None


def _is_kept(name: str, idx: Index) -> bool:
    """Return whether the kernel that produces a tensor cannot round it."""
    node = idx.producers.get(name)
    if node is None or node.op in KEPT:
        return True
    if node.op == "Reshape":
        return _is_kept(node.inputs[0], idx)
    if node.op == "Transpose":  # attention's kernel writes its output transposed
        return idx.producer(node.inputs[0], "MatMul") is not None
    if node.op == "Add":
        return all(_is_kept(name, idx) for name in node.inputs if not idx.graph.is_constant(name))
    return False


def _is_norm_and_silu(name: str, idx: Index) -> bool:
    """Return whether a tensor is x * sigmoid(x) of a norm whose scale and shift, if any, are constants."""
    node = idx.producers.get(name)
    return any(match(node, f"Mul(Sigmoid(gate), {norm})", idx) is not None for norm in NORMS)
