"""A denoiser's bundle with all files of its measurements, prepared once, where it is measured or on another machine."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.gpu.results import AnyRecord, DenoiserRow
from benchmarks.nvidia.int8_forms import BLOCK, FEW, KNOWN
from benchmarks.zoo_bundles import calibration
from fewstep.calibration.calibrate import calibrate
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.bake.bake import assemble_run
from fewstep.graph.bake.metadata import encode_metadata
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files import io
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.backends import Backend
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda_form import FORM_ONLY
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from zoo.members import HELD_OUT, Member

BATCHES = (1, 8)
SEEDS = 64  # that are compared with the CPU's
TRAJECTORIES = 16  # of calibration
ENGINE_PRECISIONS = ("float16", "int8")
Precision = Literal["float16", "bfloat16", "float32"]
OVERFLOWING = frozenset({"residual_outliers"})  # their activations leave float16's range

Sample = Callable[[Sequence[int]], np.ndarray]  # seeds -> samples [B, ...]


@dataclass(frozen=True)
class Deployed:
    """A denoiser's bundle, and how its samples are drawn. Its other files are in the same folder."""

    member: Member
    bundle: Path

    @cached_property
    def conditions(self) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
        """Seeds -> each condition [seeds, *shape]."""
        takes = open_bundle(self.bundle).manifest
        return partial(held_out_conditions, takes, records=self.member.rows(SEEDS, HELD_OUT))

    @property
    def seeds(self) -> int:
        """Return the number of seeds that are compared with the CPU's samples."""
        return FEW if self.member.name == BLOCK.name else SEEDS

    @property
    def precisions(self) -> tuple[Precision, Precision]:
        """Return the measured types: 16 bits and float32."""
        return ("bfloat16" if self.member.name in OVERFLOWING else "float16", "float32")

    @property
    def portable(self) -> tuple[Precision, ...]:
        """Return those of its types in which the provider opens the portable graph."""
        return tuple(precision for precision in self.precisions if precision != FORM_ONLY)

    @property
    def expected_file(self) -> Path:
        """The CPU's samples in float32 of the seeds from 0 on."""
        return self.bundle.with_name(f"{self.bundle.name}-expected.npy")

    def unrolled_file(self, precision: str, batch: int) -> Path:
        """Return the file of a whole run of a batch, unrolled."""
        return self.bundle.with_name(f"{self.bundle.name}-{precision}-{batch}-unrolled.onnx")


def deploy(name: str, folder: Path) -> Deployed:
    """Return the denoiser of a name, with its files in the folder."""
    return Deployed(KNOWN[name], folder / name)


def on_backend(of: Deployed, body: str, backend: Backend) -> Callable[[], Sample]:
    """Return the product's sampler of the bundle."""

    def open_sampler() -> Sample:
        sampler = load(of.bundle, body=body, backend=backend)
        plan = sampler.compile(of.member.plan, of.member.guidance)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            sampler.forget()  # timing repeats its conditions
            return np.asarray(sampler.sample(plan, seeds, of.conditions(seeds)))

        return sample

    return open_sampler


def expected_samples(of: Deployed, seeds: int | None = None) -> np.ndarray:
    """The samples of onnxruntime on the CPU, in float32."""
    count = seeds or of.seeds
    sample = on_backend(of, "float32", OnnxRuntime())()
    size = max(BATCHES)
    return np.concatenate([sample(range(at, min(at + size, count))) for at in range(0, count, size)])


@dataclass(frozen=True)
class Preparation:
    """Prepare everything of a denoiser that is measured, unless it exists.

    tensorrt: the package that builds engines, or nothing. is_portable: only files that any machine may use, which
    are the bundle in float32 and the CPU's samples.
    """

    name: str
    folder: Path
    tensorrt: str = ""
    is_portable: bool = False

    def run(self) -> Iterable[AnyRecord]:
        of = deploy(self.name, self.folder)
        if not (of.bundle / "manifest.json").exists():
            export(ExportOptions(of.member.source, of.bundle))
        if not of.expected_file.exists():
            partly = of.expected_file.with_suffix(".partial.npy")
            np.save(partly, expected_samples(of))
            os.replace(partly, of.expected_file)
        if self.is_portable:
            return
        for precision in of.precisions:
            build(BuildOptions(of.bundle, "onnxruntime-cuda", precision=precision))  # with its form
            for batch in BATCHES:
                if precision in of.portable:
                    unroll(of, precision, batch)
                unroll(of, f"{precision}-cuda", batch)
        if self.tensorrt:
            build_engines(of, self.tensorrt)
        yield from ()

    def failure(self, reason: str) -> DenoiserRow:
        return DenoiserRow(self.name, "all", "", reason=reason)


def unroll(of: Deployed, precision: str, batch: int) -> Path:
    """Write a whole run of a batch without a loop, unless it exists."""
    file = of.unrolled_file(precision, batch)
    if not file.exists():
        options = BakeOptions(
            of.bundle,
            parse_plan_text(of.member.plan),
            file,
            body=precision,
            guidance=of.member.guidance,
            batch=batch,
            unroll=True,
        )
        run, baked = assemble_run(options)  # the file that `bake` writes, without its test vector on the CPU
        io.save(run.graph, file, one_file_limit(), metadata=encode_metadata(baked))
    return file


def one_file_limit() -> int:
    """Return the bytes of weights that stay in the file of a graph."""
    return 2**31 - 2**24


def build_engines(of: Deployed, name: str) -> None:
    """Build engines of TensorRT in float16 and int8. One that cannot be built is printed, and its contender fails
    later.
    """
    count = FEW if of.member.name == BLOCK.name else TRAJECTORIES
    asked = calibration(of.member, of.bundle, of.member.plan, ("tensorrt",), count)
    calibrate(replace(asked, guidance=of.member.guidance))
    rows = str(2 * max(BATCHES))
    for precision in ENGINE_PRECISIONS:
        try:
            build(BuildOptions(of.bundle, name, precision=precision, opt_batch=rows, max_batch=rows))  # type: ignore[arg-type]
        except UserError as error:
            print(f"{of.member.name} in {precision}: {error}", file=sys.stderr)
