"""The options of `fewstep run`, with the checks that need no bundle."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from fewstep.cli.run.output import ANIMATIONS, ARRAY, PICTURE, SOUND
from fewstep.cli.run_plan import check_reference
from fewstep.measure.rollouts.prompts import expand_prompts
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.strength import Strength, strength_of
from fewstep.runtime.hub import is_name
from fewstep.runtime.kinds.companions import RATE_LIMIT
from fewstep.runtime.memory_size import parse_bytes
from fewstep.runtime.options import BundleOptions

CPU = "onnxruntime"
SAMPLES = 16  # the default number of samples
LIMIT = 100_000  # samples of one file
SCALE_LIMIT = 64
DRAWN = ("columns", "scale")  # options for pictures only
OF_A_CHOICE = ("plan", "precision", "backend", "threads", "guidance", "clip")  # options that a saved choice sets


@dataclass(frozen=True)
class RunOptions(BundleOptions):
    """Sample a bundle (an exported model) into an image grid (.png), a video, sound, or an array (.npy).

    bundle: The folder of the bundle, or ORG/NAME of a bundle on a hub of models.
    plan: The sampling plan: SOLVER:STEPS, scheduler:STEPS for the model's own diffusers scheduler, fitted:STEPS for a
        plan from `fewstep fit`, or the path of a plan's JSON file. Default: the plan of the calibration (for float32
        too), else scheduler:20 if the model came with a scheduler, else dpmpp_2m:8.
    precision: float32, int8 (made by `fewstep calibrate`), or on a GPU float16 or bfloat16 (made by `fewstep build`).
        Default: float32 or, in a bundle without it, a precision that it has.
    samples: Number of samples. Default: one for each prompt, for each record of --conditions, or for each value of
        --condition or row of its file; otherwise 16.
    prompt: Text prompt, for a bundle with a text encoder, or @FILE with one per line. The samples cycle through the
        prompts.
    negative: Negative prompt, or @FILE with one per line. The samples cycle through the prompts.
    condition: NAME=VALUE, NAME=LABEL, or NAME=@FILE.npy for one array or a stack of N arrays. If a name is given
        several times, the samples cycle through its values.
    conditions: A .npz or .safetensors file of conditions, such as `fewstep encode` writes: an array [N, *shape] for
        each by name, and BRANCH.NAME for another branch of guidance. The samples cycle through its rows.
    adapter: FILE.safetensors or FILE.safetensors:STRENGTH of a LoRA, for a bundle with LoRA slots (export
        --lora-slots). Several LoRAs add up. FILE@NETWORK, of several networks, as in export --lora.
    guidance: Weight of classifier-free guidance, pag:SCALE for perturbed attention, or steer:WEIGHT for gradient
        guidance. A plus sign joins several, as 2+pag:3. cfg++:WEIGHT is CFG++. 4,3 is 4 at the first evaluation, then
        3. A weight of 1 runs only the conditional branch. Default: as calibrated, else 1.
    clip: Clip each prediction of the clean sample to [-CLIP, CLIP]; inf for no clip. Default: as calibrated.
    size: NAME=NUMBER for a dynamic axis of the bundle, as height=96. It counts elements of x, such as latents. Other
        dynamic axes keep their defaults. With --tiles it is the size of the whole sample; a bundle of fixed size then
        takes height and width, or length.
    tiles: WINDOW:OVERLAP, as 256:64. The network runs on overlapping windows of a larger sample.
    image: An image to start from (with --strength), or to keep a part of (with --known).
    known: With --image, an image as mask: the image is kept where the mask is black, and sampled where it is white. For
        a token denoiser a .npy file of ids to keep, with -1 for each position to sample: for one sample, or for N
        samples that are used in turn.
    strength: Fraction of the plan's steps to run, above 0 and up to 1. The given image is noised accordingly.
    keep_steps: With --strength, run all steps of a plan SOLVER:STEPS from the noise of that strength.
    start_noise: Instead of --strength, the factor of the noise that is added to the image, from which all steps of a
        plan SOLVER:STEPS run.
    seed: Seed of the first sample. Each further sample increments it.
    output: The file to write: a .png file for images, or for the frames of a video, a .gif or .webp file for a video,
        a .wav file for sound, or a .npy file for the samples of the network, which may be latents. Several sounds go to
        one file each, numbered by their seeds. Named outputs go to separate files with the same stem, as
        samples.depth.npy.
    columns: Samples in a row of the grid. Default: a square grid; for a .png of a video, one row for each sample.
    scale: Enlargement of each pixel. Default: 3 for samples of up to 64 pixels, else 1.
    rate: Frames per second of a .gif or .webp file, or samples per second of a .wav file. Default: as in the bundle.
    threads: CPU threads of onnxruntime and openvino; 0 for one per physical core.
    backend: The inference engine: onnxruntime, onnxruntime-rows (a row of the batch per thread), onnxruntime-cuda,
        openvino, openvino-bf16, tensorrt, tensorrt-rtx, qnn.
    whole_run: FILE.onnx of `fewstep bake --unroll --batch N`: one call computes all steps of N samples, on onnxruntime
        or onnxruntime-cuda. The file must have the plan, guidance, body and size of this run. The samples run in
        batches of N, and the rest runs step by step. May be given several times, for several N. With --image and
        --known, a file of `fewstep bake --hold noised`.
    memory: The most memory of the process, as 2GB. Text encoder, denoiser and decoder follow each other, the decoder in
        bands, with fewer samples in a call if memory is short. The memory of each is measured once on this machine.
    chosen: Run the plan, precision and engine of the last `fewstep choose` on this machine, with its guidance.
    """

    bundle: Path = field(metadata={"as_text": True})
    plan: TextReference | None = None
    precision: str | None = None
    samples: int | None = field(default=None, metadata={"short": "-n"})
    prompt: tuple[str, ...] = field(default=(), metadata={"short": "-p", "whole": True, "is_text": True})
    negative: tuple[str, ...] = field(default=(), metadata={"whole": True, "is_text": True})
    condition: tuple[str, ...] = field(default=(), metadata={"short": "-c"})
    conditions: Path | None = None
    adapter: tuple[str, ...] = field(default=(), metadata={"whole": True})
    guidance: float | Guidance | None = None
    clip: float | None = None
    size: tuple[str, ...] = ()
    tiles: str | None = None
    image: Path | None = None
    known: Path | None = None
    strength: float | None = None
    keep_steps: bool = False
    start_noise: float | None = None
    seed: int = 0
    output: Path = field(default=Path("grid.png"), metadata={"short": "-o"})
    columns: int | None = None
    scale: int | None = None
    rate: float | None = None
    threads: int = 0
    backend: str = CPU
    whole_run: tuple[str, ...] = field(default=(), metadata={"whole": True})
    memory: str | None = None
    chosen: bool = field(default=False, metadata={"sets": OF_A_CHOICE})

    def __post_init__(self) -> None:
        self._check_folder()
        super().__post_init__()
        if not 1 <= self.count <= LIMIT:
            raise UserError(f"one file cannot hold {self.count} samples", f"give 1 to {LIMIT}")
        self._check_output()
        if self.whole_run and self.tiles is not None:
            raise UserError(
                "--whole-run cannot be combined with --tiles, which run step by step",
                "leave out --whole-run or --tiles",
            )
        if self.whole_run and self.adapter:
            raise UserError(
                "--whole-run cannot be combined with --adapter: its files contain the bundle's own weights",
                "leave out --whole-run or --adapter",
            )
        self._check_memory()
        self._check_pictures()
        defaults = {each.name: each.default for each in fields(self)}
        for name in OF_A_CHOICE if self.chosen else ():
            if getattr(self, name) != defaults[name]:
                raise UserError(f"--chosen already sets --{name}", f"leave out --{name} or --chosen")
        if self.plan is not None:
            check_reference(self.plan)

    def _check_folder(self) -> None:
        """Raise UserError for the text of a missing folder, such as ./ORG/NAME, that would be a hub's name as a
        Path."""
        text: Path | str = self.bundle
        if isinstance(text, str) and not is_name(text) and is_name(Path(text).as_posix()):
            raise UserError(f"there is no folder {text}", "check the path, or give ORG/NAME for a model on a hub")

    def _check_output(self) -> None:
        """Raise UserError for a file of another form, and for options that do not belong to the form of the file."""
        if self.output.suffix not in (PICTURE, ARRAY, SOUND, *ANIMATIONS):
            fix = "name a .png (a grid of images), a .gif or .webp (a video), a .wav (sound) or a .npy (an array)"
            raise UserError(f"cannot write {self.output}", fix)
        for name in DRAWN:
            if (value := getattr(self, name)) is not None and not self.is_picture:
                kind = "an array" if self.is_array else "sound"
                what = f"--{name} is for images, but {self.output} is {kind}"
                raise UserError(what, f"leave --{name} out, or write a .png")
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}", "give at least 1")
        if self.rate is not None and not (1 <= self.rate < RATE_LIMIT and self.output.suffix in (SOUND, *ANIMATIONS)):
            what = f"--rate is {self.rate:g}, and {self.output} is the file to write"
            raise UserError(what, f"give a number from 1 to {RATE_LIMIT}, with a .gif, .webp or .wav file")
        if self.scale is not None and self.scale > SCALE_LIMIT:
            raise UserError(f"--scale is {self.scale}", f"give at most {SCALE_LIMIT}")

    def _check_memory(self) -> None:
        """Raise UserError for --memory with an option whose memory is not planned."""
        if self.memory is None:
            return
        parse_bytes(self.memory)
        for name in ("tiles", "whole_run", "image", "adapter", "chosen"):
            if getattr(self, name):
                flag = name.replace("_", "-")
                raise UserError(f"--memory cannot be combined with --{flag}", f"leave --memory or --{flag} out")
        if self.backend != CPU:
            raise UserError(f"--memory plans for {CPU}, and the engine is {self.backend}", "leave --backend out")

    def _check_pictures(self) -> None:
        """Raise UserError for --image, --known or --strength if it lacks an option that it needs, or is combined with
        one that it excludes."""
        start = self.start  # refuses numbers that are out of range
        if self.image is None:
            if start is not None:
                name = "--strength" if self.start_noise is None else "--start-noise"
                raise UserError(f"{name} needs a second option", "add --image FILE")
            return
        if start is None and self.known is None:
            raise UserError("--image needs a second option", "add --strength 0.6 or --known MASK")
        if self.known is not None and self.tiles is not None:
            raise UserError("--known cannot be combined with --tiles", "leave out --known or --tiles")

    @property
    def start(self) -> Strength | None:
        """Where a run from an image starts. None starts from noise."""
        return strength_of(self.strength, self.keep_steps, self.start_noise)

    @property
    def is_picture(self) -> bool:
        """Whether the output is an image file, of one or of several frames."""
        return self.output.suffix in (PICTURE, *ANIMATIONS)

    @property
    def is_array(self) -> bool:
        """Whether the output is an array of samples, which are not decoded."""
        return self.output.suffix == ARRAY

    @property
    def count(self) -> int:
        """The number of samples."""
        return (len(self.prompts) or SAMPLES) if self.samples is None else self.samples

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, with those of files."""
        return expand_prompts(self.prompt)

    @cached_property
    def negatives(self) -> tuple[str, ...]:
        """The negative prompts, with those of files."""
        return expand_prompts(self.negative)
