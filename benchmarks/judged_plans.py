"""Plans by their distance to the teacher, by seed, with every measurement stored in a folder.

The key of a figure is the denoiser's files, the numbers of both plans and the seed. No figure is measured twice, and
a changed denoiser has new figures.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.result_store import load_or_compute
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.measure.teacher import TeacherCheck, find_teacher
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from zoo.members import HELD_OUT, Member

BLOCKS = (0, 1, 8, 16, 24, 32, 40, 48, 56, 64)  # edges of the runs of seeds that are sampled and kept together
HARDEST = ("unipc_2:12@arctan", "dpmpp_2m:10@quadratic", "dpmpp_2m:10@ays_svd")  # the teacher must judge the nearest

Floats = NDArray[np.floating]


@dataclass
class Judge:
    """One denoiser in float32 and its teacher. `work` has its bundle and the stored figures."""

    name: str
    sampler: Sampler
    guidance: float | None
    rows: ConditionRecords | None
    work: Path
    _plans: dict[str, Plan] = field(default_factory=dict)

    @cached_property
    def check(self) -> TeacherCheck:
        """Return the check of the teacher, which is stored like the figures."""
        return load_or_compute(self.folder, TeacherCheck, self._worst_check)

    def _worst_check(self) -> TeacherCheck:
        checks = []
        for plan in HARDEST:
            with suppress(UserError):  # a grid that the schedule has not
                checks.append(find_teacher(self.sampler, None, self.compile_plan_of(plan), records=self.rows).check)
        return max(checks, key=lambda check: check.judged or 0)

    def compile_plan_of(self, plan: str) -> Plan:
        """The plan by its name, with the member's guidance."""
        if plan not in self._plans:
            self._plans[plan] = self.sampler.compile(plan, self.guidance)
        return self._plans[plan]

    def numbers(self, plan: str) -> bytes:
        """Return a hash of the plan without its name."""
        return hashlib.sha256(
            msgspec.json.encode(msgspec.structs.replace(self.compile_plan_of(plan), name=""))
        ).digest()[:12]

    def psnr(self, plan: str, seeds: int) -> NDArray[np.float64]:
        """PSNR in dB of the first seeds' samples to the teacher's, [seeds]. NaN where a sample is not finite."""
        if seeds not in BLOCKS:
            raise ValueError(f"{seeds} seeds end inside a block")
        parts: list[list[float]] = []
        for start, end in zip(BLOCKS, BLOCKS[1:], strict=False):
            if end > seeds:
                break
            follows_from = (self.numbers(self.check.teacher), self.numbers(plan), start)
            measure = partial(self._measure_psnr, plan, range(start, end))
            own = load_or_compute(self.folder, list[float], measure, *follows_from)
            parts.append(own or [float("nan")] * (end - start))
        return np.concatenate(parts)

    def _measure_psnr(self, plan: str, seeds: range) -> list[float]:
        try:
            samples = self._sample(self.compile_plan_of(plan), seeds)
        except UserError:  # not finite
            return []
        return [float(each) for each in psnr(samples, self._lesson(seeds))]

    def _lesson(self, seeds: range) -> Floats:
        """Return the teacher's samples."""
        file = self.folder / f"{self.numbers(self.check.teacher).hex()}-{seeds.start}.npy"
        if not file.exists():
            np.save(file, self._sample(self.compile_plan_of(self.check.teacher), seeds))
        samples: Floats = np.load(file)
        return samples

    def _sample(self, plan: Plan, seeds: Sequence[int]) -> Floats:
        held_out = held_out_conditions(self.sampler.bundle.manifest, seeds, self.rows)
        return self.sampler.sample(plan, seeds, held_out)

    @cached_property
    def folder(self) -> Path:
        """Return the folder of this denoiser's files."""
        content = msgspec.json.encode(self.sampler.bundle.manifest.files)
        folder = self.work / f"{self.name}-{hashlib.sha256(content).hexdigest()[:12]}"
        folder.mkdir(exist_ok=True)
        return folder


def open_member(member: Member, work: Path) -> Judge:
    """The judge of a shipped denoiser or a member of the zoo, which is exported at the first time."""
    bundle = work / "bundles" / member.name
    if not bundle.exists():
        export(ExportOptions(member.source, bundle))
    sampler = load(bundle, backend=OnnxRuntime(threads=1))
    return Judge(member.name, sampler, member.guidance, member.rows(BLOCKS[-1], HELD_OUT), work)
