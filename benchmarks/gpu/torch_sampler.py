"""The network of a bundle in torch, along the same plan."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.gpu.deployed import BATCHES, Deployed, Sample, deploy
from benchmarks.gpu.device_time import PROFILED, device_times
from benchmarks.gpu.measuring import agreement, timing
from benchmarks.gpu.results import AnyRecord, DenoiserRow
from benchmarks.gpu.workers import lock, reason_of
from benchmarks.nvidia.int8_forms import BLOCK
from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.sampling.feeds import branch_values
from fewstep.runtime.sampling.loading import load
from zoo.members import Member

DENOISERS = ("cifar10", "dit_flow", BLOCK.name)  # a U-Net, a transformer, and blocks of a large U-Net
MODES = ("reduce-overhead", "default")  # of torch.compile: with CUDA graphs, and without


@dataclass(frozen=True)
class CompiledNetwork:
    """A network that torch compiles, for each batch separately, and that is timed when its turn comes.

    turn: the file whose lock is held while it is timed. The first holder lets all networks compile before one is
    timed.
    """

    name: str
    folder: Path
    precision: str
    mode: str
    device: str
    turn: Path

    def run(self) -> Iterable[AnyRecord]:
        of = deploy(self.name, self.folder)
        expected = np.load(of.expected_file)
        sample = in_torch(of, self.device, self.precision, self.mode)()
        for batch in BATCHES:
            for _ in range(3):  # compiles, and records what is recorded
                sample(range(batch))
        row = self.failure("")
        with lock(self.turn):
            try:
                row = agreement(row, sample, expected, max(BATCHES))
                for batch in BATCHES:
                    row = msgspec.structs.replace(row, timings=(*row.timings, timing(sample, batch)))
            except Exception as error:  # torch's errors share no base class but Exception
                row = msgspec.structs.replace(row, reason=reason_of(error))
            yield row
            if self.device == "cuda" and self.precision in PROFILED and not row.reason:
                yield from device_times(row, sample)

    def failure(self, reason: str) -> DenoiserRow:
        return DenoiserRow(self.name, f"torch, compiled, {self.mode}", self.precision, reason=reason)


def compile_networks(folder: Path, device: str, turn: Path) -> list[CompiledNetwork]:
    """Return the networks that torch compiles: the first mode of all of them first."""
    return [
        CompiledNetwork(name, folder, precision, mode, device, turn)
        for mode in MODES
        for precision in ("float16", "float32")
        for name in DENOISERS
    ]


def in_torch(of: Deployed, device: str, precision: str, mode: str | None) -> Callable[[], Sample]:
    """The network along the plan. Its state stays on the device. float16 and bfloat16 are by autocast: networks make
    features of the time in float32. float32 is without TF32. mode: of torch.compile, None without it."""

    def open_sampler() -> Sample:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        network: Any = network_of(of.member).to(device).eval()
        network = network if mode is None else torch.compile(network, mode=mode, dynamic=False)
        with load(of.bundle, body="float32", backend=OnnxRuntime()) as sampler:
            plan = sampler.compile(of.member.plan, of.member.guidance)
            manifest, nulls = sampler.bundle.manifest, sampler.network().nulls
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16

        def there(values: np.ndarray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            with torch.no_grad(), torch.autocast(device, dtype, enabled=precision != "float32"):
                return sampled(seeds)

        def sampled(seeds: Sequence[int]) -> np.ndarray:
            drawn = torch.from_numpy(noise.normal_batch(seeds, 0, manifest.x_shape)).to(device)
            values = branch_values(manifest.conditions, of.conditions(seeds), None, len(seeds), nulls)
            branches = {branch for step in plan.steps for branch in step.branches}
            parts = {branch: [there(value) for value in values(branch).values()] for branch in branches}
            state = [combine(row, [drawn]) for row in plan.start]
            for step in plan.steps:
                u = combine(step.input, state)
                given = [torch.cat(column) for column in zip(*(parts[each] for each in step.branches), strict=True)]
                x = torch.cat([u] * len(step.branches))
                times = torch.full((len(x),), step.time, device=device)
                outputs = network(x, times, *given).to(torch.float32).clone().chunk(len(step.branches))
                state = [combine(row, [*state, *outputs]) for row in step.update]
            return np.asarray(combine(plan.output, state).cpu())

        check_plan(plan)
        return sample

    return open_sampler


def network_of(member: Member) -> Any:
    """The member's network in torch."""
    source = load_source(member.source)
    assert isinstance(source, TorchSource)
    return source.module


def combine(row: Row, tensors: Sequence[Any]) -> Any:
    """sum_j row[j] * tensors[j]."""
    return sum(coefficient * tensor for coefficient, tensor in zip(row, tensors, strict=True) if coefficient)


def check_plan(plan: Plan) -> None:
    if any(step.draws or step.shaping or step.terms for step in plan.steps) or plan.given:
        raise UserError(f"plan {plan.name!r} is more than multiplications and additions", "time another plan")
