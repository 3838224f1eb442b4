"""The options of `fewstep build`, and the checks that need no bundle."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fewstep.graph.engines.builders import STRICT, EngineBuilder, Flags, builder_of
from fewstep.plans.errors import UserError
from fewstep.runtime.options import BundleOptions


@dataclass(frozen=True)
class BuildOptions(BundleOptions):
    """Build engines of a bundle's body for GPUs, and add them to the bundle. Engines for this machine's GPU are
    compared with onnxruntime.

    bundle: The bundle to build for.
    backend: tensorrt-rtx builds ahead of time and needs no GPU. tensorrt (JetPack, data centers) builds for the GPU on
        which it runs. qnn builds ahead of time for Qualcomm's Hexagon. onnxruntime-cuda compiles when it loads; its
        `build` writes its float16 body, and a form of the body with the provider's fastest operations.
    device: Compute capabilities to build for. tensorrt-rtx: sm75, sm80, sm86, sm89, sm120, sm121, by default sm86, sm89
        and sm120. tensorrt: the GPU of this machine. qnn: sm8550, sm8650, sm8750, sm8850, or by default sc8380xp.
    precision: int8 builds the body that calibrate made for tensorrt; float16, bfloat16 and float32 build the float
        body. bfloat16 is for weights trained in bfloat16, and for activations beyond float16. It needs Ampere or later.
    min_batch: The smallest batch of one evaluation (a guided sample is a batch of two), or shapes of inputs, like
        x:1x1x28x28 or x:[1,1,28,28]. Shapes also set the free sizes of a bundle; a number leaves their ranges as they
        are.
    opt_batch: The preferred batch, or shapes, at which the engine is fastest; a qnn engine has only this one. Default:
        4, or the nearest batch between the other two.
    max_batch: The largest batch, or shapes.
    workspace: MiB of scratch memory that the builder may plan with. Default: all memory.
    version_compatible: Build tensorrt engines that later versions can run too.
    hardware_compatible: Build tensorrt engines for Ampere and all later GPUs. Not on a Jetson.
    dla: Number of the DLA core to use, on a Jetson that has one; layers that it cannot run go to the GPU.
    float32_scales: Write int8 scales in float32, for a builder that refuses float16 scales.
    verify: Compare the engines for this machine's GPU with onnxruntime, as verify --engines does. Turn it off if memory
        cannot hold the network twice.
    timeout: Seconds that building one engine may take.
    script: A file to write instead of building, with --backend tensorrt: the commands of trtexec and Polygraphy that
        build the same engines and compare them with onnxruntime.
    """

    backend: str = "tensorrt-rtx"
    device: tuple[str, ...] = ()
    precision: Literal["int8", "float16", "bfloat16", "float32"] = "int8"
    min_batch: str = "1"
    opt_batch: str | None = None
    max_batch: str = "16"
    workspace: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = None
    float32_scales: bool = False
    verify: bool = field(default=True, metadata={"unrecorded": True})
    timeout: float = field(default=3600.0, metadata={"unrecorded": True})
    script: Path | None = None


def check_options(options: BuildOptions) -> EngineBuilder:
    """Return the builder that the options name. Raises UserError for options that are wrong for any bundle."""
    builder = builder_of(options.backend)
    for device in options.device:
        if builder.devices and device not in builder.devices:
            raise UserError(f"unknown device {device!r}", f"choose from {', '.join(builder.devices)}")
    if options.precision not in builder.bodies:
        raise UserError(
            f"{builder.name} has no engines of precision {options.precision!r}",
            f"choose --precision {', '.join(builder.bodies)}",
        )
    for flag in builder_flags(options).keys() - STRICT.keys() - {"workspace"} - builder.options:
        raise UserError(f"{builder.name} has no --{flag.replace('_', '-')}", "omit it, or use --backend tensorrt")
    for option, least in (("workspace", 1), ("dla", 0)):
        value = getattr(options, option)
        if value is not None and value < least:
            raise UserError(f"--{option} is {value}", f"give at least {least}")
    if options.dla is not None and options.precision in ("int8", "bfloat16"):
        what = "quantized (QDQ) int8 graphs" if options.precision == "int8" else "bfloat16"
        raise UserError(f"a DLA does not support {what}", "build --precision float16, or omit --dla")
    if options.float32_scales and options.precision != "int8":
        raise UserError(f"{options.precision} has no scales", "build --precision int8, or omit --float32-scales")
    if options.float32_scales and options.script is not None:
        raise UserError("a script builds the bundle's graphs unchanged", "omit --script or --float32-scales")
    return builder


def builder_flags(options: BuildOptions) -> Flags:
    """Return the settings that differ from the builder's defaults."""
    names = ("workspace", "dla", "version_compatible", "hardware_compatible", "float32_scales")
    choices = {name: value for name in names if (value := getattr(options, name)) is not None and value is not False}
    return {**STRICT, **choices}
