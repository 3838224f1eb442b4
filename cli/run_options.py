"""The options of `fewstep run`, and what needs no bundle to be refused."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from fewstep.cli.run_output import ARRAY, PICTURE
from fewstep.cli.run_plan import check_name
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.runtime.options import Options

CPU = "onnxruntime"
SAMPLES = 16  # where nothing says how many
LIMIT = 100_000  # samples of one file
SCALE_LIMIT = 64
DRAWN = ("columns", "scale")  # options of pictures alone
OF_A_CHOICE = ("plan", "precision", "backend", "threads", "guidance", "clip")  # which a choice has


@dataclass(frozen=True)
class RunOptions(Options):
    """Sample a bundle into an image grid (.png) or an array (.npy).

    bundle: The bundle's folder.
    plan: SOLVER:STEPS, scheduler:STEPS, fitted:STEPS for a plan that `fewstep fit` made, or the path of a plan's JSON.
        Default: the plan along which the bundle was calibrated (for float32 too), else scheduler:20 if the model came
        with its scheduler, else dpmpp_2m:8.
    precision: float32, int8 (made by `fewstep calibrate`), or on a GPU float16 or bfloat16 (made by `fewstep build`).
    samples: Number of samples. Default: one for each prompt, or 16.
    prompt: The content of a picture in words, for a bundle with a text encoder. Given several times, the samples take
        turns.
    negative: The content to lead away from, in words. Given several times, the samples take turns.
    condition: NAME=VALUE, NAME=LABEL, or NAME=@FILE.npy for one array or an array of them. Given several times for one
        name, the samples take the values in turn.
    adapter: FILE.safetensors, or FILE.safetensors:STRENGTH, of a LoRA for a bundle with slots (export --lora-slots).
        Several add up.
    guidance: Weight of classifier-free guidance; pag:SCALE for perturbed attention, steer:WEIGHT for a gradient; with a
        plus for several, as 2+pag:3; 1 runs the conditional branch alone. Default: as calibrated, else 1.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP]. Default: as the calibration, without --plan or with
        the plan of the calibration by its name.
    size: NAME=NUMBER for a free size of the bundle, as height=96. Each other free size has its default. With --tiles
        it is the whole sample's, and a bundle of one size takes height and width too, or length.
    tiles: WINDOW:OVERLAP, as 256:64: the network runs on overlapping windows of a larger sample.
    image: A picture to start from, with --strength.
    known: A .npy file of tokens that stay, -1 where one is open: of one sample, or of N that samples take in turn. For
        denoisers of tokens.
    strength: Share of the plan's steps that are run, above 0 and up to 1: the picture is noised that far.
    seed: Seed of the first sample; the others count up from it.
    output: The file to write. A .png file has pictures; a .npy file has x as it is sampled, which may be latents. Named
        outputs go to files beside it, as samples.depth.npy.
    columns: Samples in a row of the grid. Default: a square grid.
    scale: Enlargement of each pixel. Default: 3 for samples of up to 64 pixels, else none.
    threads: Threads on the CPU, for onnxruntime and openvino; 0 for one per physical core.
    backend: The engine that runs the bundle: onnxruntime, onnxruntime-cuda, openvino, openvino-bf16, tensorrt,
        tensorrt-rtx, qnn.
    chosen: Run the plan, body and engine that `fewstep choose` chose last on this machine, with its guidance.
    """

    bundle: Path
    plan: str | None = None
    precision: str = "float32"
    samples: int | None = field(default=None, metadata={"short": "-n"})
    prompt: tuple[str, ...] = field(default=(), metadata={"short": "-p", "whole": True})
    negative: tuple[str, ...] = field(default=(), metadata={"whole": True})
    condition: tuple[str, ...] = field(default=(), metadata={"short": "-c"})
    adapter: tuple[str, ...] = field(default=(), metadata={"whole": True})
    guidance: float | Guidance | None = None
    clip: float | None = None
    size: tuple[str, ...] = ()
    tiles: str | None = None
    image: Path | None = None
    known: Path | None = None
    strength: float | None = None
    seed: int = 0
    output: Path = field(default=Path("grid.png"), metadata={"short": "-o"})
    columns: int | None = None
    scale: int | None = None
    threads: int = 0
    backend: str = CPU
    chosen: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.count <= LIMIT:
            raise UserError(f"{self.count} samples in one file", f"ask for 1 to {LIMIT}")
        if self.output.suffix not in (PICTURE, ARRAY):
            raise UserError(f"cannot write {self.output}", "name a .png (a grid of images) or a .npy (an array)")
        for name in DRAWN:
            if (value := getattr(self, name)) is not None and not self.is_picture:
                raise UserError(f"--{name} with {self.output}, which has no pixels", "leave it out, or name a .png")
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}", "give at least 1")
        if self.scale is not None and self.scale > SCALE_LIMIT:
            raise UserError(f"--scale {self.scale}", f"give at most {SCALE_LIMIT}")
        if (self.image is None) != (self.strength is None):
            alone, other = ("--strength", "--image FILE") if self.image is None else ("--image", "--strength 0.6")
            raise UserError(f"{alone} alone says too little", f"give {other} with it")
        defaults = {each.name: each.default for each in fields(self)}
        for name in OF_A_CHOICE if self.chosen else ():
            if getattr(self, name) != defaults[name]:
                raise UserError(f"--chosen with --{name}", "leave one of them out: a choice has its own")
        if self.plan is not None:
            check_name(self.plan)

    @property
    def is_picture(self) -> bool:
        """True where pictures are written, not an array."""
        return self.output.suffix == PICTURE

    @property
    def count(self) -> int:
        """The number of samples."""
        return (len(self.prompt) or SAMPLES) if self.samples is None else self.samples
