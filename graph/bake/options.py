"""The options of `fewstep bake`."""

from dataclasses import dataclass, field
from pathlib import Path

from fewstep.graph.bake.hold import HeldAs
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.strength import Strength, strength_of
from fewstep.runtime.options import BundleOptions


@dataclass(frozen=True)
class BakeOptions(BundleOptions):
    """Write a whole run as one ONNX file: noise and conditions in, samples out.

    bundle: The bundle to bake; it stays unchanged.
    plan: SOLVER:STEPS, scheduler:STEPS, fitted:STEPS for a plan of `fewstep fit`, or the path of a plan's JSON file.
    output: The file to write. Weights above 256 MB, or 8 MB of float weights, go to a file next to it.
    precision: float32 or int8. Default: the precision of --body, or float32.
    body: Name of a body. Without such a body, float16 and int8-weights are made from the float32 body; int8-weights
        stores weights as int8 and computes in float32, for engines without int8 convolutions, such as WebGPU's.
        float32-cuda, float16-cuda and bfloat16-cuda have the operations of ONNX Runtime's CUDA provider, and run there
        only.
        Default: the body of that precision that onnxruntime runs best here.
    guidance: Weight of classifier-free guidance, pag:SCALE for perturbed attention, or steer:WEIGHT for a gradient.
        Join several with a plus, like 2+pag:3. cfg++:WEIGHT is CFG++. 4,3 is 4 at the first evaluation, then 3.
        1 runs only the conditional branch. Default: as calibrated, else 1.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP]; inf for no clip. Default: as calibrated.
    strength: Share of the plan's steps to run from an image, above 0 and at most 1. The image becomes an input.
    keep_steps: With --strength, run all steps of a plan SOLVER:STEPS from the noise of that strength.
    start_noise: Instead of --strength, the factor of the noise that is added to the image, from which all steps of a
        plan SOLVER:STEPS run.
    adapter: FILE.safetensors or FILE.safetensors:STRENGTH, a LoRA for a bundle with slots, or FILE@NETWORK, of several
        networks. All LoRAs are written to one .onnx_adapter file next to the output. Each run of onnxruntime may use it
        or not.
    hold: Keep a known part of the sample, given as the inputs `held` and `held_mask`, wherever the mask is 1. noised:
        with noise of each step's level, the same draw at all steps. fresh: with a new draw at each step. clean: without
        noise.
    batch: Number of samples per call. Default: any number.
    latents: For a bundle with a text encoder or an autoencoder: leave both out of the file, which then reads the
        denoiser's own conditions and returns latents.
    unroll: Write out every step, for inference engines without Loop.
    parts: Write a folder with the part before the steps, one step, the part after them and run.json, for a program that
        runs the steps itself, such as a page with WebGPU. The batch is then fixed, by default 1.
    one_file: Keep all weights in the file, up to 2 GB. A float network then takes about 70 % more memory.
    around: A program to embed the run in: NAME:ARGUMENTS, such as backbone:FILE.onnx, or FILE.py:FUNCTION, a function
        that takes the run and returns another.
    """

    plan: TextReference
    output: Path = field(metadata={"short": "-o"})
    precision: str | None = None
    body: str | None = None
    guidance: float | Guidance | None = None
    clip: float | None = None
    strength: float | None = None
    keep_steps: bool = False
    start_noise: float | None = None
    adapter: tuple[str, ...] = field(default=(), metadata={"whole": True})
    hold: HeldAs = "none"
    batch: int | None = None
    latents: bool = False
    unroll: bool = False
    parts: bool = False
    one_file: bool = False
    around: tuple[str, ...] = field(default=(), metadata={"whole": True})

    @property
    def start(self) -> Strength | None:
        """Where a run from an image starts. None starts from noise."""
        return strength_of(self.strength, self.keep_steps, self.start_noise)
