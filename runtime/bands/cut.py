"""Cut a decoder at its normalisations into segments that can run in bands of rows.

GroupNorm needs the mean and the variance of all rows before it changes the first one. Between two of them each row
depends on a few rows around it. So a segment takes images, and for each GroupNorm a factor and a summand for each
channel; it runs band by band, and the statistics of what it returns are accumulated for the next segments. What comes
before the last operation of another kind, such as attention, is the head, and runs as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, gcd

import numpy as np

from fewstep.runtime.bands.group_norm import ImageNorm, find_group_norms
from fewstep.runtime.bands.onnx_file import FileNode, OnnxFile, Shape
from fewstep.runtime.bands.rows import ELEMENTWISE, Layout, row_rule

Operation = FileNode | ImageNorm
QUANTIZES = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Segment:
    """Operations that run band by band.

    constants: operations that make constants, such as weights in float of stored int8.
    units: parts of the image for each row of the latents; a band is a number of them.
    halo: units on each side of a band that are computed too, and dropped.
    margins: for bands inside the image, the rows on each side that each image has beyond the band, if convolutions pad
        no rows, so that nothing is computed twice. Empty if operands of an operation would differ in their rows.
    """

    operations: tuple[Operation, ...]
    constants: tuple[FileNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    units: int
    halo: int
    margins: Mapping[str, int]

    @property
    def norms(self) -> tuple[ImageNorm, ...]:
        """The GroupNorms whose factors and summands the segment takes."""
        return tuple(operation for operation in self.operations if isinstance(operation, ImageNorm))


@dataclass(frozen=True)
class DecoderParts:
    """A decoder in parts: the head, which returns `given`, then the segments in order. The head may be empty."""

    head: tuple[FileNode, ...]
    given: tuple[str, ...]
    segments: tuple[Segment, ...]
    layouts: Mapping[str, Layout]


@dataclass
class _Scan:
    """What one pass over the operations finds: images and their layouts, rows of halo by output, constants and their
    shapes, the elementwise operations that make constants, and those that need all rows."""

    layouts: dict[str, Layout]
    constants: dict[str, Shape]
    halos: dict[str, int] = field(default_factory=dict)
    makers: dict[str, FileNode] = field(default_factory=dict)
    others: list[Operation] = field(default_factory=list)


def cut(file: OnnxFile, latents: str, channels: int) -> DecoderParts | None:
    """Cut a decoder of latents [1, channels, H, W]; None if it has no part that can run in bands."""
    operations = find_group_norms(file)
    scan = _scan(file, operations, latents, channels)
    head = _ancestors(operations, scan)
    tail = [
        operation for operation in operations if operation.output not in head and operation.output not in scan.makers
    ]
    given = {latents, *head}
    reads = {name for operation in tail for name in operation.inputs if name in given}
    if not tail or any(name not in scan.layouts for name in (*file.outputs, *reads)):
        return None
    levels = _levels(tail, given, scan.constants)
    _delay(tail, levels, scan.constants)
    raw = tuple(node for operation in operations if operation.output in head for node in _nodes_of(operation))
    makers = tuple(scan.makers.values())
    segments = tuple(
        _segment(
            [operation for operation in tail if levels[operation.output] == level],
            tail,
            levels,
            level,
            file.outputs,
            scan,
        )
        for level in sorted(set(levels.values()))
    )
    return DecoderParts((*makers, *raw), tuple(sorted(reads - {latents})), segments, scan.layouts)


def _nodes_of(operation: Operation) -> tuple[FileNode, ...]:
    return operation.nodes if isinstance(operation, ImageNorm) else (operation,)


def _scan(file: OnnxFile, operations: Sequence[Operation], latents: str, channels: int) -> _Scan:
    shapes: dict[str, Shape] = {"": ()} | {name: weight.shape for name, weight in file.weights.items()}
    scan = _Scan({latents: Layout(channels, 1, 1)}, shapes)
    for operation in operations:
        if isinstance(operation, ImageNorm):
            if operation.x in scan.layouts and scan.layouts[operation.x].channels == operation.weight.size:
                scan.layouts[operation.output] = scan.layouts[operation.x]
            else:
                scan.others.append(operation)
        elif operation.op in ELEMENTWISE and all(name in scan.constants for name in operation.inputs):
            scan.makers[operation.output] = operation
            scan.constants[operation.output] = np.broadcast_shapes(*_shapes_of_operands(operation, scan.constants))
        elif (rule := row_rule(operation, file, scan.constants, scan.layouts)) is not None:
            scan.layouts[operation.output], scan.halos[operation.output] = rule.output, rule.halo
            for name in operation.inputs:
                if name not in scan.constants:
                    scan.layouts.setdefault(name, rule.output)
        else:
            scan.others.append(operation)
    return scan


def _shapes_of_operands(operation: FileNode, constants: Mapping[str, Shape]) -> list[Shape]:
    """Return the shapes that the result of an elementwise operation has together. Scales and zero points of integers
    are along one of its axes."""
    operands = operation.inputs[:1] if operation.op in QUANTIZES else operation.inputs
    return [constants[name] for name in operands]


def _ancestors(operations: Sequence[Operation], scan: _Scan) -> set[str]:
    """Return the outputs of all operations that need all rows, and of those whose results they read."""
    wanted = {name for node in scan.others for name in (*node.inputs, *node.outputs)}
    for operation in reversed(operations):
        if wanted & set(operation.outputs):
            wanted |= set(operation.inputs)
    return {
        operation.output
        for operation in operations
        if wanted & set(operation.outputs) and operation.output not in scan.makers
    }


def _levels(tail: Sequence[Operation], given: set[str], constants: Mapping[str, Shape]) -> dict[str, int]:
    """Return the number of the segment of each operation, by its output: the number of GroupNorms before it whose input
    another segment computes."""
    levels = dict.fromkeys(given, -1)
    for operation in tail:
        before = max((levels[name] for name in operation.inputs if name not in constants), default=-1)
        levels[operation.output] = before + 1 if isinstance(operation, ImageNorm) else max(before, 0)
    return {operation.output: levels[operation.output] for operation in tail}


def _delay(tail: Sequence[Operation], levels: dict[str, int], constants: Mapping[str, Shape]) -> None:
    """Move operations that only later segments read, such as the convolution around a block, to a segment that reads
    their inputs anyway. Their results then take the place of the inputs, and not memory of their own."""
    for operation in tail:
        own, output = levels[operation.output], operation.output
        readers = [other for other in tail if output in other.inputs]
        until = min((levels[other.output] for other in readers), default=own)
        if until <= own or any(isinstance(other, ImageNorm) for other in readers):
            continue
        images = [name for name in operation.inputs if name not in constants]
        places = [
            {levels[other.output] for other in tail if name in other.inputs and own < levels[other.output] <= until}
            for name in images
        ]
        if shared := set.intersection(*places):
            levels[output] = max(shared)


def _segment(
    operations: list[Operation],
    tail: Sequence[Operation],
    levels: Mapping[str, int],
    level: int,
    results: Sequence[str],
    scan: _Scan,
) -> Segment:
    made = dict.fromkeys(operation.output for operation in operations)
    read = dict.fromkeys(n for operation in operations for n in operation.inputs if n in scan.layouts and n not in made)
    later = {name for operation in tail if levels[operation.output] > level for name in operation.inputs} | set(results)
    units = gcd(*(scan.layouts[name].rows for name in (*read, *made)))
    constants = _makers(operations, scan.makers)
    outputs = tuple(name for name in made if name in later)
    halo, margins = _halo(operations, read, units, scan), _margins(operations, scan)
    return Segment(tuple(operations), constants, tuple(read), outputs, units, halo, margins)


def _halo(operations: Sequence[Operation], read: Iterable[str], units: int, scan: _Scan) -> int:
    """Return the units beyond a band that the results in it depend on."""
    need: dict[str, Fraction] = {}
    for operation in reversed(operations):
        own = need.get(operation.output, Fraction(0))
        for name in operation.inputs:
            if name in scan.layouts:
                halo = own + Fraction(scan.halos.get(operation.output, 0) * units, scan.layouts[name].rows)
                need[name] = max(need.get(name, halo), halo)
    return ceil(max((need[name] for name in read), default=Fraction(0)))


def _margins(operations: Sequence[Operation], scan: _Scan) -> dict[str, int]:
    """Return the rows beyond a band of each image if convolutions drop what they depend on (`Segment.margins`)."""
    margins: dict[str, int] = {}
    for operation in reversed(operations):  # the rows that are needed
        for name in (name for name in operation.inputs if name in scan.layouts):
            scale = scan.layouts[operation.output].rows // scan.layouts[name].rows
            needed = ceil(margins.get(operation.output, 0) / scale) + scan.halos.get(operation.output, 0)
            margins[name] = max(margins.get(name, 0), needed)
    for operation in operations:  # the rows that there are
        images = [name for name in operation.inputs if name in scan.layouts]
        if len({margins[name] for name in images}) > 1:
            return {}
        scale = scan.layouts[operation.output].rows // scan.layouts[images[0]].rows
        margins[operation.output] = margins[images[0]] * scale - scan.halos.get(operation.output, 0)
    return margins


def _makers(operations: Sequence[Operation], makers: Mapping[str, FileNode]) -> tuple[FileNode, ...]:
    """Return the operations that make the constants which some operations read, in order."""
    wanted = {name for operation in operations for name in operation.inputs}
    for name, node in reversed([*makers.items()]):
        if name in wanted:
            wanted |= set(node.inputs)
    return tuple(node for name, node in makers.items() if name in wanted)
