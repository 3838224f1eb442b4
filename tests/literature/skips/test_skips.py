"""Skip-Tuning and FreeU: the connections that they find and their effect, compared with diffusers and by hand."""

import copy
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.changes import apply_changes, read_change
from fewstep.export.export_options import ExportOptions
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.graph.prepare import prepare
from fewstep.literature.gradients.gradient import Noisy, with_gradient, write_backward_pass
from fewstep.literature.skips.freeu import freeu, scale_low_frequencies
from fewstep.literature.skips.skip_connections import Skip, find_skips
from fewstep.literature.skips.skip_tuning import interpolate_factors, skip_tuning
from fewstep.models.fashion_mnist.unet import IMAGE_SHAPE, UNet
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition, Size
from tests.export.denoisers import Tiny, source
from tests.export.verify_export import verify
from tests.literature.attention.networks import Text
from tests.refusals import refuses

B, S = (1.4, 1.6), (0.5, 0.3)
FREEU = tuple(map(str, (*B, *S)))
SPEC = Spec("own", (2, 8, 8), (), "epsilon", ScheduleSpec("linear"))


class Block(nn.Module):
    """A dense block, which concatenates its input with its output."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.out = nn.Conv2d(channels_in + channels_out, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, torch.relu(self.conv(x))], dim=1))


class Own(nn.Module):
    """A U-Net of no library: two resolutions, the outer skip scaled by 1/sqrt(2) and first in the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.outer, self.inner, self.middle = (
            Block(2, 4),
            Block(4, 6),
            nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1)),
        )
        self.up, self.last = Block(12, 4), nn.Conv2d(8, 2, 3, padding=1)
        self.factors = (1.0, 1.0)  # of the inner and of the outer skip: what the tests compare with

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        waves = torch.cat([torch.cos(time)[:, None], torch.sin(time)[:, None]], dim=1)
        h = self.outer(x) + waves.sum(1)[:, None, None, None]
        g = self.inner(nn.functional.avg_pool2d(h, 2))
        m = self.up(torch.cat([self.middle(g), g * self.factors[0]], dim=1))
        big = nn.functional.interpolate(m, scale_factor=2.0)
        return self.last(torch.concat(tensors=(h * 0.5**0.5 * self.factors[1], big), axis=1))


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, 8, 8, generator=generator), torch.tensor([10.0, 500.0, 900.0])[:batch]


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 8), (1, 2, 7, 5), (1, 1, 16, 12), (1, 2, 2, 2), (1, 2, 1, 4), (1, 1, 1, 1)]
)
def test_low_frequencies_are_scaled_as_by_a_fourier_transform(shape: tuple[int, ...]) -> None:
    """Frequencies -1 and 0 along both axes, as FreeU's filter with threshold 1."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    frequencies = np.fft.fft2(x.double().numpy())
    rows, columns = np.ix_([0, -1], [0, -1])
    frequencies[..., rows, columns] *= 0.3
    expected = np.fft.ifft2(frequencies).real
    np.testing.assert_allclose(scale_low_frequencies(x, 0.3).numpy(), expected, atol=1e-6)


def test_low_frequencies_are_those_of_diffusers() -> None:
    torch_utils = pytest.importorskip("diffusers.utils.torch_utils")
    x = torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scale_low_frequencies(x, 0.2), torch_utils.fourier_filter(x, 1, 0.2), atol=1e-6, rtol=0)


def test_skips_are_those_over_the_bottleneck() -> None:
    """Dense blocks and the features of the time also concatenate, but are not skips."""
    assert find_skips(Own(), SPEC) == (Skip(3, 1, (3, 6, 4, 4)), Skip(5, 0, (3, 4, 8, 8)))


@pytest.fixture(scope="module")
def small_unet() -> tuple[nn.Module, Spec]:
    """The architecture of the shipped UNet with few channels. Tests must not change it."""
    label = Condition("class", "class", null=10, low=0, high=9)
    return UNet((8, 8, 8), 16).requires_grad_(False), Spec("tiny", IMAGE_SHAPE, (label,), "v", ScheduleSpec("cosine"))


def test_the_shipped_unet_has_four(small_unet: tuple[nn.Module, Spec]) -> None:
    assert [skip.shape[2] for skip in find_skips(*small_unet)] == [7, 14, 14, 28]


@pytest.mark.parametrize(
    ("scales", "factors"), [((0.8,), (0.8, 0.8)), ((0.7, 1.0), (0.7, 1.0)), ((1.0, 0.5), (1.0, 0.5))]
)
def test_skips_are_scaled_from_the_innermost_to_the_outermost(
    scales: tuple[float, ...], factors: tuple[float, float]
) -> None:
    ours, expected = Own().requires_grad_(False), Own().requires_grad_(False)
    expected.factors = factors
    skip_tuning(ours, SPEC, *map(str, scales))
    torch.testing.assert_close(ours(*inputs()), expected(*inputs()), atol=1e-6, rtol=0)


def test_factors_between_lie_on_straight_lines(small_unet: tuple[nn.Module, Spec]) -> None:
    found = interpolate_factors(find_skips(*copy.deepcopy(small_unet)), (0.7, 1.0), small_unet[0])
    np.testing.assert_allclose(found, [0.7, 0.8, 0.9, 1.0])


def test_freeu_on_a_user_supplied_network_is_by_hand() -> None:
    """The lowest resolution has the first factors, the next the second ones, on half of the backbone's channels."""
    ours, own = Own().requires_grad_(False), Own().requires_grad_(False)
    freeu(ours, SPEC, *FREEU)
    x, time = inputs()
    h = own.outer(x) + (torch.cos(time) + torch.sin(time))[:, None, None, None]
    g = own.inner(nn.functional.avg_pool2d(h, 2))
    middle = own.middle(g) * torch.tensor([1.4] * 3 + [1.0] * 3)[:, None, None]
    m = own.up(torch.cat([middle, scale_low_frequencies(g, 0.5)], 1))
    big = nn.functional.interpolate(m, scale_factor=2.0) * torch.tensor([1.6] * 2 + [1.0] * 2)[:, None, None]
    expected = own.last(torch.cat([scale_low_frequencies(h * 0.5**0.5, 0.3), big], 1))
    torch.testing.assert_close(ours(x, time), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def conditional() -> nn.Module:
    """Three resolutions, of which FreeU changes two. Tests must not change it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=12,
    ).requires_grad_(False)


def test_freeu_is_that_of_diffusers(conditional: nn.Module) -> None:
    theirs, ours = copy.deepcopy(conditional).eval(), Text(copy.deepcopy(conditional))
    theirs.enable_freeu(s1=S[0], s2=S[1], b1=B[0], b2=B[1])
    plain = ours.eval()(*inputs())
    assert len(find_skips(ours, SPEC)) == 6
    freeu(ours, SPEC, *FREEU)
    expected = Text(theirs)(*inputs())
    torch.testing.assert_close(ours(*inputs()), expected, atol=1e-5, rtol=0)
    assert (expected - plain).abs().max() > 0.05


def test_skip_scales_are_those_of_the_blocks_arguments(conditional: nn.Module) -> None:
    """diffusers passes each block its skips, the last one first."""
    theirs, ours = copy.deepcopy(conditional).eval(), Text(copy.deepcopy(conditional))
    scales = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

    def scale_skips(
        block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        taken = kwargs["res_hidden_states_tuple"]
        own = [scales.pop(0) for _ in taken]
        return args, {**kwargs, "res_hidden_states_tuple": tuple(t * s for t, s in zip(taken, own[::-1], strict=True))}

    for block in theirs.up_blocks:
        block.register_forward_pre_hook(scale_skips, with_kwargs=True)
    skip_tuning(ours, SPEC, "0.5", "1")
    torch.testing.assert_close(ours(*inputs()), Text(theirs)(*inputs()), atol=1e-5, rtol=0)


def test_a_gradient_goes_through_scaled_skips() -> None:
    """The concatenation of the energy is not the network's."""

    def energy(x0: Tensor, noisy: Noisy) -> Tensor:
        return torch.cat([x0, 2 * x0], dim=1).square().flatten(1).sum(1)

    own = Own().requires_grad_(False)
    own.factors = (0.7, 1.0)
    expected, _ = with_gradient(own, SPEC, energy)
    ours, spec = with_gradient(Own().requires_grad_(False), SPEC, energy)
    skip_tuning(ours, spec, "0.7", "1")
    torch.testing.assert_close(
        write_backward_pass(ours, inputs())(*inputs()), expected(*inputs()), atol=1e-5, rtol=1e-5
    )


def own_source(*changes: str) -> TorchSource:
    source = TorchSource(Own().requires_grad_(False), SPEC, "own", "0" * 64)
    made = apply_changes(source, (), tuple(map(read_change, changes)))
    assert isinstance(made, TorchSource)
    return made


@pytest.mark.slow
def test_the_graph_is_that_of_the_changed_module() -> None:
    """After verification: factors are constants, layers keep their names, and the filter is too narrow for int8."""
    plain, traced = own_source().trace(), own_source("skip_tuning:0.5,1", "freeu:1.4,1.6,0.5,0.3").trace()
    prepared = prepare(traced.graph)
    assert verify(SPEC, traced, prepared).worst.relative < 1e-5
    assert not {"Range", "Cos", "Sin", "Where", "Shape", "DFT"} & set(prepared.body.ops())
    convolutions = [{node.name for node in made.graph.nodes if node.op == "Conv"} for made in (plain, traced)]
    assert convolutions[0] == convolutions[1]
    narrow = {weight.shape for weight in prepared.body.constants.values() if weight.ndim == 2 and 7 in weight.shape}
    assert narrow == {(16, 7), (7, 16), (64, 7), (7, 64)}


def test_factors_of_one_leave_the_network_as_it_is() -> None:
    programs = (
        torch.export.export(source.module, inputs(), strict=False)
        for source in (own_source("skip_tuning:1"), own_source())
    )
    ones, plain = ([(n.target, n.name) for n in program.graph.nodes if n.op == "call_function"] for program in programs)
    assert ones == plain


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "skip_tuning:1,1,1",
            "--change skip_tuning has 3 factors, but Own has 2 skips; give at most that many",
        ),
        ("skip_tuning:nan", "the factors of --change skip_tuning must be from 0 to 10, not nan; give numbers around 1"),
        ("skip_tuning:-0.5", "the factors of --change skip_tuning must be from 0 to 10, not -0.5"),
        ("skip_tuning:much", "the factors of --change skip_tuning must be numbers, not much; give numbers around 1"),
        ("skip_tuning", "--change skip_tuning needs at least one factor"),
        ("freeu:1,1", "--change freeu has 2 numbers, but needs 4; give b1,b2,s1,s2"),
        ("freeu:1,1,99,1", "the factors of --change freeu must be from 0 to 10, not 99"),
    ],
)
def test_what_does_not_fit_is_one_line(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        own_source(change)


def test_a_network_without_skips_says_so() -> None:
    with refuses("Tiny", "leave the change out"):
        apply_changes(source(Tiny()), [], (read_change("skip_tuning:0.8"),))


def test_one_change_goes_around_another() -> None:
    """FreeU acts on the inputs of the concatenation, and Skip-Tuning multiplies in it, whichever is named first."""
    both, other = own_source("skip_tuning:0.5,1", "freeu:1.4,1.6,0.5,0.3"), own_source("freeu:1.4,1.6,0.5,0.3")
    skip_tuning(other.module, SPEC, "0.5", "1")
    torch.testing.assert_close(both.module(*inputs()), other.module(*inputs()), atol=1e-6, rtol=1e-5)


def test_freeu_is_for_images() -> None:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(6, 2, 3, padding=1)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return self.last(torch.cat([self.first(x), x], dim=1)) * time[:, None, None]

    sound = Spec("sound", (2, 8), (), "epsilon", ScheduleSpec("linear"))
    assert interpolate_factors(find_skips(Sound(), sound), (0.9,), Sound()) == [0.9]
    with refuses(("freeu is for images", "Sound")):
        freeu(Sound(), sound, *FREEU)


def test_the_hash_and_the_command_say_how_it_was_tuned() -> None:
    hashes = {own_source(*each).sha256 for each in ((), ("skip_tuning:0.8",), ("skip_tuning:0.9",), ("freeu:1,1,1,1",))}
    assert len(hashes) == 4
    options = ExportOptions("own", "out", change=("skip_tuning:0.8,1", "pag:middle,a.0"))
    assert options.command_line("export") == "fewstep export BUNDLE --change skip_tuning:0.8,1 --change pag:middle,a.0"


@pytest.mark.slow
def test_sizes_may_stay_free() -> None:
    """The frequencies of FreeU's filter are computed for the size of the call."""
    sizes = (Size("height", 1, 8, 16, 2), Size("width", 2, 8, 16, 2))
    module, spec = Own().requires_grad_(False), msgspec.structs.replace(SPEC, sizes=sizes)
    freeu(*skip_tuning(module, spec, "0.5", "1"), *FREEU)
    traced = TorchSource(module, spec, "own", "0" * 64).trace()
    assert verify(spec, traced, prepare(traced.graph)).worst.relative < 1e-5
