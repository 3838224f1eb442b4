"""What limited pairs of weights cost on networks outside the zoo and on the zoo, next to 8 bits with exact sums.

    python -m benchmarks.quantization.no_vnni FOLDER [--network NAME ...] [--page]

Seven small networks are trained on drawn data, exported and calibrated, each with several seeds of calibration. The
denoisers of the zoo whose plan has 8 steps of `dpmpp_2m` have one. All
bodies of x86 CPUs are compared with float32 on seeds that no choice has seen. On a CPU with VNNI all of them have exact
sums, and so have the bodies for CPUs without, whose weights are checked, on any x86 CPU. Results are kept in FOLDER;
`--page` puts the table into lab/measured/no_vnni.md.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.markdown import put_part, table
from benchmarks.zoo_bundles import calibration, exported, held_out_rows
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Spec
from fewstep.graph.files import io
from fewstep.graph.weight_pairs import LARGEST_SUM
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import FIRST_SEED, SeedBatch
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle
from tests.exact_int8 import largest_pair_sum
from zoo.members import MEMBERS

PAGE = Path("lab/measured/no_vnni.md")
PLAN = "dpmpp_2m:8"
TARGETS = ("cpu-x86", "cpu-x86-no-vnni", "openvino", "openvino-no-vnni")
SEEDS = range(3_000_000, 3_000_128)
CALIBRATIONS = (FIRST_SEED, 200_000, 300_000)  # first seeds of trajectories
ROUNDS, TRAJECTORIES = 12, 16
ZOO = {member.name: member for member in MEMBERS if member.plan == PLAN}
SIDE, LENGTH, WIDTH = 8, 16, 48
Sampled = NDArray[np.float32]


def draw_stripes(count: int, rng: np.random.Generator) -> Sampled:
    """Return binary pictures of stripes, across or down."""
    pictures = []
    for _ in range(count):
        period = int(rng.integers(2, 5))
        values = (np.arange(SIDE) + int(rng.integers(0, period))) // period % 2 * 2 - 1
        picture = np.tile(values, (SIDE, 1))
        pictures.append(picture if rng.random() < 0.5 else picture.T)
    return np.array(pictures, np.float32)[:, None]


def draw_actions(count: int, rng: np.random.Generator) -> Sampled:
    """Return smooth sequences of two joints."""
    times = np.linspace(0, 1, LENGTH)
    size = rng.uniform(0.3, 1, (count, 2, 1))
    turns, start = rng.integers(1, 3, (count, 2, 1)), rng.uniform(0, 6.28, (count, 2, 1))
    return (size * np.sin(2 * np.pi * turns * times + start)).astype(np.float32)[..., None]


def draw_grips(count: int, rng: np.random.Generator) -> Sampled:
    """Return sequences that are at one limit, and then at the other."""
    change, sign = rng.integers(3, 13, (count, 1, 1)), rng.choice([-1, 1], (count, 1, 1))
    return (sign * np.where(np.arange(LENGTH) < change, 1.0, -1.0)).astype(np.float32)[..., None]


def draw_blobs(count: int, rng: np.random.Generator) -> Sampled:
    """Return pictures of a soft spot."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    across, down, radius = (rng.uniform(*ends, (count, 1, 1)) for ends in ((0.2, 0.8), (0.2, 0.8), (0.1, 0.25)))
    distances = (columns - across) ** 2 + (rows - down) ** 2
    return (2 * np.exp(-distances / (2 * radius**2)) - 1).astype(np.float32)[:, None]


@dataclass(frozen=True)
class Case:
    """A network: its data, and what it predicts."""

    draw: Callable[[int, np.random.Generator], Sampled]
    prediction: Literal["epsilon", "sample", "v", "flow"]

    @property
    def schedule(self) -> Literal["flow", "linear"]:
        return "flow" if self.prediction == "flow" else "linear"


CASES = {
    "stripes_epsilon": Case(draw_stripes, "epsilon"),
    "stripes_v": Case(draw_stripes, "v"),
    "actions_epsilon": Case(draw_actions, "epsilon"),
    "grips_epsilon": Case(draw_grips, "epsilon"),
    "grips_sample": Case(draw_grips, "sample"),
    "blobs_epsilon": Case(draw_blobs, "epsilon"),
    "blobs_flow": Case(draw_blobs, "flow"),
}


class Network(nn.Module):
    """Four residual blocks of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList([nn.Sequential(*make_half(), *make_half()) for _ in range(4)])
        self.mixers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(4)])
        self.last = nn.Conv2d(WIDTH, channels, 3, padding=1)
        self.frequencies = nn.Buffer(torch.exp(torch.linspace(0, -7, 8)))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        angles = t[:, None] * self.frequencies
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        hidden = self.first(x)
        for block, mixer in zip(self.blocks, self.mixers, strict=True):
            hidden = hidden + block(hidden + mixer(hidden.mean((2, 3)) + embedded)[:, :, None, None])
        predicted: torch.Tensor = self.last(nn.functional.silu(hidden))
        return predicted


def make_half() -> tuple[nn.Module, ...]:
    """Return the layers of half of a block."""
    return nn.GroupNorm(8, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)


def train(case: Case, steps: int = 700) -> Network:
    """Return a network trained on drawn data."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = Network(case.draw(1, rng).shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    kept_signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        x = torch.from_numpy(case.draw(64, rng))
        noise = torch.randn_like(x)
        if case.schedule == "flow":
            sigma = torch.rand(64)
            alpha, times = 1 - sigma, 1000 * sigma
        else:
            places = torch.randint(0, 1000, (64,))
            alpha, sigma, times = kept_signal[places].sqrt(), (1 - kept_signal[places]).sqrt(), places.float()
        alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
        aims = {"epsilon": noise, "sample": x, "v": alpha * noise - sigma * x, "flow": noise - x}
        loss = (network(alpha * x + sigma * noise, times) - aims[case.prediction]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def make(name: str) -> tuple[Network, Spec]:
    """Return the trained network of a name, as `fewstep export` reads it."""
    case = CASES[name]
    shape = case.draw(1, np.random.default_rng(0)).shape[1:]
    return train(case), Spec(name, shape, (), case.prediction, ScheduleSpec(case.schedule), data_limit=1.0)


def __getattr__(name: str) -> Callable[[], tuple[Network, Spec]]:
    """Return the function that makes the network of a name, for `FILE:NAME` of `fewstep export`."""
    if name not in CASES:
        raise AttributeError(name)
    return lambda: make(name)


def check_sums(file: Path) -> int:
    """Return the largest sum of a pair of all int8 weights of a graph's file."""
    graph = io.load(file)
    axes = {"QLinearConv": (3, 0), "MatMulIntegerToFloat": (1, 1)}  # of the weight among the inputs, and of outputs
    places = [
        (node.inputs[0], node.attributes["axis"])
        if node.op == "DequantizeLinear" and "axis" in node.attributes
        else (node.inputs[axes[node.op][0]], axes[node.op][1])
        for node in graph.nodes
        if node.op in axes or (node.op == "DequantizeLinear" and node.inputs[0] in graph.constants)
    ]
    return max(largest_pair_sum(graph.constants[name], axis) for name, axis in places)


def compare(options: CalibrateOptions, records: ConditionRecords | None = None) -> dict[str, list[float]]:
    """Calibrate a bundle, and return the PSNR in dB of each seed's sample for each target, and the time of a call on
    one thread in turns. records: conditions of the seeds; None to draw them."""
    calibrate(options)
    bundle, figures = options.bundle, dict[str, list[float]]()
    conditions = records or SeedBatch.from_manifest(open_bundle(bundle).manifest, SEEDS, None).conditions
    with load(bundle, "float32") as exact:
        right = exact.sample(PLAN, SEEDS, conditions)
    for target in TARGETS:
        with load(bundle, body=f"int8-{target}") as sampler:
            errors = np.square(sampler.sample(PLAN, SEEDS, conditions) - right)
            errors = errors.mean(axis=tuple(range(1, errors.ndim)))
        figures[target] = (10 * np.log10(4 / np.maximum(errors, 1e-12))).tolist()
        file = bundle / open_bundle(bundle).body(f"int8-{target}").graph.file
        if target.endswith("no-vnni") and (largest := check_sums(file)) > LARGEST_SUM:
            raise ValueError(f"{bundle.name}: a pair of {target} sums to {largest}")
    samplers = [load(bundle, body=f"int8-{target}", backend=OnnxRuntime(1, spinning=False)) for target in TARGETS[:2]]
    ratios, few = [], {name: values[:16] for name, values in conditions.items()}
    for _ in range(ROUNDS):
        times = []
        for sampler in samplers:
            start = time.process_time()
            sampler.sample(PLAN, SEEDS[:16], few)
            times.append(time.process_time() - start)
        ratios.append(times[1] / times[0])
    return {**figures, "time": ratios[2:]}


def compare_case(name: str, folder: Path, seed: int) -> dict[str, list[float]]:
    """Compare the bodies of a network outside the zoo, which is trained and exported unless it is in the folder."""
    bundle = folder / name
    if not bundle.exists():
        export(ExportOptions(f"{__file__}:{name}", bundle, verify="quick"))
    plan = parse_plan_text(PLAN)
    return compare(CalibrateOptions(bundle, plan, target=TARGETS, trajectories=TRAJECTORIES, clip=1.0, seed=seed))


def compare_member(name: str, folder: Path, seed: int) -> dict[str, list[float]]:
    """Compare the bodies of a denoiser of the zoo."""
    member = ZOO[name]
    options = calibration(member, exported(member, folder), PLAN, TARGETS, TRAJECTORIES)
    return compare(replace(options, seed=seed), held_out_rows(member, SEEDS))


def write_rows(kept: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> list[list[str]]:
    """Return the rows of the table: means over calibrations, with the losses of each."""
    rows = []
    for name, runs in kept.items():
        means = {target: [float(np.mean(run[target])) for run in runs.values()] for target in TARGETS}
        cells = [f"{np.mean(means[target]):.1f}" for target in TARGETS]
        losses = [np.subtract(means[wide], means[limited]) for wide, limited in (TARGETS[:2], TARGETS[2:])]
        texts = [f"{loss.mean():.1f}" for loss in losses]
        if len(runs) > 1:
            texts = [f"{text} ({', '.join(f'{each:.1f}' for each in loss)})" for text, loss in zip(texts, losses)]
        ratio = np.median([value for run in runs.values() for value in run["time"]])
        rows.append([name, *cells, *texts, f"{ratio:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", choices=(*CASES, *ZOO), action="append")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE}")
    given = parser.parse_args()
    results = given.folder / "results.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    for name in given.network or (*CASES, *ZOO):
        runs = kept.setdefault(name, {})
        for seed in CALIBRATIONS if name in CASES else CALIBRATIONS[:1]:
            if str(seed) not in runs:
                runs[str(seed)] = (compare_case if name in CASES else compare_member)(name, given.folder, seed)
                results.write_text(json.dumps(kept))
        print(*write_rows({name: runs})[0], sep=" | ", flush=True)
    if given.page:
        losses = ("loss on onnxruntime", "on OpenVINO")
        put_part(
            PAGE, "benchmarks.quantization.no_vnni", table(["network", *TARGETS, *losses, "time"], write_rows(kept))
        )


if __name__ == "__main__":
    main()
