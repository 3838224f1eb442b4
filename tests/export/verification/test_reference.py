"""The call of a module: errors of a Spec that contradicts it, and errors of its own code."""

import pytest
import torch
from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.export.verification.reference import call_module
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec


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
