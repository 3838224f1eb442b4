"""Sample coordinates [N, 3] of structures in a few steps, as in Protenix-Mini (Gong et al. 2025, arXiv 2507.11839).
Before each step, the structure is centred, rotated and moved at random (AlphaFold 3, algorithm 19).

    python docs/examples/structures.py BUNDLE

The trunk's embedding of a sequence is a condition, and the part of the network that depends only on it runs once. The
network takes c_noise = log(sigma / 16) / 4, for coordinates with standard deviation 16. The weights are random; make()
would load trained ones.
"""

import sys
from collections.abc import Callable, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as f

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans.noise import normal
from fewstep.runtime import UserError, load
from fewstep.runtime.sampling.execute import begin, build_evaluation, combine, update
from fewstep.runtime.sampling.sampler import Sampler

ATOMS, WIDTH, HEADS, TRUNK = 12, 32, 2, 24
SIGMA_DATA = 16.0
LOW, HIGH = SIGMA_DATA * 4e-4, SIGMA_DATA * 160.0  # sigmas
TURNS = 2**30  # the first draw for rotations, after all draws of plans


class Block(nn.Module):
    """Attention between atoms, with a bias for each pair from the trunk's embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Linear(WIDTH, 6 * WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.pair = nn.Linear(WIDTH, HEADS)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, h: Tensor, known: Tensor, pairs: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.known(f.silu(known)).chunk(6, dim=2)
        q, k, v = self.qkv(f.layer_norm(h, (WIDTH,)) * (1 + scale) + shift).unflatten(2, (3, HEADS, -1)).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + self.pair(pairs).permute(0, 3, 1, 2)
        seen = scores.softmax(dim=3) @ v
        h = h + gate * self.out(seen.transpose(1, 2).flatten(2))
        return h + gate2 * self.narrow(f.gelu(self.wide(f.layer_norm(h, (WIDTH,)) * (1 + scale2) + shift2)))


class Network(nn.Module):
    """F of EDM's preconditioning, on coordinates [B, ATOMS, 3]. D = c_skip x + c_out F is computed by coefficients of
    the plan."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)
        self.single, self.left, self.right = (nn.Linear(TRUNK, WIDTH) for _ in range(3))
        self.time = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList([Block() for _ in range(2)])

    def forward(self, x: Tensor, time: Tensor, trunk: Tensor) -> Tensor:
        angles = (time - log(SIGMA_DATA) / 4)[:, None] * torch.exp(torch.linspace(0.0, 4.0, 8))
        known = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))[:, None] + self.single(trunk)
        pairs = self.left(trunk)[:, :, None] + self.right(trunk)[:, None]
        h = self.first(x)
        for block in self.blocks:
            h = block(h, known, pairs)
        result: Tensor = self.last(f.layer_norm(h, (WIDTH,)))
        return result


def make() -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    trunk = Condition("trunk", input="trunk", shape=(ATOMS, TRUNK), dtype="float32")
    schedule = ScheduleSpec("edm", sigma_min=LOW, sigma_max=HIGH, sigma_data=SIGMA_DATA)
    return Network(), Spec("structures", (ATOMS, 3), (trunk,), "edm", schedule)


def steps_of(count: int) -> str:
    """Return the plan of Protenix's code for 2 steps or more: Euler on EDM's grid of count + 1 sigmas, with the last
    one replaced by 0."""
    high, low = HIGH ** (1 / 7), LOW ** (1 / 7)
    return f"edm_euler:{count}@karras(sigma_min={(high + (count - 1) / count * (low - high)) ** 7:.6g})"


def rotate_randomly(x: NDArray[Any], draws: Callable[[int], NDArray[Any]], number: int) -> NDArray[Any]:
    """Apply algorithm 19: centre x [B, N, 3], rotate it by a uniform random rotation, and move it by a standard normal
    vector."""
    drawn = draws(TURNS + number)  # [B, N, 3], of which four numbers are a quaternion and three the shift
    quaternion = np.concatenate([drawn[:, 0], drawn[:, 1, :1]], axis=1).astype(np.float64)
    a, b, c, d = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
        ]
    )
    centred = x - x.mean(axis=1, keepdims=True)
    return np.asarray(np.einsum("ijb,bnj->bni", rotation, centred) + drawn[:, 2:3], np.float32)


def sample(sampler: Sampler, plan: str, seeds: Sequence[int], condition: dict[str, Any]) -> NDArray[np.float32]:
    """Return samples [B, N, 3], with a random rotation before each step. The plan must have one row, as that of
    edm_euler, since earlier steps cannot be rotated together with x."""
    compiled, draws = sampler.compile(plan), sampler.draws(seeds)
    if compiled.rows != 1:
        raise UserError(f"plan {plan!r} keeps {compiled.rows} rows", f"give a plan with one row, such as {steps_of(2)}")
    network, state = sampler.step_network(compiled, len(seeds), condition), begin(compiled, draws, np.float32, {})
    for index, step in enumerate(compiled.steps):
        before = [rotate_randomly(state[0], draws, index)]
        u = combine(step.input, before, np.float32)
        state = update(compiled, build_evaluation(compiled, index, before, u, network(index, step, u)), draws)
    return np.asarray(combine(compiled.output, state, np.float32), np.float32)


def main(bundle: str) -> None:
    export(ExportOptions(source=f"{Path(__file__)}:make", output=Path(bundle)))
    trunk = np.stack([normal(0, number, (ATOMS, TRUNK)) for number in range(2)])
    with load(bundle) as sampler:
        x = sample(sampler, steps_of(2), [0, 1], {"trunk": trunk})
    structures = f"{len(x)} structures of {x.shape[1]} atoms in 2 steps, standard deviation {x.std():.1f}"
    print(f"{bundle}: random weights, {structures}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/structures.py BUNDLE")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"structures: {error}")
