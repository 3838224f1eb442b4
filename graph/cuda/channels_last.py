"""Keep images with their channels last, and write GroupNorm as the kernel that needs this layout.

A sequence [B, C, L] is an image with one row: [B, C, 1, L], and [B, 1, L, C] with its channels last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.cuda.contrib_norm import GroupNorm, find_group_norms
from fewstep.graph.cuda.contrib_skip_norm import fuse_skips
from fewstep.graph.graph import Array, Graph, Node, rename_inputs
from fewstep.graph.index import Index, index
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.selection import CONTRIB
from fewstep.graph.types import Types

LAST: dict[str, Any] = {"perm": [0, 2, 3, 1]}  # channels first to channels last
FIRST: dict[str, Any] = {"perm": [0, 3, 1, 2]}
ELEMENTWISE = (
    *("Abs", "Add", "Cast", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *("Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
)


def channels_last(graph: Graph, types: Types) -> Graph:
    """Compute images and sequences with channels last, from the first convolution to the last.

        GroupNorm as exported, with affine map and SiLU    ==>    GroupNorm of com.microsoft
        GroupNorm of a sum                                 ==>    SkipGroupNorm of com.microsoft
        Conv(x, W) + b                                     ==>    Transpose(Conv(Transpose(x), W, b))
        f(x)                                               ==>    f of channels last, for f without axes

    For a provider with channels-last convolutions, onnxruntime adds a Transpose before and after each convolution. The
    Transposes written here are their inverses, so onnxruntime removes both. Elsewhere a Transpose is added only where
    an operation needs channels first. Values do not change, except by the rounding of GroupNorm. A graph is returned
    unchanged if the provider has a kernel for none of its GroupNorms. `types` are those of the graph's tensors; tensors
    without a type keep their layout.
    """
    idx = index(graph)
    norms = find_group_norms(graph, idx, types)
    if not norms:
        return graph
    layout = _Layout(graph, idx, types, NewNodes(graph), norms)
    layout.convert()
    outputs = {value.name for value in graph.outputs}
    nodes = fuse_skips([rename_inputs(node, layout.equal) for node in layout.nodes], layout.sums - outputs)
    return drop_unused(graph.with_nodes(nodes, layout.new.constants))


@dataclass(frozen=True)
class _Layout:
    """Converts a graph to channels-last layout, node by node.

    last: for each tensor that exists in channels-last layout, its name there.
    written: the tensors that exist under their original names.
    skipped: outputs of nodes that are computed as part of another node.
    tokens: tensors [B, C, n] that only Transposes read, and for each the image that it was reshaped from.
    equal: for a tensor, another one with the same elements and axes.
    sums: channels-last tensors that are sums of two tensors of their shape.
    """

    graph: Graph
    idx: Index
    types: Types
    new: NewNodes
    norms: Mapping[str, GroupNorm]
    nodes: list[Node] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)
    equal: dict[str, str] = field(default_factory=dict)
    sums: set[str] = field(default_factory=set)

    def convert(self) -> None:
        """Convert all nodes, and write the graph's outputs with channels first."""
        self.written.update(value.name for value in (*self.graph.inputs, *self.graph.optional))
        self.written.update(self.graph.constants)
        for node in self.graph.nodes:
            if not self.skipped.isdisjoint(node.outputs):
                continue
            if not self._convert(node):
                for name in filter(None, node.inputs):
                    self.first_name(name)
                self.nodes.append(node)
                self.written.update(node.outputs)
        for value in self.graph.outputs:
            self.first_name(value.name)

    def _convert(self, node: Node) -> bool:
        """Add a node in channels-last layout. Return False for a node that stays as it is."""
        if node.output in self.norms:
            self._norm(self.norms[node.output])
            return True
        if node.domain:
            return False
        if node.op in ELEMENTWISE:
            return self._elementwise(node)
        convert: Callable[[Node], bool] | None = {
            "Conv": self._convolution,
            "Concat": self._concat,
            "Resize": self._resize,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
        }.get(node.op)
        return convert is not None and convert(node)

    def first_name(self, name: str) -> str:
        """Return the name of a tensor in its original layout. If it exists only with channels last, a Transpose is
        added."""
        if name not in self.written:
            rank = self.types.rank(name)
            turned = name if rank == 4 else self.new.name(f"{name}_first")
            self.nodes.append(Node("Transpose", (self.last[name],), (turned,), FIRST, f"{name}_first"))
            if rank == 3:
                self.nodes.append(Node("Squeeze", (turned, self._row_axis()), (name,), name=f"{name}_row"))
            self.written.add(name)
        return name

    def last_name(self, name: str) -> str:
        """Return the name of a tensor of images or sequences with channels last. If it does not exist, a Transpose is
        added."""
        if name not in self.last:
            image = name
            if self.types.rank(name) == 3:
                image = self.new.name(f"{name}_image")
                self.nodes.append(Node("Unsqueeze", (name, self._row_axis()), (image,), name=image))
            self.last[name] = self.new.name(f"{name}_last")
            self.nodes.append(Node("Transpose", (image,), (self.last[name],), LAST, self.last[name]))
        return self.last[name]

    def _row_axis(self) -> str:
        return self.new.constant("axis_of_rows", np.array([2], np.int64))

    def _add(self, node: Node, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None) -> None:
        """Add a node that computes the output of `node` in channels-last layout."""
        result = self.new.name(f"{node.output}_last")
        kept = node.attributes if attributes is None else attributes
        self.nodes.append(replace(node, inputs=tuple(inputs), outputs=(result,), attributes=kept))
        self.last[node.output] = result

    def _norm(self, norm: GroupNorm) -> None:
        gamma, beta = (self.new.constant(f"{norm.output}_{name}", np.ascontiguousarray(getattr(norm, name)))
                       for name in ("gamma", "beta"))  # fmt: skip
        attributes = {
            "activation": int(norm.silu),
            "channels_last": 1,
            "epsilon": norm.epsilon,
            "groups": norm.groups,
        }
        result = self.new.name(f"{norm.output}_last")
        inputs = (self.last_name(norm.x), gamma, beta)
        self.nodes.append(Node("GroupNorm", inputs, (result,), attributes, result, CONTRIB))
        self.last[norm.output] = result
        self.skipped.update(norm.nodes)

    def _convolution(self, node: Node) -> bool:
        """Add a convolution of images in channels-last layout, with Transposes around it, and with the bias that an Add
        after it adds. Return False for any other convolution."""
        weight = self.graph.constants.get(node.inputs[1])
        if weight is None or weight.ndim not in (3, 4) or self.types.rank(node.output) != weight.ndim:
            return False
        if weight.ndim == 3 and node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            return False
        inputs, output = list(node.inputs[1:]), node.output
        sum_ = self._bias_after(node)
        if sum_ is not None:
            bias, output = sum_[1], sum_[0].output
            inputs.append(self.new.constant(f"{output}_channels", bias.astype(weight.dtype)))
            self.skipped.add(output)
        attributes = dict(node.attributes)
        if weight.ndim == 3:
            inputs[0] = self.new.constant(f"{inputs[0]}_image", weight[:, :, None, :])
            attributes = _image_attributes(attributes)
        image = self._image(node.inputs[0])
        product, result = self.new.name(f"{output}_first"), self.new.name(f"{output}_last")
        self.nodes.append(replace(node, inputs=(image, *inputs), outputs=(product,), attributes=attributes))
        self.nodes.append(Node("Transpose", (product,), (result,), LAST, result))
        self.last[output] = result
        return True

    def _image(self, name: str) -> str:
        """Return the name of a tensor [B, C, H, W] that a convolution can read. If it does not exist, a Transpose is
        added."""
        if name in self.last:
            turned = self.new.name(f"{name}_read")
            self.nodes.append(Node("Transpose", (self.last[name],), (turned,), FIRST, turned))
            return turned
        if self.types.rank(name) == 4:
            return name
        image = self.new.name(f"{name}_image")
        self.nodes.append(Node("Unsqueeze", (name, self._row_axis()), (image,), name=image))
        return image

    def _bias_after(self, node: Node) -> tuple[Node, Array] | None:
        """Return the Add of a per-channel constant, and the constant [C], if it is the only reader of a convolution
        without a bias. Otherwise return None."""
        if len(node.inputs) > 2 or not self.idx.is_inner(node.output):
            return None
        (reader,) = self.idx.consumers[node.output]
        weight = self.graph.constants[node.inputs[1]]
        if reader.op != "Add" or reader.domain:
            return None
        other = reader.inputs[1] if reader.inputs[0] == node.output else reader.inputs[0]
        bias = self.graph.constants.get(other)
        if bias is None or bias.shape[-weight.ndim + 1 :] != (weight.shape[0], *[1] * (weight.ndim - 2)):
            return None
        return (reader, bias.reshape(-1)) if bias.size == weight.shape[0] and bias.ndim <= weight.ndim else None

    def _elementwise(self, node: Node) -> bool:
        """Add an elementwise operation in channels-last layout. Return False, and add nothing, if no operand has that
        layout, or if one cannot be converted to it."""
        rank, result = self.types.rank(node.output), self.types.shape(node.output)
        if rank not in (3, 4) or not any(self._is_last(name, result) for name in node.inputs):
            return False
        if not all(self._may_turn(name, result) for name in node.inputs):
            return False
        self._add(node, [self._turn(name, result) for name in node.inputs])
        is_known = result is not None and "?" not in result
        if node.op == "Add" and is_known and all(self.types.shape(name) == result for name in node.inputs):
            self.sums.add(self.last[node.output])
        return True

    def _is_last(self, name: str, result: tuple[int | str, ...] | None) -> bool:
        return name in self.last and self.types.shape(name) == result

    def _shape(self, name: str) -> tuple[int | str, ...] | None:
        constant = self.graph.constants.get(name)
        return self.types.shape(name) if constant is None else constant.shape

    def _may_turn(self, name: str, result: tuple[int | str, ...] | None) -> bool:
        """Return whether an operand can be read with channels last: a constant, a scalar, a tensor of the result's
        shape (converted by a Transpose if needed), or a tensor with one value per channel (converted by a Reshape)."""
        shape = self._shape(name)
        if shape is None or result is None or len(shape) > len(result):
            return False
        if name in self.graph.constants or shape == result or not shape:
            return True
        return len(shape) == len(result) and all(size == 1 for size in shape[2:])

    def _turn(self, name: str, result: tuple[int | str, ...] | None) -> str:
        """Return the name of an operand in channels-last layout. It is converted if it does not have that layout
        yet."""
        shape, constant = self._shape(name), self.graph.constants.get(name)
        assert shape is not None and result is not None, "_may_turn has seen them"
        if not shape:
            return name
        if constant is not None:
            if constant.size == 1:
                return self.new.constant(f"{name}_number", constant.reshape(()))
            whole = constant.reshape((1,) * (len(result) - constant.ndim) + constant.shape)
            image = whole if whole.ndim == 4 else whole[:, :, None, :]
            return self.new.constant(f"{name}_last", np.ascontiguousarray(image.transpose(LAST["perm"])))
        if shape == result or name in self.last:
            return self.last_name(name)
        row = self.new.name(f"{name}_last")  # [B, C, 1, ...]: its elements stay in their order
        self.nodes.append(Node("Reshape", (name, self.new.shape([0, 1, 1, -1])), (row,), name=row))
        self.last[name] = row
        return row

    def _concat(self, node: Node) -> bool:
        rank = self.types.rank(node.output)
        axis = node.attributes["axis"] % (rank or 1)
        if rank not in (3, 4) or not any(name in self.last for name in node.inputs) or axis == 0:
            return False
        places = {1: 3, 2: 1, 3: 2} if rank == 4 else {1: 3, 2: 2}
        self._add(node, [self.last_name(name) for name in node.inputs], {"axis": places[axis]})
        return True

    def _resize(self, node: Node) -> bool:
        """Add a nearest-neighbor Resize with constant scales or sizes, in channels-last layout. Return False, and add
        nothing, if `node` is any other Resize."""
        if node.inputs[0] not in self.last or node.attributes.get("mode", b"nearest") != b"nearest":
            return False
        if node.attributes.get("axes") or (len(node.inputs) > 1 and node.inputs[1]):
            return False
        inputs = [self.last[node.inputs[0]], ""]
        for name in node.inputs[2:]:
            constant = self.graph.constants.get(name)
            if name and constant is None:
                return False
            if constant is not None and constant.size:  # an empty constant is an omitted input
                whole = constant if constant.size == 4 else np.insert(constant, 2, 1)
                inputs.append(self.new.constant(f"{name}_last", whole[LAST["perm"]]))
            else:
                inputs.append("")
        self._add(node, inputs)
        return True

    def _reshape(self, node: Node) -> bool:
        """Add a Reshape from tokens to an image in channels-last layout; return False for any other Reshape. A Reshape
        from an image to tokens is added later, if only Transposes read it."""
        name, output = node.inputs[0], node.output
        before, after = self.types.shape(name), self.types.shape(output)
        if name not in self.last or not before or not after or before[:2] != after[:2] or "?" in before[:2]:
            return False
        if (len(before), len(after)) == (4, 3):
            readers = self.idx.consumers.get(output, ())
            if output in self.idx.outputs or not isinstance(before[1], int) or not all(map(_swaps, readers)):
                return False
            self.tokens[output] = name
            return True
        sizes = [size if isinstance(size, int) else -1 for size in (*after[2:], after[1])]
        if (len(before), len(after)) != (3, 4) or sizes.count(-1) > 1 or 0 in sizes:
            return False
        shape = self.new.constant(f"{output}_shape", np.array([0, *sizes], np.int64))
        self._add(node, [self.last[name], shape], {})
        return True

    def _transpose(self, node: Node) -> bool:
        """Replace a Transpose between the two layouts by a renaming, because the channels-last tensor is already there.
        Return False, and add nothing, for any other Transpose."""
        name, output, perm = node.inputs[0], node.output, list(node.attributes.get("perm", ()))
        if perm == FIRST["perm"] and self.types.rank(output) == 4:
            self.last[output] = self.first_name(name)
        elif perm == LAST["perm"] and name in self.last and output not in self.idx.outputs:
            source = self.last[name]
            self.equal[output] = self.equal.get(source, source)
            self.written.add(output)
        elif perm == [0, 2, 1]:
            return self._tokens(node, name, output)
        else:
            return False
        return True

    def _tokens(self, node: Node, name: str, output: str) -> bool:
        """Replace a Transpose by a view: from a channels-first image to tokens [B, n, C], or from tokens to a sequence
        that later nodes read as an image. Return False for any other Transpose."""
        if name in self.tokens:
            shape = self._shape(self.tokens[name])
            assert shape is not None, "it has four axes"
            sizes = self.new.constant(f"{output}_shape", np.array([0, -1, shape[1]], np.int64))
            self.nodes.append(Node("Reshape", (self.last[self.tokens[name]], sizes), (output,), name=node.name))
            self.written.add(output)
            return True
        row = self.new.constant("axis_of_rows_last", np.array([1], np.int64))
        if name in self.last:
            self.nodes.append(Node("Squeeze", (self.last[name], row), (output,), name=node.name))
            self.written.add(output)
            return True
        if not any(self._reads_images(reader, output) for reader in self.idx.consumers.get(output, ())):
            return False
        self.last[output] = self.new.name(f"{output}_last")
        self.nodes.append(Node("Unsqueeze", (self.first_name(name), row), (self.last[output],), name=node.name))
        return True

    def _reads_images(self, node: Node, name: str) -> bool:
        """Return True if a node interprets a sequence [B, C, n] as an image."""
        return (
            node.op == "Conv" or node.output in self.norms or node.op == "Reshape" and self.types.rank(node.output) == 4
        )


def _swaps(node: Node) -> bool:
    """Return True for a Transpose of the last two of three axes."""
    return node.op == "Transpose" and not node.domain and list(node.attributes.get("perm", ())) == [0, 2, 1]


def _image_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a convolution of sequences for images with one row."""
    changed = dict(attributes)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in changed:
            changed[name] = [1, *changed[name]]
    if "pads" in changed:
        before, after = changed["pads"]
        changed["pads"] = [0, before, 0, after]
    return changed
