"""Complex tensors inside a denoiser become pairs of real numbers in its graph."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.export.tracing.capture import capture
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.docs.docs_blocks import blocks
from tests.export.denoisers import Tiny, source
from tests.export.verify_export import verify_source

pytestmark = pytest.mark.slow

SPEECH = Path(__file__).parents[3] / "docs/restoration.md"


class Moving(Tiny):
    """All ways to move the elements of a complex tensor, one after the other."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        z = torch.complex(h, 0.5 * h.flip(1))
        z = z[:, [1, 0]] + z[:, 1].unsqueeze(1) * 2
        first, second = z.split(1, dim=-3)
        third, fourth = z.split([1, 1], 1)
        z = torch.cat([first * third, second, fourth - third], 1)
        z = z[:, None, -2:].expand(-1, 2, -1, -1, -1).repeat(1, 1, 1, 2, 1).select(-4, 1)
        z = torch.where(z.abs() > 0.1, z, 2 * z).index_select(-2, torch.tensor([7, 0, 2, 5]))
        return z.real - z.imag


class Powers(Tiny):
    """An operation that has no form in pairs."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        return torch.exp(torch.complex(h, h)).real


class Writing(Tiny):
    """An assignment to a part of a complex tensor, as in Fourier neural operators."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        modes = torch.zeros(h.shape, dtype=torch.cfloat)
        modes[..., :2] = torch.complex(h, h)[..., :2]
        return modes.real


class Returning(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        return torch.complex(h, h)


@pytest.mark.slow
def test_what_moves_complex_elements_is_exported() -> None:
    torch.manual_seed(0)
    module, batch = Moving().requires_grad_(False), {0: torch.export.Dim("batch")}
    x, time = torch.randn(5, 2, 4, 4), torch.linspace(1, 999, 5)
    graph, _ = capture(module, (x[:3], time[:3]), (batch, batch), ["x", "time"], ["output"])
    wanted = module(x, time).numpy()
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(run(graph, {"x": x.numpy(), "time": time.numpy()})["output"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Powers(), "aten.exp of a complex tensor in Powers"),
        pytest.param(Writing(), "aten.slice_scatter of a", marks=pytest.mark.slow),
    ],
)
def test_what_has_no_form_says_that_it_is_complex(network: Tiny, said: str) -> None:
    made = source(network)
    network.requires_grad_(True)  # as in training
    with pytest.raises(UserError) as failure:
        made.trace()
    assert said in failure.value.what and "has no ONNX equivalent (test_complex_pairs.py:" in failure.value.what
    assert "docs/restoration.md" in failure.value.fix


def test_a_complex_output_says_what_to_return() -> None:
    with pytest.raises(UserError, match=r"Returning returned torch\.complex64, not torch\.float32") as failure:
        source(Returning()).trace()
    assert "view_as_real" in failure.value.fix


class Spectral(nn.Module):
    """Spectrograms as in SGMSE+'s NCSN++: from complex [B, 2, F, T], x and y, to [B, 1, F, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        h = torch.cat([z[:, [0]].real, z[:, [0]].imag, z[:, [1]].real, z[:, [1]].imag], dim=1)
        h = self.last(torch.tanh(self.first(h)) * torch.log(1 + time)[:, None, None, None])
        return torch.view_as_complex(h.permute(0, 2, 3, 1).contiguous())[:, None]


@pytest.mark.slow
def test_the_page_on_speech_wraps_a_complex_network() -> None:
    """The class on that page, around a network written like SGMSE+'s."""
    page = next(block.text for block in blocks(SPEECH) if "class Score" in block.text)
    session: dict[str, type[nn.Module]] = {}
    exec(compile(page, str(SPEECH), "exec"), session)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = Spectral().requires_grad_(False)
    y = Condition("y", "y", (2, 8, 8), "float32", typical=(-0.5, 0.5))
    spec = Spec("speech", (2, 8, 8), (y,), "score", ScheduleSpec("ou"), towards="y")
    made = with_sizes(TorchSource(session["Score"](network), spec, "speech", "0" * 64), ["frames@2=8:24:8"])
    assert isinstance(made, TorchSource)
    assert verify_source(made)[1].worst.relative < 1e-5

    x, noisy = torch.randn(2, 2, 8, 8), torch.randn(2, 2, 8, 8)
    time = torch.tensor([0.3, 0.9])
    pair = torch.stack([torch.complex(x[:, 0], x[:, 1]), torch.complex(noisy[:, 0], noisy[:, 1])], dim=1)
    score = -2 * network(pair, time)
    torch.testing.assert_close(made.module(x, time, noisy), torch.cat([score.real, score.imag], dim=1))
