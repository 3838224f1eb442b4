"""Rules by which conditions follow from outputs and masks of text encoders, on random values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.pipelines.relations.text_forms import TextError
from fewstep.pipelines.relations.text_rules import (
    BlockGrid,
    EncoderOutput,
    OutputBlock,
    PaddingError,
    TextTarget,
    TokenPositions,
    clear_padding,
    combine,
    compute_mask,
    compute_positions,
    find_blocks,
    find_mask,
    find_positions,
    is_grid,
    with_masks,
)
from fewstep.runtime.token_ids import TokenIds

LENGTH, WIDTH = 6, 8
FIRST, SECOND = EncoderOutput(0, "first"), EncoderOutput(1, "second")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


HIDDEN, OTHER = random(LENGTH, WIDTH), random(LENGTH, WIDTH, seed=1)
SOURCES = [(FIRST, HIDDEN), (SECOND, OTHER)]


def rule_of(target: Tensor) -> BlockGrid:
    rule = find_blocks(target, SOURCES)
    assert rule is not None
    return rule


def outputs(hidden: Tensor = HIDDEN, other: Tensor = OTHER) -> Mapping[EncoderOutput, Tensor]:
    return {FIRST: hidden[None], SECOND: other[None]}


@pytest.mark.parametrize(
    ("target", "count"),
    [
        (HIDDEN, 1),
        (HIDDEN[2:], 1),
        (torch.cat([HIDDEN, OTHER], dim=1), 2),
        (torch.cat([OTHER, HIDDEN]), 2),
        (torch.stack([HIDDEN, OTHER]), 2),
        (torch.stack([HIDDEN, OTHER], dim=1), 2),
        (torch.nn.functional.pad(HIDDEN, (0, 3)), 1),
        (HIDDEN[-1], 1),
    ],
    ids=["all", "without template", "features", "tokens", "layers", "layers of a token", "padded", "pooled"],
)
def test_a_target_is_found_with_the_fewest_blocks(target: Tensor, count: int) -> None:
    rule = rule_of(target)
    assert len(rule.blocks) == count and is_grid(rule)
    torch.testing.assert_close(combine(rule, outputs(), {})[0], target, rtol=0, atol=0)


def test_layers_that_alternate_in_a_row_are_found() -> None:
    """As in LTX 2, which stacks hidden states along a last axis and flattens it."""
    target = torch.stack([HIDDEN, OTHER], dim=-1).flatten(-2)
    rule = rule_of(target)
    assert (rule.layers, len(rule.blocks)) == (2, 2)
    torch.testing.assert_close(combine(rule, outputs(), {})[0], target, rtol=0, atol=0)


def test_the_rule_of_one_text_is_that_of_another() -> None:
    rule, other = rule_of(torch.cat([HIDDEN[1:], OTHER[1:]], dim=1)), random(LENGTH, WIDTH, seed=2)
    expected = torch.cat([other[1:], HIDDEN[1:]], dim=1)
    torch.testing.assert_close(combine(rule, outputs(other, HIDDEN), {})[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("target", [2 * HIDDEN, HIDDEN + OTHER, random(LENGTH, WIDTH, seed=3)])
def test_a_function_of_the_outputs_is_not_found(target: Tensor) -> None:
    assert find_blocks(target, SOURCES) is None


def test_blocks_that_overlap_are_no_grid() -> None:
    block = OutputBlock(FIRST, (0, 0), (2, WIDTH), (0, 0))
    assert not is_grid(BlockGrid((3, WIDTH), (3, WIDTH), (block, replace(block, place=(1, 0)))))


def match(count: int, masked: bool) -> TextTarget:
    """Return the match of a text of `count` ids."""
    mask = (torch.arange(LENGTH) < count).long()
    target = HIDDEN * mask[:, None] if masked else HIDDEN
    return TextTarget(target, outputs(), {0: mask[None]})


@pytest.mark.parametrize("masked", [False, True])
def test_padding_is_zeros_only_if_it_is_in_all_texts(masked: bool) -> None:
    rule = with_masks("the text", rule_of(HIDDEN), [match(LENGTH, masked), match(3, masked)])
    assert [block.mask for block in rule.blocks] == [0 if masked else None]


def test_a_cleared_target_has_zeros_for_padding_only() -> None:
    rule = rule_of(HIDDEN)
    targets = [clear_padding(rule, match(count, masked)) for count, masked in ((4, True), (3, False))]
    assert [int((target.target != 0).any(1).sum()) for target in targets] == [4, 3]
    assert [block.mask for block in with_masks("the text", rule, targets).blocks] == [0]


def test_padding_that_is_zeros_in_some_texts_is_named() -> None:
    with pytest.raises(PaddingError, match="the text has zeros for the padding of some texts only"):
        with_masks("the text", rule_of(HIDDEN), [match(4, True), match(3, False)])


def test_texts_that_follow_different_rules_are_refused() -> None:
    other = replace(match(3, False), target=OTHER)
    with pytest.raises(TextError, match="the text is another function"):
        with_masks("the text", rule_of(HIDDEN), [match(4, True), other])


def masks(counts: Sequence[int]) -> list[Tensor]:
    return [(torch.arange(LENGTH) < count).long() for count in counts]


COUNTS = (2, 4, LENGTH)


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask,
        lambda mask: mask[1:],
        lambda mask: (1 - mask) * -10000.0,
        lambda mask: torch.cat([torch.ones(2, dtype=torch.long), mask]),
        lambda mask: torch.cat([torch.ones(1, dtype=torch.long), mask[:-1], torch.ones(3, dtype=torch.long)]),
        lambda mask: mask.bool()[None],
    ],
    ids=["same", "without template", "added to scores", "after others", "one more, before others", "of a shape"],
)
def test_a_mask_is_found_and_computed_for_a_text_of_another_length(change: Callable[[Tensor], Tensor]) -> None:
    rule = find_mask([change(mask) for mask in masks(COUNTS)], {0: torch.stack(masks(COUNTS))})
    assert rule is not None
    (other,) = masks([3])
    torch.testing.assert_close(compute_mask(rule, other[None])[0], change(other), rtol=0, atol=0)


def test_the_mask_of_a_text_after_its_padding_is_found() -> None:
    first = [mask.flip(0) for mask in masks(COUNTS)]
    rule = find_mask([mask[1:] for mask in first], {0: torch.stack(first)})
    assert rule is not None
    assert compute_mask(rule, masks([1])[0].flip(0)[None])[0].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("before", [0, 2], ids=["alone", "after others"])
def test_a_mask_is_that_of_a_text_shorter_than_all_recorded_ones(before: int) -> None:
    """As for a pipeline without negative prompts, which encodes no short text in the recordings."""

    def change(mask: Tensor) -> Tensor:
        return torch.cat([torch.ones(before, dtype=torch.long), mask])

    rule = find_mask([change(mask) for mask in masks(COUNTS[1:])], {0: torch.stack(masks(COUNTS[1:]))})
    assert rule is not None
    (shorter,) = masks([1])
    assert compute_mask(rule, shorter[None])[0].tolist() == change(shorter).tolist()


def test_values_of_different_shapes_are_no_mask() -> None:
    short, long = masks([2, 4])
    assert find_mask([short[:3], long], {0: torch.stack(masks((2, 4)))}) is None


def test_numbers_that_do_not_follow_the_length_are_no_mask() -> None:
    assert find_mask([mask.flip(0) for mask in masks(COUNTS)], {0: torch.stack(masks(COUNTS))}) is None


@pytest.mark.parametrize(("padding", "first"), [(None, 0), (1, 1)])
def test_positions_count_the_ids_of_a_text(padding: int | None, first: int) -> None:
    masks = np.array([[[1, 1, 0, 0, 1]], [[0, 0, 1, 1, 1]]])
    encoded = [TokenIds(mask, mask, {}) for mask in masks]
    places = [[0, 1, 1, 1, 2], [first, first, 0, 1, 2]]
    values = [torch.tensor([[own]] * 3) for own in places]
    rule = TokenPositions(4, 3, padding)
    assert find_positions(4, values, encoded) == rule
    assert torch.equal(compute_positions(rule, torch.from_numpy(masks[:, 0])), torch.tensor([places] * 3))


def test_other_numbers_are_no_positions() -> None:
    mask = np.array([[1, 1, 0]])
    assert find_positions(0, [torch.tensor([[[0, 2, 2]]])], [TokenIds(mask, mask, {})]) is None
