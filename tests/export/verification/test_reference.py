"""The call of a module: errors of a Spec that contradicts it, and errors of its own code."""

import pytest
import torch
from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.export.verification.reference import call_module
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses


def test_a_wrong_call_inside_forward_is_not_blamed_on_the_spec() -> None:
    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            returned: Tensor = self.inner(x, time)
            return returned

    spec = Spec("calling", (2, 4, 4), (), "flow", ScheduleSpec("flow"))
    with pytest.raises(UserError, match="takes 2 positional arguments but 3 were given") as failure:
        call_module(Calling(), spec, (torch.zeros(1, 2, 4, 4), torch.zeros(1)))
    assert failure.value.fix == "let forward(x, time) take every value that its spec allows"


def test_an_argument_that_is_passed_by_name_only_is_named() -> None:
    class ByName(nn.Module):
        def forward(self, x: Tensor, time: Tensor, *, label: Tensor) -> Tensor:
            return x

    label = Condition("label", input="label", low=0, high=3)
    spec = Spec("named", (2, 4, 4), (label,), "flow", ScheduleSpec("flow"))
    with refuses("ByName failed", "let forward take label by its position: without * before it"):
        call_module(ByName(), spec, (torch.zeros(1, 2, 4, 4), torch.zeros(1), torch.zeros(1)))
