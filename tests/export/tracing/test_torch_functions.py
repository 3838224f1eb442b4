"""copy_, split and tensor.data keep the batch free, and are equal to torch's."""

import pytest
import torch
from torch import Tensor

from tests.export.denoisers import Tiny, source
from tests.export.tracing.operations import Functions, assert_equal_in_16_bits, assert_equal_to_torch
from tests.refusals import refuses

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 5, 7, 6, generator=GENERATOR)


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
def test_a_mask_of_a_transformer_is_not_compared_with_a_causal_one() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).requires_grad_(False).eval()
    mask = torch.nn.Transformer.generate_square_subsequent_mask(3)
    masked: Functions = {"causal": lambda x: encoder(x, mask=mask), "other": lambda x: encoder(x, mask=mask.T)}
    assert_equal_to_torch(masked, torch.randn(3, 3, 4, generator=GENERATOR), 1e-5)
