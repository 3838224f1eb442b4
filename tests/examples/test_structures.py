"""Structures of AlphaFold 3's diffusion: algorithm 18 with a rotation a step, as Protenix-Mini runs it in two."""

import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, which exports them, is not installed")
import torch
from torch.nn import functional

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans.noise import normal
from fewstep.runtime import UserError, load

EXAMPLE = Path(__file__).parents[2] / "docs/examples" / "structures.py"
STEPS, SEEDS = 3, (4, 5)


def test_a_block_adds_a_bias_for_each_pair_to_the_scores() -> None:
    """By loops over heads and atoms, where the block multiplies matrices."""
    torch.manual_seed(0)
    block, width, heads = runpy.run_path(str(EXAMPLE))["Block"](), 32, 2
    h, known, pairs = torch.randn(1, 4, width), torch.randn(1, 4, width), torch.randn(1, 4, 4, width)
    shift, scale, gate, shift2, scale2, gate2 = block.known(functional.silu(known))[0].split(width, dim=1)
    q, k, v = block.qkv(functional.layer_norm(h[0], (width,)) * (1 + scale) + shift).split(width, dim=1)
    seen = torch.zeros(4, width)
    for head, atom in np.ndindex(heads, 4):
        part = slice(head * width // heads, (head + 1) * width // heads)
        scores = [q[atom, part] @ k[other, part] / 4 + block.pair(pairs[0, atom, other])[head] for other in range(4)]
        shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        seen[atom, part] = sum(share * v[other, part] for other, share in enumerate(shares))
    after = h[0] + gate * block.out(seen)
    inner = block.wide(functional.layer_norm(after, (width,)) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(h, known, pairs)[0], after + gate2 * block.narrow(functional.gelu(inner)))


def test_the_shift_has_numbers_of_its_own() -> None:
    drawn = np.zeros((1, 3, 3))
    drawn[0, 0, 0], drawn[0, 2] = 1.0, (5.0, 6.0, 7.0)  # the quaternion of no rotation, and the shift
    x = np.array([[[1.0, 2.0, 3.0], [3.0, 0.0, 1.0], [2.0, 1.0, 2.0]]])
    moved = runpy.run_path(str(EXAMPLE))["rotate_randomly"](x, lambda number: drawn, 0)
    np.testing.assert_allclose(moved, x - x.mean(axis=1, keepdims=True) + (5.0, 6.0, 7.0))


@pytest.mark.slow
def test_steps_are_algorithm_18_without_noise(tmp_path: Path) -> None:
    """gamma 0 and eta 1: sigmas of the authors' schedule, D by hand, and the rotations that the draws name."""
    names = runpy.run_path(str(EXAMPLE))
    export(ExportOptions(f"{EXAMPLE}:make", tmp_path / "bundle"))
    trunk = np.stack([normal(0, number, (12, 24)) for number in SEEDS])
    sampler = load(tmp_path / "bundle")
    samples = names["sample"](sampler, names["steps_of"](STEPS), SEEDS, {"trunk": trunk})

    heard: list[float] = []  # the sine of c_noise, at the least of the frequencies
    module, data, draws = names["make"]()[0].eval(), 16.0, sampler.draws(SEEDS)
    module.time.register_forward_pre_hook(lambda _, fed: heard.append(float(fed[0][0, 0])))
    ends = (data * 160.0) ** (1 / 7), (data * 4e-4) ** (1 / 7)
    sigmas = [(ends[0] + i / STEPS * (ends[1] - ends[0])) ** 7 for i in range(STEPS)] + [0.0]
    x = sigmas[0] * draws(0).astype(np.float64)
    for index, (s, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        before = x
        x = names["rotate_randomly"](x, draws, index).astype(np.float64)
        far = [np.linalg.norm(each[:, :, None] - each[:, None], axis=-1) for each in (before, x)]
        np.testing.assert_allclose(*far, rtol=1e-5, atol=1e-4)  # distances stay
        scaled = torch.from_numpy((x / np.hypot(s, data)).astype(np.float32))
        with torch.no_grad():
            raw = module(scaled, torch.full((2,), np.log(s) / 4).float(), torch.from_numpy(trunk)).numpy()
        assert heard[-1] == pytest.approx(np.sin(np.log(s / data) / 4), abs=1e-5)
        denoised = data**2 / (s**2 + data**2) * x + s * data / np.hypot(s, data) * raw
        x = x + (t - s) * (x - denoised) / s
    np.testing.assert_allclose(samples, x, rtol=1e-3, atol=1e-3)
    corners = 5 + np.vstack([np.eye(3), -np.eye(3)])[None].repeat(2, 0)
    made = np.stack([names["rotate_randomly"](corners, draws, index) for index in range(300)]).astype(np.float64)
    centres = made.mean(-2)  # a normal step from 0, and no draw of the plan
    assert np.square(centres).mean() == pytest.approx(1, abs=0.12) and np.abs(centres[0] - draws(0)[:, 2]).min() > 1e-3
    rotations = made[..., :3, :] - centres[..., None, :]
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-5)  # no mirror
    assert np.abs(rotations.mean((0, 1))).max() < 0.12  # in every direction
    with pytest.raises(UserError, match="with one row"):
        names["sample"](sampler, "dpmpp_2m:3", SEEDS, {"trunk": trunk})
