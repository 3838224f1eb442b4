"""The options of `fewstep measure`."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from fewstep.measure.distances.frechet import RESAMPLES
from fewstep.measure.judgement_options import JudgementOptions
from fewstep.measure.rollouts.seeds import APART
from fewstep.measure.speed.race import Turns
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.options import BundleOptions

COLUMNS = ("psnr", "fd", "ms", "bytes")
LEAST_SAMPLES = 100  # minimum number of samples for a distance of sets; fewer give only noise


@dataclass(frozen=True)
class MeasureOptions(BundleOptions, JudgementOptions):
    """Measure the bodies of a bundle side by side: what int8 costs in quality, and what it gains in time and size.

    bundle: The bundle. It stores figures of quality, and the next report shows them.
    columns: What is measured: psnr, against float32 and against the teacher; fd, distances between sets of samples; ms,
        the time of one call of each body, measured in turns; bytes.
    output: A JSON file to which the figures are written instead; the bundle stays unchanged. A plan or a guidance other
        than the calibrated one needs this option, because the bundle keeps the figures of the calibrated plan.
    body: Names of int8 bodies to judge. Default: those that run here natively; others are simulated, slowly.
    samples: Samples in each set of a distribution.
    features: fashion-mnist-cnn, cifar10-cnn, the path of an .onnx extractor, or none. Default: the shipped extractor
        for the bundle's data. An extractor for tokens takes int64 ids.
    data: An array of real samples (.npy, uint8, or float in model range, or ids), for a comparison with them as well.
    resamples: Number of bootstrap resamples for each interval.
    backend: Also time the float and int8 bodies that these backends run: onnxruntime-rows, onnxruntime-cuda, openvino,
        openvino-bf16, tensorrt, tensorrt-rtx, qnn.
    spinning: Waiting threads spin while bodies are timed, which is fastest for a program alone on its cores.
        --no-spinning is for a program that shares its cores.
    """

    columns: tuple[str, ...] = COLUMNS
    output: Path | None = field(default=None, metadata={"short": "-o"})
    body: tuple[str, ...] = ()
    samples: int = 2000
    features: str = ""
    data: Path | None = None
    resamples: int = field(default=RESAMPLES, metadata={"expert": True})
    backend: tuple[str, ...] = ()
    spinning: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [column for column in self.columns if column not in COLUMNS]:
            raise UserError(f"there is no column {unknown[0]!r}", f"give some of {', '.join(COLUMNS)}")
        if not LEAST_SAMPLES <= self.samples <= len(APART):
            raise UserError(f"--samples is {self.samples}", f"give {LEAST_SAMPLES} to {len(APART)}")
        if self.resamples < 20:
            raise UserError(f"--resamples is {self.resamples}", "give at least 20")
        for name in self.backend:
            create_backend(name)  # raises UserError for an unknown name

    def turns(self) -> Turns:
        return replace(super().turns(), spinning=self.spinning)
