"""Values at the edges of a condition's domain, and the points that have them."""

import numpy as np
import pytest

from fewstep.export.spec import Spec
from fewstep.export.verification.edges import edges
from fewstep.export.verification.points import Scope, comparison_points
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition

TEXT = Condition("text", "text", (4, 2), "float32", null=0, typical=(-1.0, 1.0))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            Condition("mask", "m", (3,), low=0, high=1),
            {
                "mask all 0": [0, 0, 0],
                "mask all 1": [1, 1, 1],
                "mask 1 at the first element alone": [1, 0, 0],
                "mask 1 at the last element alone": [0, 0, 1],
            },
        ),
        (
            Condition("keys", "k", (1, 2), "bool"),
            {
                "keys all False": [[False, False]],
                "keys all True": [[True, True]],
                "keys True at the first element alone": [[True, False]],
                "keys True at the last element alone": [[False, True]],
            },
        ),
        (Condition("label", "l", low=2, high=9), {"label 2": 2, "label 9": 9}),
        (Condition("only", "o", (1,), low=0, high=1), {"only all 0": [0], "only all 1": [1]}),
        (Condition("one", "o", (2,), low=5, high=5), {}),
        (Condition("picture", "p", (2,), "float32", low=0, high=255), {}),
        (TEXT, {}),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_edges_are_all_low_all_high_and_a_single_high_element(condition: Condition, expected: dict) -> None:
    found = {edge.text: edge.value.tolist() for edge in edges(condition)}
    assert found == expected
    assert all(edge.value.dtype == condition.dtype for edge in edges(condition))


def test_floats_from_0_to_1_may_be_a_mask() -> None:
    mask = Condition("mask", "m", (2,), "float32", low=0, high=1)
    assert [edge.value.tolist() for edge in edges(mask)] == [[0, 0], [1, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize("scope", ["full", "quick"])
def test_every_edge_is_one_sample_whose_other_conditions_are_not_null(scope: Scope) -> None:
    mask = Condition("mask", "mask", (4,), null=0, low=0, high=1)
    spec = Spec("s", (1, 2, 2), (TEXT, mask), "epsilon", ScheduleSpec("linear"))
    seen = list(comparison_points(spec, scope))
    at = [point for point in seen if point.edge]
    assert [point.feeds["mask"].tolist() for point in at] == [[[0] * 4], [[1] * 4], [[1, 0, 0, 0]], [[0, 0, 0, 1]]]
    assert all(np.abs(point.feeds["text"]).min() > 0 and point.batch == 1 for point in at)
    assert str(at[0]).endswith("batch 1, mask all 0") and seen[-1].batch > 1


def test_a_label_that_other_points_have_is_not_visited_again() -> None:
    """Of three labels all are visited. Of a thousand the last is not, and a null label only together with other
    nulls.
    """
    few, many, null = (
        Condition(f"c{high}", f"c{high}", low=0, high=high, null=null)
        for high, null in ((2, None), (999, None), (3, 3))
    )
    spec = Spec("s", (1, 2, 2), (few, many, null), "epsilon", ScheduleSpec("linear"))
    assert [point.edge for point in comparison_points(spec) if point.edge] == ["c999 999", "c3 3"]
