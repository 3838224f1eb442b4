"""`fewstep run`: sample a bundle into a grid of images, or an array."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.cli.outcome import Outcome
from fewstep.runtime.backends.named import named
from fewstep.runtime.errors import UserError
from fewstep.runtime.finite import finite_sample
from fewstep.runtime.manifest import Condition
from fewstep.runtime.plan import Plan
from fewstep.runtime.plan_name import parse_plan_name
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import PLAN, Sampler, load
from fewstep.runtime.step import StepState

CPU = "onnxruntime"
BATCH = 64  # samples of one call; more would only cost memory
LIMIT = 100_000  # samples of one file
SCALE_LIMIT = 64
PIXELS_LIMIT = 2**27  # of one picture: 400 MB in colour, and no viewer opens more


@dataclass(frozen=True)
class RunOptions:
    """Sample a bundle into an image grid (.png) or an array (.npy).

    bundle: The bundle's folder.
    plan: SOLVER:STEPS, or the path of a plan's JSON; by default the one the body was calibrated along.
    precision: float32, int8 (made by `fewstep calibrate`), or on a GPU float16 (made by `fewstep build`).
    samples: How many.
    condition: NAME=VALUE, NAME=LABEL, or NAME=@FILE.npy for one array or an array of them; given several times for one
        name, the samples take the values in turn.
    guidance: Weight of classifier-free guidance; left out, only the conditional branch runs.
    seed: Of the first sample; the others count up from it.
    output: The file to write.
    columns: Samples in a row of the grid; left out, the grid is square.
    scale: Enlargement of each pixel.
    threads: Threads on the CPU, where onnxruntime or openvino computes; 0 means one per physical core.
    backend: What runs it: onnxruntime, onnxruntime-cuda, openvino, tensorrt, tensorrt-rtx.
    """

    bundle: Path
    plan: str | None = None
    precision: str = "float32"
    samples: int = field(default=16, metadata={"short": "-n"})
    condition: tuple[str, ...] = field(default=(), metadata={"short": "-c"})
    guidance: float | None = None
    seed: int = 0
    output: Path = field(default=Path("grid.png"), metadata={"short": "-o"})
    columns: int | None = None
    scale: int = 3
    threads: int = 0
    backend: str = CPU


def verb(options: RunOptions, progress: Progress) -> Outcome:
    started = time.perf_counter()
    x, plan = run(options, progress)
    seconds = time.perf_counter() - started
    count = "1 sample" if len(x) == 1 else f"{len(x)} samples"
    return Outcome(
        {"output": options.output, "shape": x.shape, "plan": plan, "seconds": seconds},
        (f"{options.output}: {count} of {plan} in {options.precision}, {seconds:.1f} s with loading",),
    )


def run(options: RunOptions, progress: Progress = SILENT) -> tuple[NDArray[np.float32], str]:
    """The samples [N, C, H, W] that were written, and the name of the plan that made them."""
    _check(options)
    numbers = range(options.seed, options.seed + options.samples)
    backend = named(options.backend, options.threads)
    with load(options.bundle, options.precision, backend=backend) as sampler:
        _check_picture(options, sampler.bundle.manifest.x_shape)
        values = parse_conditions(options.condition, sampler.bundle.manifest.conditions)
        plan = sampler.compile(options.plan or calibrated_plan(sampler), options.guidance)
        parts = []
        for start in range(0, options.samples, BATCH):
            seeds = numbers[start : start + BATCH]
            condition = {
                name: [each[(start + index) % len(each)] for index in range(len(seeds))]
                for name, each in values.items()
            }
            parts.append(_sample(sampler, plan, seeds, condition, progress))
    x = np.concatenate(parts)
    write(x, options.output, options.columns, options.scale)
    return x, plan.name


def calibrated_plan(sampler: Sampler) -> str | Path:
    """The plan that the body was calibrated along: its name, or its file where no name says it."""
    name = sampler.body.plan
    if name is None:
        return PLAN
    try:
        return parse_plan_name(name).text
    except UserError:
        file = sampler.bundle.manifest.plans.get(name)
        return PLAN if file is None else sampler.bundle.path / file


def _sample(
    sampler: Sampler, plan: Plan, seeds: Sequence[int], condition: dict[str, list[Any]], progress: Progress
) -> NDArray[np.float32]:
    """`Sampler.sample`, with progress after each step."""

    def told() -> Iterator[StepState]:
        for state in sampler.steps(plan, seeds, condition):
            progress(f"seeds {seeds[0]} to {seeds[-1]}", state.index + 1, len(plan.steps))
            yield state

    return finite_sample(plan, told())


def _check(options: RunOptions) -> None:
    """What can be refused before anything is loaded."""
    if not 1 <= options.samples <= LIMIT:
        raise UserError(f"{options.samples} samples in one file", f"ask for 1 to {LIMIT}")
    if options.output.suffix not in (".png", ".npy"):
        raise UserError(f"cannot write {options.output}", "name a .png (a grid of images) or a .npy (an array)")
    if not options.output.absolute().parent.is_dir():
        raise UserError(f"there is no folder {options.output.parent}", "make it first, or write elsewhere")
    for name, value in (("columns", options.columns), ("scale", options.scale)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}", "give at least 1")
    if options.scale > SCALE_LIMIT:
        raise UserError(f"--scale {options.scale}", f"give at most {SCALE_LIMIT}")


def _check_picture(options: RunOptions, x_shape: tuple[int, ...]) -> None:
    """Refuse, before sampling, a picture that would be too large. Gaps between samples are not counted."""
    if options.output.suffix != ".png":
        return
    height, width = x_shape[-2:] if len(x_shape) > 1 else (1, 1)
    columns = min(options.columns or _columns(options.samples), options.samples)
    rows = -(-options.samples // columns)
    height, width = rows * height * options.scale, columns * width * options.scale
    if height * width > PIXELS_LIMIT:
        raise UserError(
            f"a picture of {width} x {height} pixels is too large",
            f"lower --scale or --samples (at most {PIXELS_LIMIT} pixels), or write an array (.npy)",
        )


def _columns(samples: int) -> int:
    """Of a square grid."""
    return int(np.ceil(np.sqrt(samples)))


def parse_conditions(texts: Sequence[str], known: Sequence[Condition]) -> dict[str, list[Any]]:
    """ "class=3", "class=dress", "text=@file.npy" to the values of each name. The runtime checks what they mean."""
    shapes = {condition.name: condition.shape for condition in known}
    values: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UserError(f"condition {text!r} is not NAME=VALUE", "write it as --condition class=3")
        if value.startswith("@"):
            values.setdefault(name, []).extend(_arrays(name, Path(value[1:]), shapes.get(name, ())))
        elif shapes.get(name):
            raise UserError(
                f"condition {name!r} takes arrays of shape {list(shapes[name])}",
                f"give them as a file: --condition {name}=@FILE.npy",
            )
        else:
            values.setdefault(name, []).append(_value(value))
    return values


def _arrays(name: str, path: Path, shape: tuple[int, ...]) -> list[Any]:
    """The values of a condition in a .npy file: one of `shape`, or [N, *shape]. Nothing pickled is read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise UserError(f"condition {name!r}: {path} cannot be read ({reason})", "write it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.shape not in (shape, array.shape[:1] + shape):
        has = list(array.shape) if isinstance(array, np.ndarray) else "several arrays"
        raise UserError(
            f"condition {name!r}: {path} has the shape {has}", f"give one value {list(shape)}, or N of them [N, ...]"
        )
    return [array] if array.shape == shape else list(array)


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write(x: NDArray[np.float32], path: Path, columns: int | None, scale: int) -> None:
    if path.suffix == ".npy":
        np.save(path, x)
        return
    from fewstep.calibration.drawing import pictures

    path.write_bytes(pictures.png(pictures.grid(x, columns or _columns(len(x)), scale)))
