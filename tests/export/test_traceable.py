"""Modules without Python code, float weights or values are refused before anything is traced."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.export.traceable import refuse_nested_tensors
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.export.denoisers import Tiny, source
from tests.export.verify_export import verify_source
from tests.refusals import refuses

SPEC = Spec("tiny", (2, 4, 4), (), "epsilon", ScheduleSpec("linear"))
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of what it means to remove


def quantize_layer() -> nn.Module:
    """The linear layer that scales by the time has int8 weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic: Any = torch.ao.quantization
        made: nn.Module = dynamic.quantize_dynamic(Tiny().requires_grad_(False), {nn.Linear})
    return made


def partly_scripted() -> nn.Module:
    module = Tiny()
    module.conv = torch.jit.script(module.conv)
    return module


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: torch.jit.script(Tiny()), r"Tiny is a TorchScript module .*; return the original Python module"),
        (
            lambda: torch.jit.trace(Tiny(), (torch.zeros(3, 2, 4, 4), torch.ones(3))),
            r"Tiny is a TorchScript module .*; return the original Python module",
        ),
        (partly_scripted, r"conv \(Conv2d\) of Tiny is a TorchScript module"),
        (quantize_layer, r"scale \(Linear\) of Tiny is quantized already; return the float module"),
        (lambda: Tiny().to("meta"), r"weight 'conv\.weight' of Tiny is on the meta device, .*; load its weights"),
        (lambda: nn.Sequential(nn.LazyLinear(2)), r"weight '0\.weight' of 0 \(LazyLinear\) of Sequential has no shape"),
    ],
    ids=["scripted", "traced", "inside", "quantized", "meta", "lazy"],
)
def test_what_cannot_be_traced_says_what_to_return(make: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        TorchSource(make(), SPEC, "tiny", "0" * 64)


def test_float_modules_pass() -> None:
    assert source(Tiny()).label == "tiny"
    assert isinstance(source(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))), TorchSource)


def make_weights() -> nn.Module:
    with torch.inference_mode():
        return Tiny()


def make_buffer() -> nn.Module:
    module = Tiny()
    with torch.inference_mode():
        module.register_buffer("table", torch.ones(2))
    return module


def make_attribute() -> nn.Module:
    module = Tiny()
    with torch.inference_mode():
        module.conv.scale = torch.ones(2)  # type: ignore[assignment]
    return module


@pytest.mark.parametrize(
    ("make", "named"),
    [(make_weights, "of conv (Conv2d) of Tiny"), (make_buffer, "'table' of Tiny"), (make_attribute, "'scale' of conv")],
)
def test_tensors_of_inference_mode_are_named(make: Any, named: str) -> None:
    with refuses((named, "was created in torch.inference_mode"), "build the module outside of it"):
        TorchSource(make(), SPEC, "tiny", "0" * 64)


class Encoding(nn.Module):
    """Tokens with a mask, which a TransformerEncoder makes nested tensors of in evaluation mode."""

    def __init__(self, nested: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        encoded: torch.Tensor = self.encoder(x, src_key_padding_mask=mask & (torch.arange(3) > 0))
        return encoded * time[:, None, None]


def encoding_source(nested: bool) -> TorchSource:
    mask = Condition("mask", input="mask", shape=(3,), dtype="bool", low=0, high=1)
    return TorchSource(Encoding(nested), Spec("a", (3, 4), (mask,), "v", ScheduleSpec("cosine")), "a", "0" * 64)


def test_nested_tensors_are_refused() -> None:
    with refuses("encoder (TransformerEncoder) of Encoding makes nested tensors", "enable_nested_tensor=False"):
        encoding_source(True).trace()


def test_the_encoder_of_a_transformer_is_refused_until_its_attribute_is_set() -> None:
    module = nn.Transformer(4, 2, 1, 1, 4, batch_first=True).eval()
    with refuses("encoder (TransformerEncoder) of Transformer makes nested", "set use_nested_tensor = False on it"):
        call_with_mask(module)
    module.encoder.use_nested_tensor = False
    call_with_mask(module)


def call_with_mask(module: nn.Module) -> None:
    x, mask = torch.ones(1, 3, 4), torch.tensor([[False, False, True]])
    with torch.no_grad(), refuse_nested_tensors(module):
        module(x, x, src_key_padding_mask=mask)


def test_an_encoder_that_makes_no_nested_tensors_now_is_not_refused() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        call_with_mask(nn.Transformer(4, 2, 1, 1, 4, batch_first=True).eval())
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.slow
def test_an_encoder_without_nested_tensors_is_equal_to_torch() -> None:
    _, table = verify_source(encoding_source(False))
    assert table.worst.relative < 1e-5
