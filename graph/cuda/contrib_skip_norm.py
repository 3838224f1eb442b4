"""Add a residual and a convolution's bias in the kernel of the GroupNorm that reads their sum."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from fewstep.graph.graph import Node


@dataclass(frozen=True)
class _Links:
    """For each tensor of some nodes, the node that computes it and the nodes that read it."""

    producers: Mapping[str, Node]
    readers: Mapping[str, Sequence[Node]]

    def only_reader(self, name: str) -> bool:
        """Return True if exactly one node reads a tensor, once."""
        return len(self.readers.get(name, ())) == 1


def fuse_skips(nodes: Sequence[Node], sums: Collection[str]) -> list[Node]:
    """Write each GroupNorm of a sum as a SkipGroupNorm of com.microsoft, which also returns the sum.

        s = Add(Transpose(Conv(x, W, b)), skip), y = GroupNorm(s)
            ==>      y, s = SkipGroupNorm(Transpose(Conv(x, W)), skip, b)

    sums: the tensors with channels last that are sums of two tensors of their own shape. If several norms read a sum,
    the first computes it.
    """
    links = _links(nodes)
    norms: dict[str, Node] = {}
    for node in nodes:
        if node.op == "GroupNorm" and node.inputs[0] in sums:
            norms.setdefault(node.inputs[0], node)
    without_bias: set[str] = set()
    fused: dict[str, Node] = {}  # by the sum
    for name, norm in norms.items():
        value, skip = links.producers[name].inputs
        if _convolution(skip, links) is not None and _convolution(value, links) is None:
            value, skip = skip, value
        convolution = _convolution(value, links)
        bias = () if convolution is None else (convolution.inputs[2],)
        without_bias.update(() if convolution is None else convolution.outputs)
        outputs = (norm.output,) if links.only_reader(name) else (norm.output, name)
        inputs = (value, *norm.inputs[1:], skip, *bias)
        fused[name] = replace(norm, op="SkipGroupNorm", inputs=inputs, outputs=outputs)
    gone = {norm.output for norm in norms.values()}
    kept = (fused.get(node.output, node) for node in nodes if node.output not in gone)
    return [replace(node, inputs=node.inputs[:2]) if node.output in without_bias else node for node in kept]


def _links(nodes: Sequence[Node]) -> _Links:
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    return _Links({name: node for node in nodes for name in node.outputs}, readers)


def _convolution(name: str, links: _Links) -> Node | None:
    """Return the convolution with a bias whose transposed output is the tensor `name`, if nothing else reads the output
    or the tensor. Otherwise return None."""
    turned = links.producers.get(name)
    if turned is None or turned.op != "Transpose" or not links.only_reader(name):
        return None
    node = links.producers.get(turned.inputs[0])
    is_biased = node is not None and node.op == "Conv" and len(node.inputs) > 2 and links.only_reader(turned.inputs[0])
    return node if is_biased else None
