"""The options of a fit."""

from dataclasses import dataclass, field
from pathlib import Path

from fewstep.fitting.blocks import BLOCK
from fewstep.measure.judges.options import JudgeOptions
from fewstep.measure.rollouts.seeds import CHOICE_SEEDS, FIT_SEEDS, PAIRED
from fewstep.measure.workers.setup import SamplingOptions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import MOST_FITTED, TextReference
from fewstep.runtime.options import BundleOptions


@dataclass(frozen=True)
class FitOptions(BundleOptions, SamplingOptions, JudgeOptions):
    """Fit the numbers of a plan to a bundle's denoiser, so that samples of few evaluations are near those of many.

    bundle: The folder of the bundle. The plan is added to it, under the name fitted:STEPS.
    steps: Evaluations of the plan.
    plan: The plan that the fit starts from: SOLVER:STEPS@GRID, fitted:STEPS or a file. Default: the best of some
        known plans.
    backend: The engine that runs the float32 body: onnxruntime, onnxruntime-rows, onnxruntime-cuda, openvino,
        openvino-bf16, tensorrt, tensorrt-rtx.
    guidance: Weight of classifier-free guidance. Default: on the command line that of the calibration, in Python none.
    output: A JSON file to which the plan is also written.
    seeds: Number of seeds that the numbers are fitted on.
    selection_seeds: Number of other seeds that the choices of the fit use.
    judge_seeds: Number of other seeds on which the gain is measured.
    iterations: Maximum number of measurements of the samples' derivatives. With 0, only the trade for features and
        energy runs.
    features: fashion-mnist-cnn, cifar10-cnn, the path of an .onnx extractor, or none. Default: the extractor that knows
        the data. Nearer features may cost a part of the gain.
    teacher: Plan of the float32 teacher. Default: dpmpp_2m:80@arctan, or more steps if needed.
    light: Choose light steps of --plan instead of fitting, for a bundle with a light network: those whose features
        earlier steps predict with a relative error below this, such as 0.1.
    """

    steps: int = 6
    plan: TextReference | None = None
    backend: str = "onnxruntime"
    guidance: float | None = None
    output: Path | None = field(default=None, metadata={"short": "-o"})
    seeds: int = 48
    selection_seeds: int = field(default=24, metadata={"expert": True})
    judge_seeds: int = field(default=64, metadata={"expert": True})
    iterations: int = field(default=5, metadata={"expert": True})
    features: str = ""
    teacher: TextReference | None = None
    light: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.steps <= MOST_FITTED:
            raise UserError(f"--steps is {self.steps}", f"give 1 to {MOST_FITTED}")
        limits = {"seeds": FIT_SEEDS, "selection_seeds": CHOICE_SEEDS, "judge_seeds": PAIRED}
        for name, most in limits.items():
            if not BLOCK <= getattr(self, name) <= len(most):
                fix = f"give {BLOCK} to {len(most)}"
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}", fix)
        if self.light is not None and not 0 < self.light < 1:
            raise UserError(f"--light is {self.light:g}", "give a relative error between 0 and 1, such as 0.1")
        for unused in ("output", "teacher", "judge"):
            if self.light is not None and getattr(self, unused) is not None:
                raise UserError(
                    f"--light cannot be combined with --{unused}: it chooses light steps, and fits nothing",
                    f"leave --{unused} out",
                )
        if self.iterations < 0:
            raise UserError(f"--iterations is {self.iterations}", "give at least 0")
        if self.output is not None and self.output.suffix != ".json":
            raise UserError(f"a plan cannot be written to {str(self.output)!r}", "name a file that ends in .json")
