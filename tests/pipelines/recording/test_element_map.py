"""Elements of one tensor are found in another by their values, and mapped there and back."""

import pytest
import torch
from torch import Tensor

from fewstep.pipelines.recording.element_map import AFTER, AROUND, BEFORE, ElementMap, boxes, find

SHAPE = (4, 3, 5)
X = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
ONES = torch.ones(2, 2, 3, 5)
TARGETS = {  # of x, and the other elements that they have
    "all": (X, set()),
    "channels before": (torch.cat([ONES, X], dim=1), {BEFORE}),
    "channels after": (torch.cat([X, ONES], dim=1), {AFTER}),
    "padded along two axes": (torch.nn.functional.pad(X, [1, 0, 0, 2], value=7.0), {AROUND}),
    "tokens": (X.flatten(2).transpose(1, 2), set()),
    "tokens after others": (torch.cat([torch.ones(2, 3, 4), X.flatten(2).transpose(1, 2)], dim=1), {AROUND}),
    "all after one other": (torch.cat([ONES[:, 0, 0, :1], X.flatten(1)], dim=1), {AROUND}),
    "half of x": (X.flatten(1)[:, 30:], set()),
}


@pytest.mark.parametrize(("target", "names"), TARGETS.values(), ids=TARGETS)
def test_elements_are_found_and_mapped_to_their_places(target: Tensor, names: set[str]) -> None:
    elements = find(X, target)
    assert elements is not None
    others = elements.others(target)
    assert set(others) == names and torch.equal(elements(X, others), target)


def test_the_others_of_a_part_along_one_axis_are_a_part() -> None:
    target, _ = TARGETS["channels before"]
    elements = find(X, target)
    assert elements is not None and torch.equal(elements.others(target)[BEFORE], ONES)


def test_a_multiple_is_found_where_the_elements_keep_their_order() -> None:
    elements = find(X, torch.cat([ONES, 0.3 * X], dim=1))
    assert elements is not None and elements.inserts == ((2, 6), (0, 3), (0, 5))


@pytest.mark.parametrize("target", [X**2, X.flatten(2).transpose(1, 2) * 0.3], ids=["square", "scaled tokens"])
def test_other_functions_of_x_are_not_found(target: Tensor) -> None:
    assert find(X, target) is None


def test_parts_begin_or_end_with_each_axis() -> None:
    assert [part.selects for part in boxes((2, 3), (5, 3))] == [((0, 2), (0, 3)), ((3, 5), (0, 3))]
    assert boxes((2, 3), (5, 2)) == () == boxes((6,), (2, 3))


def test_a_run_of_elements_is_traced() -> None:
    """As the video of LTX 2, which is the first part of a flat x."""
    run = ElementMap(torch.arange(2, 8), (10,), (2, 3))
    program = torch.export.export(run, (torch.zeros(1, 10),), strict=False)
    torch.testing.assert_close(program.module()(torch.arange(10.0)[None]), torch.arange(2.0, 8).reshape(1, 2, 3))
