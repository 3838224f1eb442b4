"""Axes that follow the number of tokens of a text, from the shapes of arguments in recordings."""

import pytest
import torch

from fewstep.pipelines.relations.text_lengths import TextLengths, find_lengths
from tests.refusals import refuses


def lengths_of(*recordings: tuple[int, int], positions: bool = False, counted: int = 0) -> TextLengths:
    """Recordings with the lengths of two branches: of a text [1, length, 4], and of `arange(length + counted)`."""
    text = [[torch.zeros(1, length, 4) for length in own] for own in recordings]
    values = {"text": text}
    if positions:
        values["places"] = [[torch.arange(length + counted) for length in own] for own in recordings]
    return find_lengths("Pipe", values, {"text": 1})


def test_an_axis_of_a_text_is_a_size_from_the_shortest_to_the_longest() -> None:
    found = lengths_of((5, 3), (9, 3))
    (size,) = found.sizes
    assert (size.name, size.axis, size.low, size.high) == ("tokens", None, 3, 9)
    assert found.axes == {"text": {0: "tokens"}}


def test_branches_of_equal_length_have_that_of_the_prompt() -> None:
    assert lengths_of((5, 5), (9, 9)).sizes[0].of_prompt


def test_branches_of_other_lengths_have_their_own() -> None:
    assert not lengths_of((5, 3), (9, 9)).sizes[0].of_prompt


def test_a_text_of_one_shape_has_no_size() -> None:
    assert lengths_of((5, 5), (5, 5)).sizes == ()


def test_an_argument_may_count_the_tokens() -> None:
    assert lengths_of((5, 3), (9, 3), positions=True).positions == {"places": "tokens"}


def test_an_argument_of_another_length_is_refused() -> None:
    with refuses("the shape of the network's argument places follows the length of the prompt"):
        lengths_of((5, 3), (9, 3), positions=True, counted=1)


def test_an_argument_may_have_zeros_for_each_token() -> None:
    text = [[torch.ones(1, length, 4)] for length in (5, 9)]
    values = {"text": text, "places": [[torch.zeros(length, 3)] for length in (5, 9)]}
    assert find_lengths("Pipe", values, {"text": 1}).positions == {"places": "tokens"}


@pytest.mark.parametrize("places", [(torch.zeros(5, 5), torch.zeros(9, 9)), (torch.zeros(5), torch.arange(9.0))])
def test_other_zeros_are_refused(places: tuple[torch.Tensor, ...]) -> None:
    """Such as a mask between tokens, or zeros in one recording only."""
    values = {"text": [[torch.ones(1, length, 4)] for length in (5, 9)], "places": [[value] for value in places]}
    with refuses("the shape of the network's argument places follows the length of the prompt"):
        find_lengths("Pipe", values, {"text": 1})
