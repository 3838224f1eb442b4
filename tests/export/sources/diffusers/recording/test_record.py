"""The parts of a network's outputs that a recording reads."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fewstep.export.sources.diffusers.recording.record import _read_outputs
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
    tensors, found = _read_outputs("the network", outputs)
    assert (len(tensors), found) == (count, is_list)


@pytest.mark.parametrize("outputs", [None, (), Output(ONE)])
def test_outputs_without_tensors_are_refused(outputs: object) -> None:
    with pytest.raises(UserError, match="the network returns no tensors"):
        _read_outputs("the network", outputs)
