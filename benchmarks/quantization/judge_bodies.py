"""The distance of each body's samples from float32, and its share in int8; each is measured once and stored."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.contenders import Contender
from benchmarks.quantization.int8_coverage import measure_coverage
from benchmarks.quantization.tool_inputs import Material
from benchmarks.result_store import load_or_compute
from fewstep.graph.files import io
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.conditions_file import ConditionRecords, digest_records
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.workers.code_digest import code_digest
from fewstep.plans.plan import Plan
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.sampler import Sampler

BATCH = 16
CODE = ("fewstep", "onnxruntime", "openvino")  # what a judgement follows from

Samples = NDArray[np.float32]


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PSNR over held-out seeds in dB, against float32 along the same plan, and multiply-accumulates of one sample.
    `image`: the fraction of the errors' energy that is one image, the same for all seeds, beyond chance."""

    mean: float
    p5: float
    worst: float
    int8_macs: int
    total_macs: int
    int8_ops: tuple[str, ...]
    image: float

    @property
    def coverage(self) -> float:
        """Share of multiply-accumulates in int8, 0 to 1."""
        return self.int8_macs / self.total_macs


@dataclass(frozen=True)
class Judged:
    """A contender and its result. quality: None if it failed. reason: of the failure. made_by: the tool's version."""

    contender: Contender
    quality: Quality | None = None
    reason: str = ""
    made_by: str = ""


def versions() -> tuple[str, ...]:
    """Return the libraries that compute here, with their versions."""
    installed = this_machine().versions
    return tuple(f"{name} {installed[name]}" for name in CODE if name in installed)


def constant_image(errors: NDArray[np.float64]) -> float:
    """The fraction of the energy of errors [B, ...] that is one image, the same for all, 0 to 1.

    The mean of B unlike errors has a fraction of 1 / B by chance, which is taken off.
    """
    energy, seeds = float(np.square(errors).mean()), len(errors)
    share = float(np.square(errors.mean(axis=0)).mean()) / energy if energy else 0.0
    return max(0.0, (seeds * share - 1) / (seeds - 1)) if seeds > 1 else share


@dataclass(frozen=True)
class Judge:
    """Judges bodies of `bundle`, which may grow, along one plan. Its findings are kept next to the tools' material.
    `rows` are given conditions instead of drawn ones: seed i has row i mod N."""

    bundle: Path
    plan: Plan
    seeds: range
    material: Material
    progress: Progress = SILENT
    rows: ConditionRecords | None = None

    def __call__(self, contender: Contender) -> Quality:
        """Return the PSNR of each held-out seed against float32 along the same plan, and the operations in int8."""
        bundle = open_bundle(self.bundle)
        content = bundle.manifest.files[bundle.body(contender.body).graph.file]
        rows = None if self.rows is None else digest_records(self.rows)
        follows_from = (contender.body, content, contender.engine, self.seeds, versions(), code_digest(), rows)
        return load_or_compute(self.material.folder, Quality, partial(self._measure, contender), *follows_from)

    @cached_property
    def reference(self) -> Samples:
        """The samples of float32, in onnxruntime."""
        return self._sample(load(self.bundle, body="float32"), "float32")

    def samples(self, contender: Contender) -> Samples:
        """The samples of a contender [seeds, *x_shape], on its engine."""
        return self._sample(open_body(open_bundle(self.bundle), contender.body, threads=0), contender.name)

    def _sample(self, sampler: Sampler, name: str) -> Samples:
        parts = []
        for part in SeedBatch.from_manifest(sampler.bundle.manifest, self.seeds, self.rows).split(BATCH):
            parts.append(sampler.sample(self.plan, part.seeds, part.conditions, self.plan.guidance))
            self.progress(f"sampling {name}", part.seeds[-1] + 1 - self.seeds[0], len(self.seeds))
        return np.concatenate(parts)

    def _measure(self, contender: Contender) -> Quality:
        bundle = open_bundle(self.bundle)
        graph, samples = bundle.body(contender.body).graph, self.samples(contender)
        made = graph.coverage or measure_coverage(
            contender.engine, self.material.graph, io.load(bundle.graph(graph), root=self.bundle)
        )
        values, errors = psnr(samples, self.reference), samples.astype(np.float64) - self.reference
        return Quality(
            mean=float(values.mean()),
            p5=float(np.percentile(values, 5)),
            worst=float(values.min()),
            int8_macs=made.int8_macs,
            total_macs=made.total_macs,
            int8_ops=made.int8_ops,
            image=constant_image(errors),
        )
