"""The batches that an engine is built for, as a user writes them."""

import re

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Graph

SHAPE = re.compile(r"\s*([^\s:,\[\]]+)\s*:\s*(?:\[([\d\s,]+)\]|(\d+(?:x\d+)*))\s*(?:,|$)", re.ASCII)
NUMBER = re.compile(r"\s*\d{1,9}\s*", re.ASCII)
FORMS = "write a number, or shapes such as x:4x1x28x28 or x:[4,1,28,28]"


def batch_of(text: str, graph: Graph, option: str) -> int:
    """The batch that `text` means: a number, or shapes of inputs, in trtexec's or polygraphy's form, with commas.

    A graph has one dynamic axis, the leading one of its inputs; a shape must have it, and agree in the others.
    """
    if NUMBER.fullmatch(text):
        return int(text)
    shapes = _shapes(text, option)
    known = {tensor.name: tensor.shape for tensor in graph.inputs}
    batches = set()
    for name, sizes in shapes.items():
        if name not in known:
            raise UserError(f"{option}: the graph has no input {name!r}", f"choose from {', '.join(known)}")
        shape = known[name]
        if len(sizes) != len(shape) or any(b != "batch" and a != b for a, b in zip(sizes, shape, strict=True)):
            raise UserError(f"{option}: {name} is {list(shape)}, not {list(sizes)}", "only the batch can be chosen")
        batches |= {size for size, own in zip(sizes, shape, strict=True) if own == "batch"}
    if len(batches) != 1:
        raise UserError(f"{option} {text!r} means no single batch", FORMS)
    return batches.pop()


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
            raise UserError(f"{option}: no tensor {name} is that large", FORMS)
        shapes[name] = tuple(map(int, sizes))
        at = match.end()
    if not shapes:
        raise UserError(f"{option} is empty", FORMS)
    return shapes
