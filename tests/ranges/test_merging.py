"""Groups that are alike become one; those that are not stay."""

from typing import get_args

import numpy as np
import pytest

from fewstep.ranges.histogram import measure
from fewstep.ranges.merging import TOLERANCE, merge_groups, regrouped
from fewstep.ranges.methods import tensor_ranges
from fewstep.ranges.observe import Counts
from fewstep.ranges.table import Method, Range

EDGES = (-2.0, 0.0, 2.0)
NORMAL = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)


def counts(*scales: float, edges: tuple[float, ...] = EDGES) -> Counts:
    """Two tensors, normal with a standard deviation for each group, and one that is always zero."""
    values = {
        "a": [np.float32(scale) * NORMAL for scale in scales],
        "b": [np.float32(scale) * np.abs(NORMAL) for scale in scales],
        "dead": [np.zeros(9, np.float32) for _ in scales],
    }
    return Counts(
        tuple(values), edges, {(name, g): measure(of) for name, groups in values.items() for g, of in enumerate(groups)}
    )


@pytest.mark.parametrize("method", get_args(Method))
def test_only_neighbours_that_are_alike_are_merged(method: Method) -> None:
    merged = merge_groups(counts(1.0, 1.0, 3.0, 3.0), method, has_symmetric=True)
    assert merged.edges == (0.0,)
    assert [histogram.stored.sum() for histogram in merged.of("a")] == [40_000, 40_000]


def test_groups_that_differ_stay_as_they_are() -> None:
    assert merge_groups(counts(1.0, 2.0, 4.0, 8.0), "mse", has_symmetric=False).edges == EDGES


def test_small_differences_do_not_add_up() -> None:
    """Each group is 1 % wider than the last: neighbours would merge one after another if only they were compared."""
    scales = [1.01**i for i in range(10)]
    merged = merge_groups(counts(*scales, edges=tuple(float(i) for i in range(9))), "mse", has_symmetric=False)
    assert 1 < len(merged.edges) + 1 < 10


def test_a_merged_group_has_the_ranges_of_all_its_values() -> None:
    given = counts(1.0, 2.0, 4.0, 8.0)
    merged = regrouped(given, [(0, 1), (1, 4)])
    assert merged.edges == (-2.0,)
    assert merged.of("a")[1].high == max(histogram.high for histogram in given.of("a")[1:])
    assert tensor_ranges(merged.of("a"), "mse").per_group[0] == tensor_ranges(given.of("a"), "mse").per_group[0]


def test_one_group_has_nothing_to_merge() -> None:
    assert merge_groups(counts(1.0, edges=()), "mse", has_symmetric=False).edges == ()


def test_groups_are_judged_by_ranges_of_the_method_that_the_table_is_made_by() -> None:
    """One value at 8 of 600 000: mse clips it, in minmax all the others of both groups get a coarser scale by it."""
    normal = np.tile(NORMAL, 30)
    groups = [normal, np.append(normal, np.float32(8))]
    given = Counts(("a",), (0.0,), {("a", number): measure(values) for number, values in enumerate(groups)})
    assert merge_groups(given, "mse", has_symmetric=False).edges == ()
    assert merge_groups(given, "minmax", has_symmetric=False).edges == given.edges
    ranges = tensor_ranges(given.of("a"), "minmax")
    own = sum(squared_error(values, of) for values, of in zip(groups, ranges.per_group, strict=True))
    assert sum(squared_error(values, ranges.pooled) for values in groups) > 1.2 * own
    clipped = tensor_ranges(given.of("a"), "mse")
    own = sum(squared_error(values, of) for values, of in zip(groups, clipped.per_group, strict=True))
    assert sum(squared_error(values, clipped.pooled) for values in groups) < (1 + TOLERANCE) * own


def by_channel(*groups: np.ndarray) -> Counts:
    """One tensor of two groups [values, channels]."""
    histograms = {("a", number): measure(values, 1) for number, values in enumerate(groups)}
    return Counts(("a",), (0.0,), histograms, samples=1 << 80)


def test_groups_are_judged_by_what_channels_reach_where_each_has_a_scale() -> None:
    """One value in 600 000 at twice of what the others reach, in every channel: mse clips them, but nothing is clipped
    by channel, and the other group would have steps twice as long."""
    normal = np.tile(NORMAL, 120).reshape(-1, 4)
    given = by_channel(normal, np.append(normal, np.full((1, 4), 8, np.float32), axis=0))
    assert merge_groups(given, "mse", has_symmetric=False).edges == ()
    assert merge_groups(given, "channels", has_symmetric=False).edges == given.edges


def test_groups_whose_channels_change_places_are_merged_if_both_fill_the_same_range() -> None:
    """All groups have the factors of the loudest: those of the pair are those of each."""
    normal = NORMAL.reshape(-1, 4)
    given = by_channel(normal * np.float32([1, 1, 0.25, 0.25]), (normal * np.float32([1, 1, 0.25, 0.25]))[:, ::-1])
    assert merge_groups(given, "channels", has_symmetric=False).edges == ()


def squared_error(values: np.ndarray, found: Range) -> float:
    """Mean, in uint8 with this range."""
    scale = (found.high - found.low) / 255
    least = -np.round(-found.low / scale)
    return float(np.mean((np.clip(np.round(values / scale), least, least + 255) * scale - values) ** 2))


def test_groups_are_judged_by_the_code_that_loses_more_where_a_target_is_symmetric() -> None:
    """[-4, 4] beside [-4, 4.06]: 0.75 % of a range of 8 that a zero point moves, 1.5 % of one of 4 on both sides."""
    inside = np.linspace(-4, 4, 20_001, dtype=np.float32)
    given = Counts(("a",), (0.0,), {("a", 0): measure(inside), ("a", 1): measure(np.append(inside, np.float32(4.06)))})
    assert merge_groups(given, "minmax", has_symmetric=False).edges == ()
    assert merge_groups(given, "minmax", has_symmetric=True).edges == given.edges
