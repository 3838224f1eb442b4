"""What a recording reads of a network's outputs, and of what a scheduler's step gets."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep, drop_copies, split_variance
from fewstep.pipelines.recording.record import _read_outputs
from fewstep.plans.errors import UserError

ONE = torch.ones(1, 2)


@dataclass
class Output:
    """A class that hides its tensors."""

    sample: torch.Tensor


@pytest.mark.parametrize(
    ("outputs", "count", "is_list"),
    [
        (ONE, 1, False),
        ((ONE, ONE), 2, False),
        ({"sample": ONE}, 1, False),
        (([ONE[0], ONE[0], ONE[0]],), 1, True),
        ({"sample": [ONE[0]]}, 1, True),
    ],
)
def test_tensors_are_read_from_tuples_and_dicts(outputs: Any, count: int, is_list: bool) -> None:
    tensors, found = _read_outputs("the network", outputs, is_second=False)
    assert (len(tensors), found) == (count, is_list)


@pytest.mark.parametrize("outputs", [None, (), Output(ONE)])
def test_outputs_without_tensors_are_refused(outputs: object) -> None:
    with pytest.raises(UserError, match="the network returns no tensors"):
        _read_outputs("the network", outputs, is_second=False)


OUTPUT, X = torch.arange(12.0).reshape(1, 6, 2), torch.zeros(1, 3, 2)


def scheduler(variance: str | None) -> Any:
    return SimpleNamespace(config=SimpleNamespace(variance_type=variance))


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_is_split_from_the_prediction(variance: str) -> None:
    prediction, rest = split_variance(scheduler(variance), OUTPUT, X)
    assert torch.equal(prediction, OUTPUT[:, :3]) and rest is not None and torch.equal(rest, OUTPUT[:, 3:])


def test_a_scheduler_with_a_fixed_variance_gets_all_channels() -> None:
    prediction, rest = split_variance(scheduler("fixed_small"), OUTPUT, X)
    assert prediction is OUTPUT and rest is None


def record_of(x: torch.Tensor, result: torch.Tensor) -> CallRecord:
    return CallRecord((SchedulerStep((), x, 9.0, x, result),))


def test_of_two_equal_copies_of_x_one_is_kept() -> None:
    x = torch.randn(2, 3, 4)
    (step,) = drop_copies(record_of(torch.cat([x, x]), torch.cat([2 * x, 2 * x]))).steps
    assert torch.equal(step.sample, x) and torch.equal(step.result, 2 * x)


def test_different_samples_are_kept() -> None:
    x = torch.randn(2, 3, 4)
    record = record_of(x, x)
    assert drop_copies(record) is record


def test_copies_whose_noise_has_a_learned_variance_are_kept() -> None:
    """Each row of the variance belongs to a row of x."""
    x = torch.randn(1, 3, 4)
    both = torch.cat([x, x])
    record = CallRecord((SchedulerStep((), both, 9.0, both, both, variance=both),))
    assert drop_copies(record) is record


def test_copies_with_different_results_are_kept() -> None:
    x = torch.randn(1, 3, 4)
    record = record_of(torch.cat([x, x]), torch.cat([x, 2 * x]))
    assert drop_copies(record) is record


def test_a_second_network_returns_a_tensor_for_each_block() -> None:
    blocks = [torch.ones(1, 2), torch.ones(1, 3)]
    tensors, is_list = _read_outputs("the network", (blocks, torch.ones(1, 4)), is_second=True)
    assert [tensor.shape[1] for tensor in tensors] == [2, 3, 4] and not is_list
