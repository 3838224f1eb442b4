"""The shapings of a step as ONNX, each bitwise identical to the executor's numpy.

A quantile is interpolated between two of the sorted values. A standard deviation and a norm need sums, whose rounding
depends on their order. So sums follow the order of numpy's pairwise summation.
"""

from collections.abc import Sequence

import numpy as np

from fewstep.graph.builder import Builder
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import (
    Clip,
    GuideChannels,
    GuideFrames,
    MatchNorm,
    Project,
    Rescale,
    Shaping,
    Threshold,
    frame_shares,
    quantile_place,
)

LANES, BLOCK = 8, 128  # number of partial sums, and values per block, of numpy's pairwise summation


def check_shaping(shaping: Shaping | None, sample: Sequence[int | str]) -> None:
    """Raise UserError if a shaping cannot be written in ONNX for samples of this shape."""
    free = [size for size in sample if isinstance(size, str)]
    if free and shaping is not None and not isinstance(shaping, Clip):
        raise UserError(
            f"the shaping {shaping} needs samples of a fixed size, but {free[0]} is free",
            "use clip, or export the model with fixed sizes",
        )


def lay_shaping(
    table: Builder, shaping: Shaping, values: Sequence[str], bounds: Sequence[str], sample: Sequence[int | str]
) -> str:
    """Add the nodes of a shaping to `table`, with the arithmetic of `plans.shaping.apply`. Return the name of the
    result [B, *sample].

    values: the names of the tensors [B, *sample] that the shaping reads.
    bounds: the names of the bounds of a clip, tensors of one element.
    sample: the shape of one sample.
    """
    if isinstance(shaping, Clip):
        low, high = bounds
        return _add_clip(table, values[0], low, high, "clipped")
    sizes = [int(size) for size in sample]
    if isinstance(shaping, GuideChannels):
        return _add_guided_channels(table, shaping, values, sizes)
    if isinstance(shaping, GuideFrames):
        return _add_guided_frames(table, shaping, values, sizes)
    if isinstance(shaping, MatchNorm):
        return _add_matched_norm(table, shaping, values, sizes)
    if isinstance(shaping, Project):
        return _add_projection(table, shaping, values, sizes)
    count = int(np.prod(sizes))
    flat = [table.node("Flatten", (value,), f"flat_{i}", axis=1) for i, value in enumerate(values)]
    if isinstance(shaping, Threshold):
        made = _add_threshold(table, shaping, flat[0], count)
    else:
        made = _add_rescale(table, shaping, flat, count)
    shape = table.constant(np.array([-1, *sizes], np.int64), "shape_of_samples")
    return table.node("Reshape", (made, shape), "shaped")


def _add_clip(table: Builder, value: str, low: str, high: str, name: str) -> str:
    """Append min(max(value, low), high), and return its name."""
    return table.node("Min", (table.node("Max", (value, low), f"{name}_above"), high), name)


def _add_threshold(table: Builder, shaping: Threshold, flat: str, count: int) -> str:
    """Append clip(x, -s, s) / s for x [B, count], with s the quantile of |x|."""
    before, after, part = quantile_place(shaping.quantile, count)
    largest = table.constant(np.array([count - before], np.int64), f"largest_{count - before}")
    sizes = table.node("Abs", (flat,), "sizes")
    top, _ = table.multi_output_node("TopK", (sizes, largest), ("largest_sizes", "largest_places"), axis=1)
    low, high = (
        table.node("Gather", (top, table.constant(np.array([count - 1 - at], np.int64), f"place_{at}")), name, axis=1)
        for at, name in ((before, "quantile_below"), (after, "quantile_above"))
    )
    gap = table.node("Sub", (high, low), "quantile_gap")
    if part < 0.5:
        spread = table.node("Add", (low, table.node("Mul", (gap, table.number(part)), "quantile_part")), "quantile")
    else:
        rest = table.node("Mul", (gap, table.number(1 - part)), "quantile_part")
        spread = table.node("Sub", (high, rest), "quantile")
    spread = table.node("Max", (spread, table.number(1.0)), "threshold_above")
    if shaping.most is not None:
        spread = table.node("Min", (spread, table.number(shaping.most)), "threshold")
    clipped = _add_clip(table, flat, table.node("Neg", (spread,), "threshold_negative"), spread, "thresholded")
    return table.node("Div", (clipped, spread), "thresholded_by_itself")


def _add_rescale(table: Builder, shaping: Rescale, flat: Sequence[str], count: int) -> str:
    """Append the guided output [B, count], rescaled by phi towards the standard deviation of the conditional output."""
    guided, conditional = (_deviation(table, value, count, f"deviation_{i}") for i, value in enumerate(flat))
    ratio = table.node("Div", (conditional, guided), "ratio")
    kept = table.node("Mul", (ratio, table.number(shaping.phi)), "ratio_part")
    factor = table.node("Add", (kept, table.number(1 - shaping.phi)), "rescale_factor")
    return table.node("Mul", (flat[0], factor), "rescaled")


def _add_guided_channels(table: Builder, shaping: GuideChannels, values: Sequence[str], sizes: Sequence[int]) -> str:
    """Add a Where that takes the guided output [B, *sizes] in the first channels, and the conditional output in the
    others. Return its name."""
    is_guided = (np.arange(sizes[0]) < shaping.count).reshape(-1, *(1 for _ in sizes[1:]))
    return table.node("Where", (table.constant(is_guided, "guided_channels"), *values), "guided_and_conditional")


def _add_guided_frames(table: Builder, shaping: GuideFrames, values: Sequence[str], sizes: Sequence[int]) -> str:
    """Append the conditional output [B, *sizes] plus a multiple of the difference between the guided and the
    conditional output. The factors, one per frame, are those of `frame_shares`."""
    guided, conditional = values
    shares = table.constant(frame_shares(shaping, sizes).astype(np.float32), "frame_shares")
    added = table.node("Mul", (table.node("Sub", (guided, conditional), "guidance"), shares), "frame_guidance")
    return table.node("Add", (conditional, added), "guided_frames")


def _add_matched_norm(table: Builder, shaping: MatchNorm, values: Sequence[str], sizes: Sequence[int]) -> str:
    """Append the guided output [B, *sizes], rescaled to the norm of the conditional output along an axis."""
    flat, count = _add_vectors(table, shaping.axis, values, sizes), sizes[shaping.axis]
    guided, conditional = (_norm(table, vector, count, f"norm_{i}") for i, vector in enumerate(flat))
    ratio = table.node("Div", (conditional, guided), "norm_ratio")
    return _restore_axis(table, shaping.axis, table.node("Mul", (flat[0], ratio), "matched_vectors"), sizes)


def _add_projection(table: Builder, shaping: Project, values: Sequence[str], sizes: Sequence[int]) -> str:
    """Append the difference of outputs [B, *sizes], shortened to a limit, without a part of its projection on the
    conditional output."""
    if shaping.axis is None:
        count = int(np.prod(sizes))
        flat = [table.node("Flatten", (value,), f"flat_{i}", axis=1) for i, value in enumerate(values)]
    else:
        flat, count = _add_vectors(table, shaping.axis, values, sizes), sizes[shaping.axis]
    made, n = flat
    if shaping.limit is not None:
        ratio = table.node("Div", (table.number(shaping.limit), _norm(table, made, count, "norm_0")), "limit_ratio")
        factor = table.node("Min", (ratio, table.number(1.0)), "limit_factor")
        made = table.node("Mul", (made, factor), "limited")
    if shaping.eta != 1:
        n = table.node("Div", (n, _norm(table, n, count, "norm_1")), "direction")
        along = _sum(table, table.node("Mul", (made, n), "products"), count, "along")
        part = table.node("Mul", (along, table.number(1 - shaping.eta)), "along_part")
        made = table.node("Sub", (made, table.node("Mul", (n, part), "parallel_part")), "projected_vectors")
    if shaping.axis is not None:
        return _restore_axis(table, shaping.axis, made, sizes)
    shape = table.constant(np.array([-1, *sizes], np.int64), "shape_of_samples")
    return table.node("Reshape", (made, shape), "projected")


def _add_vectors(table: Builder, axis: int, values: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Add the nodes that convert tensors [B, *sizes] to their vectors along `axis` (negative, counted from the last),
    each [vectors, sizes[axis]]. Return the names of the results."""
    vectors = table.constant(np.array([-1, sizes[axis]], np.int64), "shape_of_vectors")
    flat = []
    for i, value in enumerate(values):
        moved = table.node("Transpose", (value,), f"vectors_{i}", perm=_axis_last(axis, sizes))
        flat.append(table.node("Reshape", (moved, vectors), f"flat_vectors_{i}"))
    return flat


def _axis_last(axis: int, sizes: Sequence[int]) -> list[int]:
    """Return the permutation that moves `axis` of a tensor [B, *sizes] to the end. `axis` is negative, counted from the
    end."""
    axes = [*range(len(sizes) + 1)]
    return [each for each in axes if each != len(axes) + axis] + [len(axes) + axis]


def _restore_axis(table: Builder, axis: int, vectors: str, sizes: Sequence[int]) -> str:
    """Append the tensor [B, *sizes] whose vectors along an axis are given."""
    axes, last = [*range(len(sizes) + 1)], _axis_last(axis, sizes)
    shape = table.constant(np.array([-1, *(sizes[axis - 1] for axis in last[1:])], np.int64), "shape_of_moved_samples")
    moved = table.node("Reshape", (vectors, shape), "moved_samples")
    return table.node("Transpose", (moved,), "restored", perm=[last.index(axis) for axis in axes])


def _norm(table: Builder, flat: str, count: int, name: str) -> str:
    """Append the Euclidean norms [B, 1] of vectors [B, count]."""
    squared = table.node("Mul", (flat, flat), f"{name}_squared")
    return table.node("Sqrt", (_sum(table, squared, count, f"{name}_sum"),), name)


def _deviation(table: Builder, flat: str, count: int, name: str) -> str:
    """Append the standard deviation [B, 1] of values [B, count]."""
    number = table.number(count)
    mean = table.node("Div", (_sum(table, flat, count, f"{name}_mean"), number), f"{name}_mean")
    centred = table.node("Sub", (flat, mean), f"{name}_centred")
    squared = table.node("Mul", (centred, centred), f"{name}_squared")
    variance = table.node("Div", (_sum(table, squared, count, f"{name}_variance"), number), f"{name}_variance")
    return table.node("Sqrt", (variance,), name)


def _sum(table: Builder, flat: str, count: int, name: str) -> str:
    """Append the sums [B, 1] of values [B, count]. Parts of equal length are summed together, [B, parts, 1]."""
    starts = _parts(count)
    sums: dict[int, str] = {}
    for length in sorted(starts):
        under, own = f"{name}_{length}", starts[length]
        if length <= BLOCK:
            places = table.constant((np.array(own)[:, None] + np.arange(length)).astype(np.int32), f"places_{length}")
            sums[length] = _block_sum(table, table.node("Gather", (flat, places), under, axis=1), length, under)
            continue
        first = _first_half(length)
        ends = []
        for side, part, at in (("left", first, 0), ("right", length - first, first)):
            order = {start: place for place, start in enumerate(starts[part])}
            places = table.constant(np.array([order[start + at] for start in own], np.int64), f"places_{length}_{side}")
            ends.append(table.node("Gather", (sums[part], places), f"{under}_{side}", axis=1))
        sums[length] = table.node("Add", ends, f"{under}_sum")
    return table.node("Flatten", (sums[count],), f"{name}_sum", axis=1)


def _parts(count: int) -> dict[int, list[int]]:
    """Return the parts into which numpy splits `count` values for its pairwise sum: for each length, the start indices
    of the parts of that length."""
    starts: dict[int, list[int]] = {}
    todo = [(0, count)]
    while todo:
        start, length = todo.pop()
        starts.setdefault(length, []).append(start)
        if length > BLOCK:
            first = _first_half(length)
            todo += [(start, first), (start + first, length - first)]
    return starts


def _first_half(length: int) -> int:
    return length // 2 - length // 2 % LANES


def _block_sum(table: Builder, block: str, length: int, name: str) -> str:
    """Append the sums [B, parts, 1] of blocks [B, parts, length]: eight interleaved partial sums, then the remaining
    values."""
    rounds, left = divmod(length, LANES)
    if not rounds:
        return _add_chain_sum(table, _split(table, block, [1] * length, f"{name}_value"), f"{name}_sum")
    pieces = _split(table, block, [LANES] * rounds + [1] * left, f"{name}_round")
    lanes = _split(table, _add_chain_sum(table, pieces[:rounds], f"{name}_lanes"), [1] * LANES, f"{name}_lane")
    while len(lanes) > 1:
        pairs = zip(lanes[::2], lanes[1::2], strict=True)
        lanes = [table.node("Add", pair, f"{name}_lanes_{len(lanes)}_{i}") for i, pair in enumerate(pairs)]
    return _add_chain_sum(table, [*lanes, *pieces[rounds:]], f"{name}_sum")


def _add_chain_sum(table: Builder, tensors: Sequence[str], name: str) -> str:
    """Append the sum of tensors, added from first to last."""
    total, *others = tensors
    for i, tensor in enumerate(others):
        total = table.node("Add", (total, tensor), f"{name}_{i}")
    return total


def _split(table: Builder, tensor: str, sizes: Sequence[int], name: str) -> list[str]:
    """Append a split into these sizes along the last of three axes."""
    if len(sizes) == 1:
        return [tensor]
    lengths = table.constant(np.array(sizes, np.int64), f"{name}_sizes")
    return [*table.multi_output_node("Split", (tensor, lengths), [f"{name}_{i}" for i in range(len(sizes))], axis=2)]
