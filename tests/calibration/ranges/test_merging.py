"""Groups that are alike become one; those that are not stay."""

import numpy as np

from fewstep.calibration.ranges.histogram import measure
from fewstep.calibration.ranges.merging import merge_groups, regrouped
from fewstep.calibration.ranges.methods import tensor_ranges
from fewstep.calibration.ranges.observe import Counts

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


def test_only_neighbours_that_are_alike_are_merged() -> None:
    merged = merge_groups(counts(1.0, 1.0, 3.0, 3.0))
    assert merged.edges == (0.0,)
    assert [histogram.total for histogram in merged.of("a")] == [40_000, 40_000]


def test_groups_that_differ_stay_as_they_are() -> None:
    assert merge_groups(counts(1.0, 2.0, 4.0, 8.0)).edges == EDGES


def test_small_differences_do_not_add_up() -> None:
    """Each group is 1 % wider than the last: neighbours would merge one after another if only they were compared."""
    scales = [1.01**i for i in range(10)]
    merged = merge_groups(counts(*scales, edges=tuple(float(i) for i in range(9))))
    assert 1 < len(merged.edges) + 1 < 10


def test_a_merged_group_has_the_ranges_of_all_its_values() -> None:
    given = counts(1.0, 2.0, 4.0, 8.0)
    merged = regrouped(given, [(0, 1), (1, 4)])
    assert merged.edges == (-2.0,)
    assert merged.of("a")[1].high == max(histogram.high for histogram in given.of("a")[1:])
    assert tensor_ranges(merged.of("a"), "mse").per_group[0] == tensor_ranges(given.of("a"), "mse").per_group[0]


def test_one_group_has_nothing_to_merge() -> None:
    assert merge_groups(counts(1.0, edges=())).edges == ()
