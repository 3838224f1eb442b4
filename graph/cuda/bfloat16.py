"""Write a bfloat16 graph with operations for which ONNX Runtime's CUDA provider has kernels of that type."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import BFLOAT16, onnx_type
from fewstep.graph.passes.half import make_cast
from fewstep.graph.types import Types
from fewstep.plans.errors import UserError

OPSET_OF_CONV = 22  # the first opset whose Conv takes bfloat16; the operations here are defined as in opset 20
# The operations that onnxruntime-gpu 1.31.1 opens in bfloat16 at this opset, as `python -m benchmarks.nvidia.provider`
# opens graphs. The provider has no bfloat16 kernel for GroupNorm, InstanceNormalization and channels-last convolutions.
_KERNELS = (
    "Abs Add Attention AveragePool Cast CastLike Concat Conv ConstantOfShape Cos Div Erf Exp Expand FastGelu Flatten "
    "Gather GatherElements GatherND Gelu Gemm HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization "
    "LpNormalization MatMul Max Min Mish Mod Mul MultiHeadAttention Neg Pow QuickGelu ReduceMean ReduceSum "
    "ReduceSumSquare Relu Reshape ScatterND Shape Sigmoid Sign SimplifiedLayerNormalization Sin "
    "SkipLayerNormalization Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu "
    "Unsqueeze Where"
)
KERNELS = frozenset(_KERNELS.split())
# Those with a kernel in float32 only.
_FLOAT32 = (
    "BatchNormalization Ceil Clip ConvTranspose CumSum DepthToSpace Einsum Equal Floor GlobalAveragePool "
    "GlobalMaxPool Greater GridSample LeakyRelu Less Log LogSoftmax PRelu Pad Reciprocal ReduceL2 ReduceMax ReduceMin "
    "Resize Round SpaceToDepth"
)
FLOAT32 = frozenset(_FLOAT32.split())


def bfloat16_form(graph: Graph, types: Types) -> Graph:
    """Rewrite a bfloat16 graph such that ONNX Runtime's CUDA provider runs all operations on the GPU.

        InstanceNormalization(x, S, B)    ==>    LayerNormalization(x, 1) * S + B
        f(x), if f is one of FLOAT32      ==>    Cast(f(Cast(x)))

    A LayerNormalization reads the channels of a group as one row, in the layout of the graph, so it needs no Transpose
    and no Cast. types: the dtypes and shapes of the graph's tensors.

    Raises UserError for an operation without a kernel, and for a norm over a free size.
    """
    new, nodes = NewNodes(graph), list[Node]()
    missing = set[str]()
    for node in graph.nodes:
        if node.op == "InstanceNormalization" and all(name in graph.constants for name in node.inputs[1:]):
            nodes += _layer_norm(node, graph, types, new)
        elif not any(_is_bfloat16(name, graph, types) for name in (*node.inputs, *node.outputs)):
            nodes.append(node)
        elif node.op in FLOAT32:
            nodes += _in_float32(node, graph, types, new)
        else:
            nodes.append(node)
            missing |= set() if node.op in KERNELS else {node.op}
    if missing:
        raise UserError(
            f"onnxruntime-cuda has no bfloat16 kernel for {', '.join(sorted(missing))}", "choose float16 or float32"
        )
    return replace(graph.with_nodes(nodes, new.constants), opset=OPSET_OF_CONV)


def _is_bfloat16(name: str, graph: Graph, types: Types) -> bool:
    """Return whether a tensor is known to be bfloat16. A tensor of unknown type belongs to an operation that supports
    bfloat16."""
    typed = graph.constants.get(name, types.values.get(name))
    return typed is not None and bool(typed.dtype == BFLOAT16)


def _in_float32(node: Node, graph: Graph, types: Types, new: NewNodes) -> list[Node]:
    """Return an operation in float32, between Casts of its bfloat16 inputs and outputs."""
    before, after = list[Node](), list[Node]()
    inputs, outputs = list(node.inputs), list(node.outputs)
    for place, name in enumerate(inputs):
        if _is_bfloat16(name, graph, types):
            inputs[place] = new.name(f"{name}_float32")
            before.append(make_cast(name, inputs[place], TensorProto.FLOAT))
    for place, name in enumerate(outputs):
        if _is_bfloat16(name, graph, types):
            outputs[place] = new.name(f"{name}_float32")
            after.append(make_cast(outputs[place], name, onnx_type(BFLOAT16)))
    return [*before, replace(node, inputs=tuple(inputs), outputs=tuple(outputs)), *after]


def _layer_norm(node: Node, graph: Graph, types: Types, new: NewNodes) -> list[Node]:
    """Return the nodes that replace an InstanceNormalization [B, C, ...]: each channel of a sample is one row."""
    shape = types.shape(node.inputs[0])
    sizes = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    if shape is None or len(sizes) < len(shape) - 2:
        raise UserError(
            f"onnxruntime-cuda has no bfloat16 kernel for {node.output}, a norm over a free size",
            "export with fixed sizes, or choose float16 or float32",
        )
    scale, shift = (graph.constants[name] for name in node.inputs[1:])
    ones = new.constant(f"ones_{'x'.join(map(str, sizes))}", np.ones(sizes, scale.dtype))
    steps = [(op, value) for op, value, rest in (("Mul", scale, 1), ("Add", shift, 0)) if (value != rest).any()]
    names = [*(new.name(f"{node.output}_{op}") for op, _ in steps), node.output]
    attributes = {"axis": 2, "epsilon": node.attributes.get("epsilon", 1e-5)}
    nodes = [Node("LayerNormalization", (node.inputs[0], ones), (names[0],), attributes, names[0])]
    for (op, value), name, result in zip(steps, names[:-1], names[1:], strict=True):
        column = new.constant(f"{result}_{op}_values", value.reshape(-1, *[1] * len(sizes)))
        nodes.append(Node(op, (name, column), (result,), name=result))
    return nodes
