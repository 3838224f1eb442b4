"""take_along_dim, gradient, copy_, split and tensor.data keep the batch free, and are equal to torch's."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.export.tracing.torch_functions import TraceableFunctions
from tests.export.denoisers import Tiny, source
from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch
from tests.refusals import refuses

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 5, 7, 6, generator=GENERATOR)
PLACES = torch.randint(0, 7, (1, 5, 3, 1), generator=GENERATOR)
AXES = [torch.randn(size, generator=GENERATOR).sort()[0] for size in X.shape]
TAKEN: Functions = {
    "sorted": lambda x: torch.take_along_dim(x, x.argsort(1), 1),
    "broadcast": lambda x: x.take_along_dim(PLACES, dim=-2),
    "values_broadcast": lambda x: torch.take_along_dim(x[:, :1], PLACES.expand(x.shape[0], -1, -1, -1), 2),
    "all": lambda x: torch.take_along_dim(x, torch.tensor([0, 5, 5])),
}
OPTIONS: list[dict[str, Any]] = [
    {"dim": 1},
    {"dim": -1, "spacing": 0.25},
    {"dim": (1, 3), "spacing": [0.25, 2.0]},
    {"dim": (2, 1), "spacing": (AXES[2], AXES[1])},
    {"dim": 2, "edge_order": 2},
    {"dim": [-2, -1], "spacing": AXES[2:], "edge_order": 2},
]


def derivatives(x: Tensor, **options: Any) -> Tensor:
    return torch.stack(torch.gradient(x, **options))


def write_to_data(x: Tensor) -> Tensor:
    """Return x after a row of zeros, as CogVideoX's position embeddings at a size that is not its configuration's."""
    padded = x.new_zeros(x.shape[0], 1 + x.shape[1], *x.shape[2:])
    padded.data[:, 1:].copy_(x)
    return padded


def copy_to_rows(x: Tensor, source: Tensor) -> Tensor:
    """Return x, whose rows after the first are those of the source, broadcast."""
    copied = x.clone()
    copied[:, 1:].copy_(source)
    return copied


@pytest.mark.slow
def test_einsum_multiplies_tensors_of_different_types() -> None:
    """HiDream's rotary positions: float32 times frequencies of float64."""
    frequencies = 1 / 3 ** torch.arange(4, dtype=torch.float64)
    functions: Functions = {
        "tensors": lambda x: torch.einsum("bchw,d->bchwd", x, frequencies).float(),
        "list": lambda x: torch.einsum("bchw,bd->bcd", [x.double(), x[:, :, 0, 0]]).float(),
    }
    assert_equal_to_torch(functions, X, 1e-6)


@pytest.mark.slow
def test_a_copy_is_broadcast_as_in_torch() -> None:
    functions: Functions = {
        "fewer_axes": lambda x: copy_to_rows(x, torch.arange(6.0)),
        "one_row": lambda x: copy_to_rows(x, x[:, :1]),
        "same": lambda x: copy_to_rows(x, x[:, :-1]),
        "integers": lambda x: copy_to_rows(x, torch.arange(7)[:, None]),
    }
    assert_equal_to_torch(functions, X, 0.0)
    assert_equal_in_16_bits(functions, X, 0.0)


def test_data_is_read_and_written_as_in_torch() -> None:
    functions: Functions = {"written": write_to_data, "read": lambda x: 2 * x.data}
    assert_equal_to_torch(functions, X, 0.0)
    assert_equal_in_16_bits(functions, X, 0.0)


def test_rows_in_parts_are_equal_to_torch() -> None:
    """As Wan Animate encodes the pictures of a video: several at a time, to save memory."""
    functions: Functions = {
        "function": lambda x: torch.cat([part.square() for part in torch.split(x, 3)]),
        "rows_of_samples": lambda x: torch.cat([part.square() for part in x.flatten(0, 1).split(2, dim=0)]),
        "other_axis": lambda x: torch.cat([part.square() for part in x.split([2, 3], dim=1)], 1),
        "one_part_of_other_axis": lambda x: x.split(2, dim=1)[1],
    }
    assert_equal_to_torch(functions, X, 0.0)


class EachRow(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.cat([2 * row for row in x.split(1)])


def test_parts_of_one_row_fix_the_batch() -> None:
    with refuses(("EachRow", "fixes the batch")):
        source(EachRow()).trace()


@pytest.mark.slow
def test_derivatives_are_equal_to_torch() -> None:
    functions = {f"option_{number}": partial(derivatives, **options) for number, options in enumerate(OPTIONS)}
    assert_equal_to_torch(functions, X, 1e-6)


def test_elements_along_an_axis_are_equal_to_torch() -> None:
    assert_equal_to_torch(TAKEN, X, 0.0)
    assert_equal_in_16_bits(TAKEN, X, 0.0)


def test_derivatives_in_16_bits_are_equal_to_torch() -> None:
    assert_equal_in_16_bits({"y": partial(derivatives, dim=1, spacing=0.5)}, X, 2e-2)


@pytest.mark.parametrize("options", [{}, {"spacing": 0.5}, {"spacing": AXES}, {"edge_order": 2}], ids=str)
def test_a_derivative_along_all_axes_has_one_tensor_for_each(options: dict[str, Any]) -> None:
    with TraceableFunctions():
        found = torch.gradient(X, **options)
    for each, wanted in zip(found, torch.gradient(X, **options), strict=True):
        torch.testing.assert_close(each, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


def test_bags_of_entries_are_equal_to_torch() -> None:
    weight = torch.arange(8.0).reshape(4, 2).sqrt()
    bag = partial(torch.nn.functional.embedding_bag, weight=weight)
    functions: Functions = {
        mode: lambda x, mode=mode: bag(x.long(), mode=mode, padding_idx=-1)  # type: ignore[misc]
        for mode in ("sum", "mean", "max")
    }
    functions = {**functions, "weighted": lambda x: bag(x.long(), mode="sum", per_sample_weights=x / 2)}
    x = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 3.0], [3.0, 3.0, 3.0]])
    assert functions["sum"](x)[2].tolist() == [0.0, 0.0]
    assert_equal_to_torch(functions, x, 1e-6)


def test_bags_of_a_list_of_entries_are_refused() -> None:
    class Ragged(Tiny):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            bag = torch.nn.functional.embedding_bag(time.long(), torch.ones(1000, 1), torch.arange(x.shape[0]))
            return super().forward(x, time) * bag[..., None, None]

    with refuses("embedding_bag of a list of indices with offsets has no ONNX equivalent (test_torch_functions.py"):
        source(Ragged()).trace()


def test_a_mask_of_a_transformer_is_not_compared_with_a_causal_one() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).requires_grad_(False).eval()
    mask = torch.nn.Transformer.generate_square_subsequent_mask(3)
    masked: Functions = {"causal": lambda x: encoder(x, mask=mask), "other": lambda x: encoder(x, mask=mask.T)}
    assert_equal_to_torch(masked, torch.randn(3, 3, 4, generator=GENERATOR), 1e-5)
