"""Select the operations that run in int8 unless measurements decide otherwise, and detect operations that are already
quantized."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fewstep.graph.graph import DEFAULT_DOMAIN, Graph, Node, X, varies_per_call
from fewstep.graph.index import index
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.graph_entry import NEXT

SIZES = ("Shape", "Size")  # these read no values, so no error passes through them
CONTRIB = "com.microsoft"  # domain of operations specific to onnxruntime
DOMAINS = ("", DEFAULT_DOMAIN, CONTRIB)
OPERATIONS = re.compile(  # prefixes of quantized operations, but not of QuickGelu
    "Q(Linear|Gemm|Attention|MoE|Ordered|EmbedLayer)|(Dynamic)?Quantize|Dequantize|(MatMul|Conv)Integer"
    "|MatMul(NBits|Bnb4|FpQ4)|GatherBlockQuantized"
)
LEAST_CHANNELS = 16  # int8 kernels pad fewer channels to this number and gain nothing
FEW_CHANNELS = f"fewer than {LEAST_CHANNELS} channels on one side"
OUTER = "first or last layer: its error reaches the sample undamped"
STILL = "does not depend on x"
GRADIENT_HEAD = "gradient_head"  # the module that concatenates the gradient to the prediction
STEERS = "computes a gradient, which gives the sample a direction"
SCALED = "more than a product with at most a bias per channel"


@dataclass(frozen=True)
class WeightedOp:
    """A Conv, MatMul or Gemm with a constant weight. It is identified by the name of its output."""

    node: Node
    channels_in: int  # both for one group of a convolution
    channels_out: int
    axis: int  # the weight's axis of output channels

    @property
    def name(self) -> str:
        return self.node.output

    @property
    def x(self) -> str:
        """The activation that it reads."""
        return self.node.inputs[0]

    @property
    def weight(self) -> str:
        return self.node.inputs[1]

    @property
    def bias(self) -> tuple[str, ...]:
        """The bias that it adds, if any."""
        return tuple(filter(None, self.node.inputs[2:]))

    @property
    def groups(self) -> int:
        """The groups of a convolution; 1 for a product."""
        return int(self.node.attributes.get("group", 1)) if self.node.op == "Conv" else 1

    @property
    def channel_axis(self) -> int:
        """The channel axis of its input and output activations."""
        return 1 if self.node.op == "Conv" else -1

    @property
    def code(self) -> str:
        """The name of its quantized weight. Operations that read a weight in the same layout share its integers."""
        return f"transposed({self.weight})" if self.node.attributes.get("transB", 0) else self.weight


def select_int8_ops(graph: Graph) -> tuple[WeightedOp, ...]:
    """Return the operations to run in int8, in the order of the graph.

    A Conv, MatMul or Gemm runs in int8 if its weight is constant, its input depends on x, it has at least 16 channels
    on both sides, it computes no steering gradient, and it adds at most a constant bias per channel. The first layers
    (which read x itself) and the last layers (whose output reaches the sample) stay float. Their error reaches the
    sample undamped at every step, and they are a small fraction of the work. A graph that does not read x, such as a
    conditioner, has no first and last layers in this sense.
    """
    return tuple(op for op, reason in explain_selection(graph) if not reason)


def explain_selection(graph: Graph) -> tuple[tuple[WeightedOp, str], ...]:
    """Return every operation with a constant weight, and the reason why the rule of `select_int8_ops` keeps it in
    float; "" if it runs in int8."""
    _refuse_foreign(graph)
    idx = index(graph)
    varying = [value.name for value in graph.inputs if varies_per_call(value.name)]
    moving = idx.dependents(varying or [value.name for value in graph.inputs])  # a conditioner reads conditions alone
    ops = tuple(op for op in (match_weighted_op(node, graph) for node in graph.nodes) if op)
    forward = idx.dependencies(_prediction_outputs(graph))
    names = frozenset(op.name for op in ops if op.x in moving and op.name in forward)
    outer = outer_ops(graph, names) if varying else frozenset[str]()

    def reason(op: WeightedOp) -> str:
        if op.x not in moving:
            return STILL
        if op.name not in forward:
            return STEERS
        if min(op.channels_in, op.channels_out) < LEAST_CHANNELS:
            return FEW_CHANNELS
        if op.name in outer:
            return OUTER
        return "" if _is_plain(op, graph) else SCALED

    return tuple((op, reason(op)) for op in ops)


def _prediction_outputs(graph: Graph) -> tuple[str, ...]:
    """Return the graph's outputs except the gradient that some denoisers return (`literature.gradients`)."""
    outputs = tuple(value.name for value in graph.outputs)
    joined = next((node for node in graph.nodes if node.name.startswith(f"{GRADIENT_HEAD}/")), None)
    if joined is None or joined.output not in outputs:
        return outputs
    return (joined.inputs[0], *(name for name in outputs if name != joined.output))


def outer_ops(graph: Graph, names: Collection[str]) -> frozenset[str]:
    """Return which operations of `names` are first layers, which read x itself, or last layers, which compute the
    prediction.

    Transposed convolutions count as layers. An operation that follows a first layer on the same path is not a first
    layer, and one that precedes a last layer is not a last layer. The first layer of a token denoiser is its embedding,
    which stays float.
    """
    optional = {value.name for value in graph.optional}  # a layer's LoRA runs in parallel with it
    layers = {
        *names,
        *(n.output for n in graph.nodes if n.op == "ConvTranspose" or not optional.isdisjoint(n.inputs)),
    }
    nodes = [node for node in graph.nodes if node.op not in SIZES]
    forwards = ((node.output, node.inputs, node.outputs) for node in nodes)
    backwards = ((node.output, node.outputs, node.inputs) for node in reversed(nodes))
    ends = (name for name in _prediction_outputs(graph) if not name.startswith(NEXT))  # carried rings reach later runs
    seen = [value.name for value in graph.inputs if value.name == X and value.dtype.kind == "f"]
    return (_find_first_ops(seen, forwards, layers) | _find_first_ops(ends, backwards, layers)) & frozenset(names)


def match_weighted_op(node: Node, graph: Graph) -> WeightedOp | None:
    """Return the node as a WeightedOp if it multiplies an activation by a constant weight, otherwise None."""
    weight = graph.constants.get(node.inputs[1]) if node.op in ("Conv", "MatMul", "Gemm") and not node.domain else None
    if weight is None or weight.ndim < 2 or graph.is_constant(node.inputs[0]):
        return None
    if node.op == "Conv":
        return WeightedOp(node, weight.shape[1], weight.shape[0] // node.attributes.get("group", 1), 0)
    axis = 0 if node.attributes.get("transB", 0) else 1
    return WeightedOp(node, weight.shape[1 - axis], weight.shape[axis], axis) if weight.ndim == 2 else None


def layer_name(node: Node) -> str:
    """Return the name of an operation in reports: module and kind, as "middle.conv1/Conv", or its output tensor."""
    return node.name or node.output


def bias_shape(op: WeightedOp, graph: Graph) -> tuple[int, ...]:
    """Return the shape in which an array [channels] broadcasts over an operation's output."""
    rank = graph.constants[op.weight].ndim
    return (1, -1, *[1] * (rank - 2)) if op.node.op == "Conv" else (-1,)


def _refuse_foreign(graph: Graph) -> None:
    """Raise UserError if a graph already has quantized operations, because ranges measured on it would have another
    meaning, or if it has other operations specific to onnxruntime, whose output types onnx cannot infer."""
    for node in graph.nodes:
        if is_quantized(node.op, node.domain):
            raise UserError(
                f"the graph is quantized already: {node.name or node.output!r} is a {node.op}",
                "export the original float denoiser, and calibrate that",
            )
        if node.domain.startswith(CONTRIB):
            raise UserError(
                f"{node.name or node.output!r} is a {node.op}, an onnxruntime operation that onnx does not define",
                "export the ONNX file from before onnxruntime's optimization, and calibrate that",
            )


def _is_plain(op: WeightedOp, graph: Graph) -> bool:
    """Return True if the operation is only x times W plus at most a constant bias, one number per channel."""
    attributes, channels = op.node.attributes, graph.constants[op.weight].shape[op.axis]
    is_scaled = any(attributes.get(factor, 1.0) != 1.0 for factor in ("alpha", "beta"))
    plain_bias = all(graph.is_constant(name) and graph.constants[name].size == channels for name in op.bias)
    return plain_bias and not is_scaled and not attributes.get("transA")


def _find_first_ops(
    start: Iterable[str], steps: Iterable[tuple[str, Collection[str], Collection[str]]], ops: Collection[str]
) -> frozenset[str]:
    """Return those of `ops` that are the first on a path from the tensors `start`.

    steps: (name of an operation, tensors that it reads, tensors that depend on it), in topological order.
    """
    reached, first = set(start), set()
    for name, before, after in steps:
        if reached.isdisjoint(before):
            continue
        if name in ops:
            first.add(name)
        else:
            reached.update(after)
    return frozenset(first)


def is_quantized(op: str, domain: str) -> bool:
    """Return True if an operation reads or returns quantized numbers, as both halves of a QDQ pair do."""
    return domain in DOMAINS and OPERATIONS.match(op) is not None
