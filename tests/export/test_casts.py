"""A module that casts to a fixed dtype gets a message about the cast."""

import pytest
import torch
from torch import Tensor

from fewstep.export.verification.reference import call_module
from fewstep.plans.errors import UserError
from tests.export.denoisers import Raising, Tiny, source


class Casting(Tiny):
    """As guided-diffusion's UNet with use_fp16: it casts to the weights' type of its trunk, and to `self.dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.conv.to(dtype)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(x.type(self.dtype)).type(x.dtype)


class Following(Casting):
    """A cast to the type of the weights, which export can change."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(x.type(self.conv.weight.dtype)).type(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_and_the_cure_are_named(dtype: torch.dtype) -> None:
    says = rf"Casting casts to {str(dtype)[6:]}, but export .* to float32 \(test_casts\.py:\d+\); build it in"
    with pytest.raises(UserError, match=says) as failure:
        source(Casting(dtype)).trace()
    assert "use_fp16=False" in failure.value.fix


@pytest.mark.parametrize("module", [Raising(), Tiny()])
def test_other_failures_are_none_of_it(module: Tiny) -> None:
    with pytest.raises(UserError) as failure:
        call_module(module, source(module).spec, (torch.zeros(3, 5, 4, 4), torch.ones(3)))
    assert "casts to" not in failure.value.what


def test_a_cast_that_follows_the_weights_is_none() -> None:
    module = Following(torch.float16).float()
    assert call_module(module, source(module).spec, (torch.zeros(3, 2, 4, 4), torch.ones(3))).dtype == torch.float32
