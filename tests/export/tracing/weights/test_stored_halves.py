"""Weights in half precision of modules that compute in float32."""

import pytest
import torch
from torch import nn

from fewstep.export.trace import trace
from fewstep.export.tracing.weights.stored_halves import count_weights, restore_parameters, stored_halves, to_float32
from fewstep.graph import widened
from fewstep.graph.prepare import simplify
from fewstep.graph.widened import stored_array
from tests.export.networks.half_denoiser import make

INPUTS = torch.ones(2, 8, 16), torch.tensor([3.0, 900.0]), torch.tensor([0, 7])


@pytest.fixture(autouse=True)
def _small_weights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 4096)


def plain() -> nn.Module:
    return make()[0].float()


def test_the_module_computes_as_in_float32() -> None:
    module = to_float32(make()[0])
    with torch.no_grad():
        assert torch.equal(module(*INPUTS), plain()(*INPUTS))
    assert {name for name, _ in stored_halves(module)} == {
        "label.weight",
        "time.weight",
        "wide.weight",
        "narrow.weight",
    }
    assert all(tensor.dtype == torch.bfloat16 for _, tensor in stored_halves(module))
    assert count_weights(module) == count_weights(plain())


class ScaledEmbedding(nn.Embedding):
    """An embedding with a forward of its own, as in some text encoders."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * 3


@pytest.mark.parametrize("kind", [nn.Embedding, ScaledEmbedding])
def test_only_the_rows_of_a_table_that_are_read_become_float32(
    kind: type[nn.Embedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, stored = kind(400, 48), kind(400, 48).bfloat16()
    plain.load_state_dict({"weight": stored.weight.float()})
    layer, ids, sizes = to_float32(stored), torch.tensor([[3, 3, 7]]), list[int]()
    to_float = torch.Tensor.float

    def record(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return to_float(tensor)

    monkeypatch.setattr(torch.Tensor, "float", record)
    with torch.no_grad():
        assert torch.equal(layer(ids), plain(ids)) and isinstance(layer, kind)
    assert sizes == [3 * 48]
    restore_parameters(layer)
    assert type(layer) is kind and torch.equal(layer.weight, plain.weight)


def test_parameters_that_code_changes_are_restored() -> None:
    module = to_float32(make()[0])
    restore_parameters(module)
    assert not [*stored_halves(module)]
    for (name, own), (other, weight) in zip(
        sorted(module.named_parameters()), sorted(plain().named_parameters()), strict=True
    ):
        assert name == other and own.dtype == torch.float32 and torch.equal(own, weight)


def test_a_trace_has_the_operations_of_float32_and_the_weights_of_16_bits() -> None:
    graph = simplify(trace(*make()).graph)
    module, spec = make()
    assert graph.ops() == simplify(trace(module.float(), spec).graph).ops()
    stored = [own for array in graph.constants.values() if (own := stored_array(array)) is not None]
    assert sorted(array.size for array in stored) == [4 * 48 * 48, 4 * 48 * 48, 400 * 48]


def test_a_table_whose_rows_torch_shortens_is_as_in_float32() -> None:
    plain, stored = nn.Embedding(400, 48, max_norm=1.0), nn.Embedding(400, 48, max_norm=1.0).bfloat16()
    plain.load_state_dict({"weight": stored.weight.float()})
    ids = torch.tensor([[3, 3, 7]])
    with torch.no_grad():
        assert torch.equal(to_float32(stored)(ids), plain(ids))
