"""What a pipeline computes from its texts: rules by which a condition of the denoiser, or an input of a text encoder,
follows from outputs of encoders, from token ids and from their mask.

The rules are found by their values. Those of one recording show where each element comes from; all others check it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.recording.element_map import is_close
from fewstep.pipelines.relations.output_sums import Output
from fewstep.pipelines.relations.picture_rules import EmbeddedIds, PicturePositions
from fewstep.pipelines.relations.text_forms import FoundTokens, TextError
from fewstep.runtime.token_ids import TokenIds

MOST_BLOCKS = 64  # of one condition
FEWEST = 4  # elements of a block: fewer could be equal by chance


@dataclass(frozen=True)
class EncoderOutput:
    """An output of an encoder, as rows of features: one row for each token, or a single one."""

    encoder: int
    path: Output


@dataclass(frozen=True)
class OutputBlock:
    """A box of an output, (row, column) and (rows, columns), at `place` of the target.

    mask: the encoder for whose padding rows are zeros; None if none are.
    """

    source: EncoderOutput
    start: tuple[int, int]
    size: tuple[int, int]
    place: tuple[int, int]
    mask: int | None = None

    def read(self, rows: Tensor) -> Tensor:
        """Return the box of an output [..., rows, columns]."""
        (row, column), (height, width) = self.start, self.size
        return rows[..., row : row + height, column : column + width]


@dataclass(frozen=True)
class BlockGrid:
    """A value of a sample of this shape, which is a grid (rows, columns) of blocks, and zero elsewhere.

    layers: number of parts of the columns that alternate in the value: its column 1 is the first one of the second
        part.
    """

    shape: tuple[int, ...]
    grid: tuple[int, int]
    blocks: tuple[OutputBlock, ...]
    layers: int = 1

    def place(self, value: Tensor) -> Tensor:
        """Return a value [*shape] as the grid of its blocks."""
        return value.reshape(-1, self.grid[1]) if self.layers == 1 else _separate(value, self.layers)


@dataclass(frozen=True)
class TokenMask:
    """A mask of the token ids of an encoder, in the elements `start` to `stop` of a flattened value of one sample:
    `valid` for ids of the text, `padding` for others. Element number `shift`, which may be negative, is that of the
    first id. `rest` has the other elements, which are the same for all texts. Elements of ids that all recorded texts
    have are part of the mask too, since a prompt may be shorter than these texts."""

    encoder: int
    shift: int
    start: int
    stop: int
    valid: float
    padding: float
    rest: Tensor


@dataclass(frozen=True)
class IdsOfText:
    """The token ids of an encoder."""

    encoder: int


@dataclass(frozen=True)
class TokenPositions:
    """The number of ids of the text before each id of an encoder, as [axes, batch, length]. `padding` is the position
    of padding; None if it is that of the id before it, at least 0."""

    encoder: int
    axes: int
    padding: int | None


@dataclass(frozen=True)
class Constant:
    """A value of one sample, or of all samples if it has no rows."""

    value: Tensor
    has_rows: bool


Rule = BlockGrid | TokenMask | TokenPositions | IdsOfText | Constant | EmbeddedIds | PicturePositions


@dataclass(frozen=True)
class EncoderCall:
    """A call of a network before the denoiser.

    inputs: the rules of its arguments that are tensors. options: its other arguments.
    tokens: the token ids that it takes; None for a network that takes outputs of others.
    adds_mask: its pipeline gives it neither padding nor a mask, and the bundle gives it both.
    """

    component: str
    entry: str
    inputs: Mapping[str, Rule]
    options: Mapping[str, Any]
    tokens: FoundTokens | None
    adds_mask: bool = False


def as_rows(output: Tensor) -> Tensor:
    """Return an output [batch, ...] of an encoder as [batch, rows, columns]."""
    return output[:, None] if output.dim() == 2 else output.flatten(1, -2)


def find_blocks(target: Tensor, sources: Sequence[tuple[EncoderOutput, Tensor]]) -> BlockGrid | None:
    """Return the blocks of sources [rows, columns] that a target [*shape] consists of, with the fewest of them; None if
    it has other values than those of the sources and zeros."""
    shape = tuple(target.shape)
    views = dict.fromkeys([(target[..., 0].numel(), shape[-1]), (shape[0], target[0].numel())] if shape else [])
    candidates = [_cover(target.reshape(view), shape, sources) for view in views]
    # or alternating columns
    if len(shape) == 2 and all(cover is None or len(cover.blocks) > 1 for cover in candidates):
        widths = {rows.shape[1] for _, rows in sources if rows.shape[1] and shape[1] % rows.shape[1] == 0}
        for layers in sorted({shape[1] // width for width in widths} - {1}):
            apart = _cover(_separate(target, layers), shape, sources)
            candidates.append(None if apart is None else replace(apart, layers=layers))
    covers = [blocks for blocks in candidates if blocks is not None]
    return min(covers, key=lambda cover: len(cover.blocks), default=None)


def _separate(value: Tensor, layers: int) -> Tensor:
    """Return a value [rows, columns] with the columns of each layer together, which alternate in it."""
    return value.reshape(len(value), -1, layers).mT.reshape(value.shape)


def _cover(target: Tensor, shape: tuple[int, ...], sources: Sequence[tuple[EncoderOutput, Tensor]]) -> BlockGrid | None:
    rest, blocks = target != 0, list[OutputBlock]()
    while bool(rest.any()):
        if len(blocks) == MOST_BLOCKS:
            return None
        row, column = (int(index) for index in rest.nonzero()[0])
        block = max(
            _blocks_at(target, row, column, sources), key=lambda block: block.size[0] * block.size[1], default=None
        )
        if block is None or block.size[0] * block.size[1] < min(FEWEST, target.numel()):
            return None
        blocks.append(block)
        rest[row : row + block.size[0], column : column + block.size[1]] = False
    return BlockGrid(shape, (target.shape[0], target.shape[1]), tuple(blocks))


def _blocks_at(
    target: Tensor, row: int, column: int, sources: Sequence[tuple[EncoderOutput, Tensor]]
) -> Iterator[OutputBlock]:
    """Yield the blocks whose first element is at a place of a target."""
    for source, rows in sources:
        for first, start in (rows == target[row, column]).nonzero().tolist():
            width = min(target.shape[1] - column, rows.shape[1] - start)
            width = _run(target[row, column : column + width] == rows[first, start : start + width])
            height = min(target.shape[0] - row, rows.shape[0] - first)
            own = target[row : row + height, column : column + width]
            height = _run((own == rows[first : first + height, start : start + width]).all(dim=1))
            yield OutputBlock(source, (first, start), (height, width), (row, column))


def _run(values: Tensor) -> int:
    """Return the number of true values before the first false one."""
    return int(values.long().cumprod(0).sum())


def combine(rule: BlockGrid, outputs: Mapping[EncoderOutput, Tensor], masks: Mapping[int, Tensor]) -> Tensor:
    """Return the value [batch, *shape] of a rule. `outputs` [batch, rows, columns] are those of the encoders, and
    `masks` [batch, length] are 1 for ids of the text."""
    lines: list[Tensor] = []
    at, like = 0, next(iter(outputs.values()))
    for row in sorted({block.place[0] for block in rule.blocks}):
        line = sorted((block for block in rule.blocks if block.place[0] == row), key=lambda block: block.place[1])
        height = line[0].size[0]
        lines += [like.new_zeros(like.shape[0], row - at, rule.grid[1])] if row > at else []
        lines.append(_join_line(line, height, rule.grid[1], outputs, masks))
        at = row + height
    if at < rule.grid[0]:
        lines.append(like.new_zeros(like.shape[0], rule.grid[0] - at, rule.grid[1]))
    joined = lines[0] if len(lines) == 1 else torch.cat(lines, dim=1)
    if rule.layers > 1:
        joined = joined.reshape(joined.shape[0], rule.grid[0], rule.layers, -1).mT
    return joined.reshape(joined.shape[0], *rule.shape)


def _join_line(
    line: Sequence[OutputBlock],
    height: int,
    width: int,
    outputs: Mapping[EncoderOutput, Tensor],
    masks: Mapping[int, Tensor],
) -> Tensor:
    parts, at = list[Tensor](), 0
    for block in line:
        part = block.read(outputs[block.source])
        if block.mask is not None:
            first = block.start[0]
            part = part * masks[block.mask][:, first : first + height, None].to(part.dtype)
        parts += [part.new_zeros(part.shape[0], height, block.place[1] - at)] if block.place[1] > at else []
        parts.append(part)
        at = block.place[1] + block.size[1]
    parts += [parts[0].new_zeros(parts[0].shape[0], height, width - at)] if at < width else []
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def is_grid(rule: BlockGrid) -> bool:
    """Return True if `combine` can join the blocks: those of a row have one height, and no two overlap."""
    for row in {block.place[0] for block in rule.blocks}:
        line = [block for block in rule.blocks if block.place[0] == row]
        if len({block.size[0] for block in line}) > 1:
            return False
    cells = torch.zeros(rule.grid, dtype=torch.int8)
    for block in rule.blocks:
        (row, column), (height, width) = block.place, block.size
        cells[row : row + height, column : column + width] += 1
    return bool((cells <= 1).all())


def find_mask(targets: Sequence[Tensor], masks: Mapping[int, Tensor]) -> TokenMask | None:
    """Return the mask that targets [*shape] of several texts are, or None. Targets of different shapes are none.

    masks: for each encoder, those of its ids [texts, length], 1 for ids of the text.
    """
    if len({target.shape for target in targets}) > 1:
        return None
    rows = torch.stack([target.flatten().double() for target in targets])
    varying = (rows != rows[0]).any(dim=0).nonzero().flatten()
    start, stop = int(varying[0]), int(varying[-1]) + 1
    part = rows[:, start:stop]
    for encoder, mask in masks.items():
        for shift in range(stop - mask.shape[1], start + 1):
            is_text = mask[:, start - shift : stop - shift] > 0
            inside, outside = part[is_text].unique(), part[~is_text].unique()
            if len(inside) == len(outside) == 1:
                in_all = (mask > 0).all(dim=0)
                same = (rows == inside[0]).all(dim=0)
                while start > max(shift, 0) and bool(same[start - 1] & in_all[start - 1 - shift]):
                    start -= 1
                while stop < min(shift + mask.shape[1], rows.shape[1]) and bool(same[stop] & in_all[stop - shift]):
                    stop += 1
                return TokenMask(encoder, shift, start, stop, float(inside[0]), float(outside[0]), targets[0])
    return None


def compute_mask(rule: TokenMask, mask: Tensor) -> Tensor:
    """Return a mask [batch, *shape] from the mask of the token ids [batch, length]."""
    rest, batch = rule.rest.flatten(), mask.shape[0]
    is_text = mask[:, rule.start - rule.shift : rule.stop - rule.shift] > 0
    own = torch.where(is_text, rule.valid, rule.padding).to(rest.dtype)
    before, after = rest[: rule.start], rest[rule.stop :]
    parts = [before.expand(batch, len(before)), own, after.expand(batch, len(after))]
    joined = torch.cat([part for part in parts if part.shape[1]], dim=1)
    return joined.reshape(batch, *rule.rest.shape)


def find_positions(encoder: int, values: Sequence[Tensor], encoded: Sequence[TokenIds]) -> TokenPositions | None:
    """Return the positions that values [axes, 1, length] of several texts are, or None."""
    masks = [torch.from_numpy(text.mask) for text in encoded]
    if any(value.dim() != 3 or value.shape[1:] != mask.shape for value, mask in zip(values, masks, strict=True)):
        return None
    rules = [TokenPositions(encoder, len(values[0]), padding) for padding in (None, 0, 1)]
    pairs = list(zip(values, masks, strict=True))
    return next((rule for rule in rules if all(torch.equal(v, compute_positions(rule, m)) for v, m in pairs)), None)


def compute_positions(rule: TokenPositions, mask: Tensor) -> Tensor:
    """Return the positions [axes, batch, length] from the mask of the token ids [batch, length]."""
    places = (mask.cumsum(1) - 1).clamp(min=0)
    places = places if rule.padding is None else torch.where(mask > 0, places, rule.padding)
    return places.expand(rule.axes, *mask.shape)


class PaddingError(TextError):
    """A condition has zeros for the padding of some texts, or branches of guidance, and values for that of others."""


@dataclass(frozen=True)
class TextTarget:
    """A target [*shape] that a pipeline computed from one text. `outputs` and `masks` are those of its encoders, as in
    `combine`, with a batch of 1."""

    target: Tensor
    outputs: Mapping[EncoderOutput, Tensor]
    masks: Mapping[int, Tensor]


def with_masks(name: str, rule: BlockGrid, matches: Sequence[TextTarget]) -> BlockGrid:
    """Return the rule with those blocks masked whose rows of padding are zeros. Raises TextError if the values of some
    text differ in another way, PaddingError if they have zeros for the padding of some texts only."""
    if not is_grid(rule):
        raise TextError(f"{name} is a mixture of outputs of its text encoders")
    ends = [(block.source, block.start[0] + block.size[0]) for block in rule.blocks]
    if any(match.outputs[source].shape[1] < end for match in matches for source, end in ends):
        raise TextError(f"{name} has an output of a network whose rows are as many as the tokens of its text")
    encoders = sorted({block.source.encoder for block in rule.blocks})
    choices = product(*((None, *_maskers(encoder, matches[0])) for encoder in encoders))
    fitting = set[int]()
    for chosen in sorted(choices, key=lambda masks: len(masks) - masks.count(None)):
        marked = _mark(rule, dict(zip(encoders, chosen, strict=True)))
        values = [combine(marked, match.outputs, match.masks)[0] for match in matches]
        own = {number for number, match in enumerate(matches) if agrees(values[number], match.target)}
        if len(own) == len(matches):
            return marked
        fitting |= own
    if len(fitting) == len(matches):
        raise PaddingError(f"{name} has zeros for the padding of some texts only")
    raise TextError(f"{name} is another function of the outputs of its text encoders for some texts")


def _maskers(encoder: int, match: TextTarget) -> list[int]:
    """Return the encoders whose padding may be that of the outputs of an encoder: itself if it takes token ids,
    otherwise those with as many ids as it has rows."""
    if encoder in match.masks:
        return [encoder]
    rows = {output.shape[1] for source, output in match.outputs.items() if source.encoder == encoder}
    return [number for number, mask in match.masks.items() if {mask.shape[1]} == rows]


def _mark(rule: BlockGrid, masks: Mapping[int, int | None]) -> BlockGrid:
    """Return a rule with the blocks of each encoder masked by another one, or by none."""
    return replace(rule, blocks=tuple(replace(block, mask=masks[block.source.encoder]) for block in rule.blocks))


def clear_padding(rule: BlockGrid, match: TextTarget) -> TextTarget:
    """Return a target whose elements from rows of padding are zeros."""
    ones = {source: torch.ones_like(output) for source, output in match.outputs.items()}
    marked = _mark(rule, {source.encoder: next(iter(_maskers(source.encoder, match)), None) for source in ones})
    is_text = combine(marked, ones, match.masks)[0]
    return replace(match, target=match.target * is_text[tuple(map(slice, match.target.shape))])


def agrees(value: Tensor, target: Tensor) -> bool:
    """Return True if a target is the value, or the start of it that belongs to a shorter text."""
    return is_close(value[tuple(map(slice, target.shape))], target)
