"""GroupNorm (Wu and He 2018, arXiv 1803.08494) as a factor and a summand for each channel, from the statistics of all
rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.bands.onnx_file import FileNode, OnnxFile, make_node

FACTOR, SUMMAND = "factor of ", "summand of "  # prefixes of the inputs of a segment for a GroupNorm
DEFAULT_EPSILON = 1e-5

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class ImageNorm:
    """A GroupNorm of the image `x`: (x - mean) / sqrt(variance + epsilon) * weight + bias, with weight and bias [C].
    `nodes` compute it in the file."""

    x: str
    output: str
    groups: int
    epsilon: float
    weight: Float64
    bias: Float64
    nodes: tuple[FileNode, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.x,)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output,)

    @property
    def ports(self) -> tuple[str, str]:
        """The inputs of a segment for its factor and its summand."""
        return FACTOR + self.output, SUMMAND + self.output

    def apply_nodes(self) -> tuple[FileNode, FileNode]:
        """Return the nodes that compute it from its factor and its summand."""
        (factor, summand), scaled = self.ports, f"scaled {self.output}"
        return make_node("Mul", (self.x, factor), scaled), make_node("Add", (scaled, summand), self.output)

    def affine(self, statistics: "Statistics") -> dict[str, NDArray[np.float32]]:
        """Return the factor and the summand [1, C, 1, 1] by the names of their inputs."""
        mean, variance = statistics.by_group(self.groups)
        factor = self.weight / np.sqrt(variance + self.epsilon)
        both = (factor, self.bias - mean * factor)
        return {name: x.astype(np.float32).reshape(1, -1, 1, 1) for name, x in zip(self.ports, both, strict=True)}


@dataclass
class Statistics:
    """The mean and the sum of squared deviations of each channel, in float64, over the bands that were added."""

    count: int = 0
    mean: Float64 = field(default_factory=lambda: np.zeros(1))
    squares: Float64 = field(default_factory=lambda: np.zeros(1))

    def add(self, image: NDArray[np.float32]) -> None:
        """Add rows [C, rows, W] of an image (Chan, Golub and LeVeque 1979)."""
        rows = image.reshape(len(image), -1)
        count, mean = rows.shape[1], rows.mean(axis=1)
        centred = rows - mean[:, None]
        squares = np.einsum("ij,ij->i", centred, centred).astype(np.float64)
        total, step = self.count + count, mean.astype(np.float64) - self.mean
        self.squares = self.squares + squares + step**2 * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def by_group(self, groups: int) -> tuple[Float64, Float64]:
        """Return the mean and the variance [C] of the group of each channel."""
        means = self.mean.reshape(groups, -1)
        mean = means.mean(axis=1, keepdims=True)
        variance = self.squares.reshape(groups, -1).mean(axis=1, keepdims=True) / self.count
        variance = variance + ((means - mean) ** 2).mean(axis=1, keepdims=True)
        shape = means.shape
        return np.broadcast_to(mean, shape).reshape(-1), np.broadcast_to(variance, shape).reshape(-1)


def find_group_norms(file: OnnxFile) -> list[FileNode | ImageNorm]:
    """Return the operations of a file, with each GroupNorm of an image as one:

    Add(Mul(Reshape(InstanceNormalization(Reshape(x, [0, groups, -1])), [0, C, H, W]), weight), bias)

    With free sizes, Shape(x) is in place of [0, C, H, W]. In int8 graphs a BatchNormalization is in place of Mul and
    Add, or nothing where they changed nothing.
    """
    readers: dict[str, list[FileNode]] = {}
    for node in file.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    shapes = {node.output: node for node in file.nodes if node.op == "Shape"}
    members: dict[str, ImageNorm | None] = {}
    for node in file.nodes:
        if node.op == "Reshape" and (norm := _match(node, file, readers, shapes)) is not None:
            members |= {inner.outputs[0]: None for inner in norm.nodes} | {norm.output: norm}
    return list(_replace(file.nodes, members))


def _replace(nodes: Sequence[FileNode], members: Mapping[str, ImageNorm | None]) -> Iterator[FileNode | ImageNorm]:
    for node in nodes:
        if not node.outputs or node.output not in members:
            yield node
        elif (norm := members[node.output]) is not None:
            yield norm


def _match(
    before: FileNode, file: OnnxFile, readers: Mapping[str, Sequence[FileNode]], shapes: Mapping[str, FileNode]
) -> ImageNorm | None:
    chain = [before]
    for op in ("InstanceNormalization", "Reshape"):
        following = readers.get(chain[-1].output, ())
        if len(following) != 1 or following[0].op != op or following[0].inputs[0] != chain[-1].output:
            return None
        chain.append(following[0])
    _, norm, joined = chain
    split, own, shift = (_constant(file, node.inputs[place]) for node, place in ((before, 1), (norm, 1), (norm, 2)))
    if split is None or own is None or shift is None or split.size != 3:
        return None
    affine = _match_affine(joined, file, readers)
    if affine is None or int(split[0]) not in (0, 1) or int(split[1]) != own.size or len(affine.weight) % own.size:
        return None
    chain += affine.nodes
    epsilon = norm.attributes.get("epsilon", DEFAULT_EPSILON)
    shape = shapes.get(joined.inputs[1])
    if shape is not None and shape.inputs == before.inputs[:1] and readers[shape.output] == [joined]:
        chain.insert(0, shape)
    width = len(affine.weight) // own.size
    scale = affine.weight * np.repeat(own, width)
    offset = affine.weight * np.repeat(shift, width) + affine.bias
    assert isinstance(epsilon, float), "it is a float in ONNX"
    return ImageNorm(before.inputs[0], chain[-1].output, own.size, epsilon, scale, offset, tuple(chain))


@dataclass(frozen=True)
class _Affine:
    """A weight and a bias [C] after a normalization, and the nodes that apply them."""

    weight: Float64
    bias: Float64
    nodes: tuple[FileNode, ...] = ()


def _match_affine(joined: FileNode, file: OnnxFile, readers: Mapping[str, Sequence[FileNode]]) -> _Affine | None:
    """Return the weight and the bias that follow a normalized image: of Mul and Add, of BatchNormalization, or 1 and 0.
    None if the number of channels is not known."""

    def only_reader(node: FileNode, op: str) -> FileNode | None:
        following = readers.get(node.output, ())
        is_only = len(following) == 1 and following[0].op == op and following[0].inputs[0] == node.output
        return following[0] if is_only else None

    if (product := only_reader(joined, "Mul")) is not None and (total := only_reader(product, "Add")) is not None:
        weight, bias = _constant(file, product.inputs[1]), _constant(file, total.inputs[1])
        if weight is not None and bias is not None and weight.shape == bias.shape and weight.shape[1:] == (1, 1):
            return _Affine(weight.ravel(), bias.ravel(), (product, total))
    if (norm := only_reader(joined, "BatchNormalization")) is not None:
        constants = [_constant(file, name) for name in norm.inputs[1:]]
        epsilon = norm.attributes.get("epsilon", DEFAULT_EPSILON)
        if isinstance(epsilon, float) and all(constant is not None for constant in constants):
            scale, shift, mean, variance = (constant for constant in constants if constant is not None)
            weight = scale / np.sqrt(variance + epsilon)
            return _Affine(weight, shift - mean * weight, (norm,))
    shape = _constant(file, joined.inputs[1])
    if shape is None or shape.size != 4 or shape[1] < 1:
        return None
    channels = int(shape[1])
    return _Affine(np.ones(channels), np.zeros(channels))


def _constant(file: OnnxFile, name: str) -> Float64 | None:
    """Return a small constant in float64, or None."""
    array = file.array(name) if name in file.weights else None
    return None if array is None else array.astype(np.float64)
