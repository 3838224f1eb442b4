"""Parse the batches and sizes for which an engine is built."""

import re
from collections.abc import Mapping, Sequence

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import GraphEntry, Size
from fewstep.runtime.kinds.sizes import infer_sizes as sizes_of_shape
from fewstep.runtime.kinds.sizes import resolve_dimension

BATCH = "batch"
USUAL_BATCH = 4  # the preferred batch by default
LARGEST = 10**9
IN_ORDER = "choose values with --min-batch <= --opt-batch <= --max-batch"
SHAPE = re.compile(r"\s*([^\s:,\[\]]+)\s*:\s*(?:\[([\d\s,]+)\]|(\d+(?:x\d+)*))\s*(?:,|$)", re.ASCII)
NUMBER = re.compile(r"\s*\d{1,9}\s*", re.ASCII)
FORMS = "write a number, or shapes such as x:4x1x28x28 or x:[4,1,28,28]"


def parse_sizes(text: str, graph: GraphEntry, option: str) -> dict[str, int]:
    """Parse the value of an option such as --opt-batch. Return the batch and the free sizes that it defines: {"batch":
    4, "height": 96}.

    The value is a number, for the batch, or a comma-separated list of input shapes as in trtexec or Polygraphy. Raises
    UserError if the shapes do not agree with the graph's fixed sizes.
    """
    if NUMBER.fullmatch(text):
        return {BATCH: int(text)}
    shapes = _shapes(text, option)
    inputs = {tensor.name: tensor.shape for tensor in graph.inputs}
    choices: dict[str, set[int]] = {BATCH: set()}
    for name, sizes in shapes.items():
        if name not in inputs:
            raise UserError(f"{option}: the graph has no input {name!r}", f"choose from {', '.join(inputs)}")
        shape = inputs[name]
        free_sizes = sizes_of_shape(shape, sizes)
        if len(sizes) != len(shape) or not all(map(_agrees, shape, sizes, [free_sizes] * len(shape))):
            free = sorted({size for size in shape if isinstance(size, str)} - {BATCH})
            fix = f"batch, {', '.join(free)} can be chosen" if free else "only the batch can be chosen"
            raise UserError(f"{option}: {name} is {list(shape)}, not {list(sizes)}", fix)
        for size, value in free_sizes.items():
            choices.setdefault(size, set()).add(value)
    for size, values in choices.items():
        if len(values) != 1:
            raise UserError(f"{option} {text!r} gives no {size}, or several", FORMS)
    return {size: values.pop() for size, values in choices.items()}


def parse_batch(text: str, graph: GraphEntry, sizes: Sequence[Size], x_shape: Sequence[int]) -> int:
    """Parse the batch of --opt-batch for a backend whose graphs take any batch."""
    return profile_of({}, parse_sizes(text, graph, "--opt-batch"), {}, sizes, x_shape)[BATCH][1]


def _agrees(dim: int | str, size: int, free_sizes: Mapping[str, int]) -> bool:
    """Return True if a size fits the graph's `dim`, or if `dim` depends on a size that is not known; the builder checks
    that later."""
    try:
        return resolve_dimension(dim, free_sizes) == size
    except KeyError:
        return True


def profile_of(
    least: Mapping[str, int],
    preferred: Mapping[str, int] | None,
    greatest: Mapping[str, int],
    sizes: Sequence[Size],
    x_shape: Sequence[int],
) -> dict[str, tuple[int, int, int]]:
    """Return the (smallest, preferred, largest) batch and sizes. By default, a size has its whole range, and the
    preferred value is the default of the size. The default preferred batch is USUAL_BATCH, or the nearest value between
    the other two."""
    ranges = {BATCH: (1, USUAL_BATCH, LARGEST, 1)}
    ranges |= {size.name: (size.low, size.default(x_shape), size.high, size.multiple) for size in sizes}
    profile = {}
    for name, (low, usual, high, multiple) in ranges.items():
        first, last = least.get(name, low), greatest.get(name, high)
        best = (preferred or {}).get(name, max(first, min(usual, last)))
        plural = "batches" if name == BATCH else f"{name}s"
        if not first <= best <= last or first < 1:
            raise UserError(f"{plural} {first}, {best}, {last} are not 1 <= min <= opt <= max", IN_ORDER)
        for value in (first, best, last):
            if not low <= value <= high or value % multiple:
                raise UserError(
                    f"an engine cannot have a {name} of {value}", f"choose multiples of {multiple} from {low} to {high}"
                )
        profile[name] = first, best, last
    return profile


def _shapes(text: str, option: str) -> dict[str, tuple[int, ...]]:
    shapes = {}
    at = 0
    while at < len(text):
        match = SHAPE.match(text, at)
        if match is None:
            raise UserError(f"{option} {text!r} is neither a number nor shapes", FORMS)
        name, listed, crossed = match.groups()
        sizes = re.findall(r"\d+", listed or crossed)
        if any(len(size) > 9 for size in sizes):
            raise UserError(f"{option}: a size of tensor {name} is too large", FORMS)
        shapes[name] = tuple(map(int, sizes))
        at = match.end()
    if not shapes:
        raise UserError(f"{option} is empty", FORMS)
    return shapes
