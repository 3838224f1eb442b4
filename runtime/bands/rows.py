"""What operations do to the rows of an image [1, C, H, W]: which rows of its inputs a row of the output depends on."""

from collections.abc import Mapping
from dataclasses import dataclass

from fewstep.runtime.bands.onnx_file import FileNode, OnnxFile, Shape

ROW_AXIS = -2
FLOAT = 1  # ONNX's number of float32
ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "Elu", "Erf", "Exp", "Gelu"),
        *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow"),
        *("QuantizeLinear", "QuickGelu", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"),
    }
)
CONVOLUTIONS: Mapping[str, int] = {"Conv": 1, "QLinearConv": 3}  # the place of the weights among the inputs


@dataclass(frozen=True)
class Layout:
    """Channels of an image, and its rows and columns for each row and column of the latents."""

    channels: int
    rows: int
    columns: int


@dataclass(frozen=True)
class RowRule:
    """An operation whose output rows depend on nearby rows of its inputs: `halo` rows on each side. `output` is the
    layout of what it returns."""

    output: Layout
    halo: int = 0


def row_rule(
    node: FileNode, file: OnnxFile, constants: Mapping[str, Shape], layouts: Mapping[str, Layout]
) -> RowRule | None:
    """Return the rule of an operation, from the layouts of images and the shapes of constants. None for an operation
    that needs all rows, or that is not known."""
    if len(node.outputs) != 1 or not node.inputs:
        return None
    if node.op in ELEMENTWISE:
        return _elementwise(node, constants, layouts)
    layout = layouts.get(node.inputs[0])
    if layout is None or any(name not in constants for name in node.inputs[1:]):
        return None
    if node.op in CONVOLUTIONS:
        return _convolution(node, constants[node.inputs[CONVOLUTIONS[node.op]]], layout)
    if node.op == "Resize":
        return _resize(node, file, layout)
    return RowRule(layout) if _takes_one_sample(node, file) else None


def _elementwise(node: FileNode, constants: Mapping[str, Shape], layouts: Mapping[str, Layout]) -> RowRule | None:
    """Operands are images of one size, or constants that are equal in all rows. An operand whose shape is not known, as
    the output of attention, has that of the other: a run checks it. Images stay float32, which statistics need."""
    if node.op == "Cast" and node.attributes.get("to") != FLOAT:
        return None
    images = {layouts[name] for name in node.inputs if name in layouts}
    if len(images) != 1:
        return None
    shapes = [constants[name] for name in node.inputs if name in constants]
    if any(len(shape) > 1 and shape[ROW_AXIS] != 1 for shape in shapes):
        return None
    return RowRule(images.pop())


def _convolution(node: FileNode, weights: Shape, layout: Layout) -> RowRule | None:
    """Its padding keeps the size and is the same above and below, and its stride is 1."""
    channels, _, *kernel = weights
    if len(kernel) != 2:
        return None
    dilations, pads = _attribute(node, "dilations", (1, 1)), _attribute(node, "pads", (0, 0, 0, 0))
    reach = [step * (size - 1) for step, size in zip(dilations, kernel, strict=True)]
    same = [before + after for before, after in zip(pads[:2], pads[2:], strict=True)]
    is_plain = _attribute(node, "strides", (1, 1)) == (1, 1) and node.attributes.get("auto_pad", "NOTSET") == "NOTSET"
    if reach != same or pads[0] != pads[2] or not is_plain:
        return None
    return RowRule(Layout(channels, layout.rows, layout.columns), pads[0])


def _resize(node: FileNode, file: OnnxFile, layout: Layout) -> RowRule | None:
    """Each pixel is repeated."""
    modes = (node.attributes.get("mode", "nearest"), node.attributes.get("nearest_mode", "round_prefer_floor"))
    scales = file.array(node.inputs[2]) if len(node.inputs) == 3 and node.inputs[2] in file.weights else None
    at_corner = node.attributes.get("coordinate_transformation_mode", "half_pixel") == "asymmetric"
    if modes != ("nearest", "floor") or not at_corner or scales is None or scales.shape != (4,):
        return None
    whole = [int(scale) for scale in scales]
    if (scales != whole).any() or whole[:2] != [1, 1] or min(whole) < 1:
        return None
    return RowRule(Layout(layout.channels, layout.rows * whole[2], layout.columns * whole[3]))


def _takes_one_sample(node: FileNode, file: OnnxFile) -> bool:
    """Return whether an operation takes the first sample out of its batch, or puts a sample into one. Decoders that
    were traced from a pipeline's call do so around the last operations, and bands have one sample."""
    if node.op not in ("Gather", "Unsqueeze") or node.attributes.get("axis", 0) != 0:
        return False
    place = file.array(node.inputs[1]) if len(node.inputs) == 2 and node.inputs[1] in file.weights else None
    return place is not None and place.size == 1 and not place.any()


def _attribute(node: FileNode, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = node.attributes.get(name, default)
    return value if isinstance(value, tuple) else default
