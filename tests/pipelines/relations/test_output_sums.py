"""Sums of an encoder's outputs, on random values."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from fewstep.pipelines.relations.output_sums import OutputSum, find_sum, paths_of, read_output

OUTPUTS = {
    path: torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    for seed, path in enumerate(("first", "second", "third"))
}
FIRST, SECOND, THIRD = OUTPUTS.values()


def norm(value: Tensor, epsilon: float) -> Tensor:
    return layer_norm(value, (4,), eps=epsilon)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (FIRST + THIRD, OutputSum(("first", "third"), None)),
        (norm(SECOND, 1e-6), OutputSum(("second",), 1e-6)),
        (norm(THIRD, 1e-5) + norm(SECOND, 1e-5), OutputSum(("second", "third"), 1e-5)),
        (norm(FIRST, 1e-3), None),
        (FIRST + SECOND + THIRD, None),
        (FIRST[:4] + SECOND[:4], None),
    ],
)
def test_sums_and_their_norm_are_found(target: Tensor, expected: OutputSum | None) -> None:
    assert find_sum(target, OUTPUTS) == expected


def test_a_sum_that_holds_for_the_first_row_only_is_none() -> None:
    target = FIRST + SECOND
    target[3, 2] += 1
    assert find_sum(target, OUTPUTS) is None


def test_a_sum_reads_all_of_its_outputs() -> None:
    own = OutputSum(("first", "third"), None)
    assert paths_of(own) == ("first", "third") and paths_of("first") == ("first",)
    assert torch.equal(read_output(OUTPUTS, own), FIRST + THIRD) and read_output(OUTPUTS, "third") is THIRD
