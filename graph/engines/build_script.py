"""Write a shell script of commands of NVIDIA's tools that build the engines of a bundle and compare them.

trtexec builds the engines of `fewstep build --backend tensorrt`, and times nothing. Polygraphy runs the graph in
TensorRT and in onnxruntime on equal inputs, and compares their outputs. The shapes and flags are written out, so that
users need not look them up in the bundle.
"""

import shlex
from collections.abc import Iterator, Sequence

from fewstep.graph.engines.builders import Flags
from fewstep.plans.plan import DENOISER
from fewstep.runtime.bundle.manifest import Body, Condition, GraphEntry, TensorEntry
from fewstep.runtime.kinds.sizes import resolve_dimension

HEAD = """#!/usr/bin/env bash
# Build and compare the engines of a bundle manually: cd BUNDLE && bash THIS_FILE
# Needs TensorRT's trtexec, and Polygraphy with onnxruntime, on the device itself.
set -euo pipefail
mkdir -p by_hand
"""
TOLERANCE = {
    "float32": (1e-4, 1e-3),
    "float16": (2e-2, 2e-2),
    "bfloat16": (5e-2, 5e-2),
    "int8": (5e-2, 5e-2),
}  # absolute and relative tolerance
ENDS = ("min", "opt", "max")

Profile = dict[str, tuple[int, int, int]]  # (least, preferred, greatest) batch and free sizes


def script(
    graphs: dict[str, GraphEntry],
    body: Body,
    conditions: Sequence[Condition],
    profile: Profile,
    flags: Flags,
    network: str = DENOISER,
) -> str:
    """Return the commands that build the engines of one network. `graphs` are its graphs by engine name. The caller
    writes HEAD before the commands.

    profile: the (smallest, preferred, largest) batch and sizes, see `batches.profile_of`.
    """
    before = "" if network == DENOISER else f"{network}/"
    return "".join(
        f"\n# {before}{name}\n{_line(command)}\n"
        for name, graph in graphs.items()
        for command in (
            _trtexec(before + name, graph, profile, flags),
            _polygraphy(name, graph, body, conditions, profile, flags),
        )
    )


def _trtexec(name: str, graph: GraphEntry, profile: Profile, flags: Flags) -> Iterator[str]:
    yield "trtexec"
    yield f"--onnx={graph.file}"
    yield f"--saveEngine=by_hand/{name.replace('/', '-')}.engine"
    yield from ("--stronglyTyped", "--noTF32")
    yield "--skipInference"  # trtexec's random integers may not be a valid group or class
    for end, word in enumerate(ENDS):
        shapes = (f"{port.name}:{'x'.join(map(str, _shape(port, profile, end)))}" for port in graph.inputs)
        yield f"--{word}Shapes={','.join(shapes)}"
    if "workspace" in flags:
        yield f"--memPoolSize=workspace:{flags['workspace']}M"
    if flags.get("version_compatible"):
        yield "--versionCompatible"
    if flags.get("hardware_compatible"):
        yield "--hardwareCompatibilityLevel=ampere+"
    if "dla" in flags:
        yield from (f"--useDLACore={flags['dla']}", "--allowGPUFallback")


def _polygraphy(
    name: str, graph: GraphEntry, body: Body, conditions: Sequence[Condition], profile: Profile, flags: Flags
) -> Iterator[str]:
    """Yield the comparison of TensorRT and onnxruntime at the preferred shapes. Polygraphy leaves TF32 off by
    default."""
    yield from ("polygraphy", "run", graph.file, "--trt", "--onnxrt", "--strongly-typed")
    for end, word in enumerate(ENDS):
        yield f"--trt-{word}-shapes"
        yield from (f"{port.name}:{_format_shape(port, profile, end)}" for port in graph.inputs)
    yield "--input-shapes"
    yield from (f"{port.name}:{_format_shape(port, profile, ENDS.index('opt'))}" for port in graph.inputs)
    ranges = [f"{port.name}:[{low},{high}]" for port in graph.inputs for low, high in _range(port, body, conditions)]
    yield from ("--val-range", *ranges) if ranges else ()
    if "workspace" in flags:
        yield from ("--pool-limit", f"workspace:{flags['workspace']}M")
    absolute, relative = TOLERANCE[
        "float32" if name.partition("/")[0] in ("prologue", "conditioner") else body.precision
    ]
    yield from ("--atol", f"{absolute:g}", "--rtol", f"{relative:g}")


def _range(tensor: TensorEntry, body: Body, conditions: Sequence[Condition]) -> Iterator[tuple[int, int]]:
    """Yield the range of an integer input; nothing for other inputs."""
    if tensor.role == "group":
        yield 0, len(body.groups)
    for condition in conditions:
        if tensor.role == "condition" and condition.input == tensor.name and condition.dtype.startswith("int"):
            yield int(condition.low or 0), int(condition.high or 0)


def _shape(tensor: TensorEntry, profile: Profile, end: int) -> list[int]:
    """Return the input's sizes at one end of the profile."""
    sizes = {name: ends[end] for name, ends in profile.items()}
    return [resolve_dimension(size, sizes) for size in tensor.shape]


def _format_shape(tensor: TensorEntry, profile: Profile, end: int) -> str:
    return f"[{','.join(map(str, _shape(tensor, profile, end)))}]"


def _line(command: Iterator[str]) -> str:
    """Format a command with one argument per line."""
    return " \\\n    ".join(map(shlex.quote, command))
