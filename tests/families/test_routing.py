"""Routed networks, compared with the loops of their authors' code."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, which runs them, is not installed")
import torch
from torch.nn import functional as F

from fewstep.plans.schedule import NoiseSchedule
from tests.families import audiobox, dit_moe, diti, dtr, mask_and_class, prime_depth


def record_calls(*parts: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the first input and the output of each call of these parts, in order."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part in parts:
        part.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    return calls


def test_a_window_of_channels_slides_with_time() -> None:
    module, _ = dtr.make()
    width, count = dtr.WIDTH, int(dtr.WIDTH * dtr.SHARE)
    index = (np.linspace(0, 1, 1000) ** 4 * (width - count)).round().astype(int)
    expected = np.zeros((1000, width))
    for time in range(1000):
        expected[time, index[time] : index[time] + count] = 1
    assert np.array_equal(module.routes.numpy(), expected)
    assert (index[0], index[-1]) == (0, width - count)


def test_channels_off_the_window_pass_a_block_by() -> None:
    module, _ = dtr.make()
    calls = record_calls(*module.blocks, module.last)
    x, time = torch.randn(2, 4, 8, 8), torch.tensor([999.0, 850.0])
    module(x, time, torch.tensor([1, 1]))
    route = module.routes[[999, 850]][:, None]
    h = module.patches(x).flatten(2).transpose(1, 2) + module.places
    for seen, output in calls[:2]:
        assert torch.equal(seen, h * route)
        h = output + h * (1 - route)
    assert torch.equal(calls[2][0], F.layer_norm(h, h.shape[2:])) and not torch.equal(*route)


def test_the_dense_form_is_the_loop_over_tokens() -> None:
    """By the weights of a block: two of the experts, weighted by their shares of all, and both shared ones as a
    wider one.
    """
    module, _ = dit_moe.make()
    block, width = module.blocks[0], dit_moe.WIDTH
    calls, h = record_calls(block.inner), torch.randn(2, 5, width)
    out = block(h, torch.randn(2, width))

    def made(expert: torch.nn.Module, at: torch.Tensor) -> torch.Tensor:
        return expert.down.weight @ (F.silu(expert.gate.weight @ at) * (expert.up.weight @ at))

    ((h, dense),) = calls
    loop = torch.zeros_like(h)
    for sample, token in np.ndindex(2, 5):
        at = h[sample, token]
        loop[sample, token] = made(block.inner.shared, at)
        weights, chosen = (block.inner.route.weight @ at).softmax(0).topk(2)
        for weight, number in zip(weights, chosen, strict=True):
            loop[sample, token] += weight * made(block.inner.experts[int(number)], at)
    torch.testing.assert_close(dense, loop)
    assert torch.autograd.grad(out.sum(), dense)[0].any() and block.inner.shared.up.out_features == 2 * width


@pytest.mark.parametrize(("time", "part"), [(0.0, 1), (499.0, 8), (500.0, 9), (999.0, 16)])
def test_a_time_sees_the_first_numbers_of_the_code_alone(time: float, part: int) -> None:
    module, _ = diti.make()
    code = torch.randn(1, diti.CODE).requires_grad_()
    module.encoder.register_forward_hook(lambda *_: code)
    calls = record_calls(module.last, module.shift)
    noise, left = module(torch.randn(1, 3, 8, 8), torch.tensor([time]), torch.randn(1, 3, 8, 8))
    (_, frozen), (_, lost) = calls
    torch.testing.assert_close(noise, frozen - NoiseSchedule(diti.SCHEDULE).sigma(time) * lost)
    (slope,) = torch.autograd.grad(noise.sum(), code)
    assert left is code and (slope[0, :part] != 0).all() and (slope[0, part:] == 0).all()


def test_sound_hears_what_is_kept_alone_and_joins_early_layers_to_late_ones() -> None:
    module, spec = audiobox.make()
    x, time, words = torch.randn(2, *spec.x_shape), torch.tensor([0.3, 0.7]), torch.randn(2, audiobox.WORDS, 8)
    context, kept = torch.randn_like(x), (torch.rand(2, 1, audiobox.FRAMES) < 0.5).float()
    calls = record_calls(*module.layers, *module.joins)
    heard = module(x, time, context, kept, words)
    (_, first), (_, second), (joined, _), (_, third), (last, _), _ = calls
    assert torch.equal(joined, torch.cat([second, second], 2)) and torch.equal(last, torch.cat([third, first], 2))
    assert torch.equal(module(x, time, context + 9 * (1 - kept), kept, words), heard)
    for other in ((time, context + 9 * kept, words), (time.flip(0), context, words), (time, context, words + 1)):
        assert not torch.equal(module(x, *other[:2], kept, other[2]), heard)
    heard.sum().backward()  # every part is read, the places and the mask too
    assert all(weight.grad.any() for weight in module.parameters()) and module.joined.weight.grad[:, -1].any()


def test_depth_reads_the_denoiser_s_features_of_both_resolutions() -> None:
    """The refiner begins at the coarsest features, and joins the finest ones and the picture."""
    module, spec = prime_depth.make()
    calls, x = record_calls(module.middle, module.last), torch.randn(2, *spec.x_shape)
    _, depth = module(x, torch.ones(2))
    (_, coarse), (fine, _) = calls
    refined = F.interpolate(F.silu(module.coarse(F.silu(coarse))), scale_factor=2.0)
    refined = F.silu(module.fine(torch.cat([refined, fine, module.picture(x)], dim=1)))
    assert depth.shape == (2, 16, 16)
    assert torch.equal(depth, module.depth(F.interpolate(refined, scale_factor=2.0))[:, 0])


def test_heads_of_sound_hear_less_of_what_is_farther_by_the_slopes_of_alibi() -> None:
    """2 ** (-8 k / heads) (Press et al. 2022), in both directions (Voicebox). The time token is near to all."""
    layer, width, count = audiobox.make()[0].layers[0], audiobox.WIDTH, audiobox.FRAMES + 1
    layer.qkv.weight.data[:width], layer.qkv.bias.data[:width] = 0, 0  # queries that ask for nearness alone
    calls = record_calls(layer.qkv, layer.out)
    layer(torch.randn(1, count, width), torch.randn(1, audiobox.WORDS, width))
    (_, made), (heard, _) = calls
    away = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    away[0] = away[:, 0] = 0
    shares = torch.stack([(-slope * away).softmax(1) for slope in (2**-4, 2**-8)])
    expected = shares @ audiobox.split(made[..., 2 * width :])
    torch.testing.assert_close(heard, expected.transpose(1, 2).flatten(2))


def test_mask_and_class_are_decoded_from_the_features_of_the_denoiser() -> None:
    """The mask from the features of the last resolution, as a probability, and the class from the mean of the
    coarsest.
    """
    module, _ = mask_and_class.make()
    calls = record_calls(module.middle, module.picture)
    x, mask, logits = module(torch.randn(2, 3, 8, 8), torch.tensor([900.0, 100.0]))
    (_, coarse), (fine, picture) = calls
    hidden, out = module.mask[0], module.mask[2]
    drawn = F.conv2d(F.silu(F.conv2d(fine, hidden.weight, hidden.bias, padding=1)), out.weight, out.bias)
    assert torch.equal(x, picture) and mask.shape == (2, 1, 8, 8) and logits.shape == (2, 10)
    torch.testing.assert_close(mask, 1 / (1 + torch.exp(-drawn)))
    torch.testing.assert_close(logits, module.label(F.silu(coarse).mean((2, 3))))
