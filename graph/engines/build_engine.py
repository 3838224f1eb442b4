"""Build one engine in a child process, check it, and add it to the bundle."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fewstep.graph.engines import engine_layers
from fewstep.graph.engines.batches import BATCH
from fewstep.graph.engines.builders import FLOAT32_SCALES, EngineBuilder, Flags
from fewstep.graph.engines.kernels import kernels_of
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.io import load, save
from fewstep.graph.passes.float32_scales import float32_scales
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import SCHEMA, EngineFacts, EngineKey, Sidecar
from fewstep.runtime.bundle.manifest import EngineEntry, GraphEntry
from fewstep.runtime.kinds.sizes import resolve_dimension
from fewstep.runtime.machine import cache

LOG = logging.getLogger("fewstep")
WORKER = Path(__file__).with_name("build_worker.py")
IGNORED = "setComputePrecision"
REFUSED = "Could not infer output types for operation"  # TensorRT#4832: float16 scales on Orin
SCALES = "try --float32-scales, or another --precision if it was given"
OTHER, LONGER = "try another --precision or an older --device", "give a longer --timeout"


@dataclass(frozen=True)
class BuildOrder:
    """An engine to build. `is_reduced` is True if none of its convolutions may compute in float32."""

    body: str
    graph: GraphEntry
    is_reduced: bool
    key: EngineKey


def build_engine(
    writer: Writer, builder: EngineBuilder, order: BuildOrder, bundle: Path, timeout: float
) -> EngineEntry:
    """Build an engine, record that this machine built it, and add it to the bundle with its sidecar file."""
    key = order.key
    name = f"{order.body}-{key.device}".replace("/", "-").replace("+", "-up")
    # the names contain the process id: the builder of a killed process may still run and must not overwrite our files
    draft, asked, timing, layers = (
        writer.scratch(f"{name}-{os.getpid()}{suffix}") for suffix in (".engine", ".json", ".timing", ".layers")
    )
    with timing_cache(builder, key, timing) as measured:
        sizes = {name: preferred for name, (_, preferred, _) in {BATCH: key.batches, **key.sizes}.items()}
        others = {"timing_cache": measured, "layers": layers if builder.sees_gpu else None}
        content = request(builder, key.device, _shapes(order), key.flags, sizes=sizes, **others)
        asked.write_text(json.dumps(content, default=str))
        graph = bundle / order.graph.file
        if order.is_reduced and key.flags.get(FLOAT32_SCALES):
            rewritten = float32_scales(load(graph, root=bundle))
            graph = writer.scratch(f"{name}-{os.getpid()}.onnx")
            save(rewritten, graph)
        files = [str(path) for path in (graph, draft, asked)]
        run_worker(files, f"{order.body!r} for {key.device}", timeout, builder.name, program=builder.worker)
    program = draft.read_bytes()
    types = _check_types(order, program, layers)
    engine_files.remember(program, key)
    file = writer.add(draft, "engines", name, ".engine")
    sidecar = Sidecar(SCHEMA, key.digest, key, hashlib.sha256(program).hexdigest(), types)
    return add_sidecar(writer, order.body, file, sidecar)


def add_sidecar(writer: Writer, body: str, file: str, sidecar: Sidecar) -> EngineEntry:
    """Add the sidecar of an engine's file to the bundle; return the engine's entry."""
    key = sidecar.built_from
    name = f"{body}-{key.device}".replace("/", "-").replace("+", "-up")
    encoded = msgspec.json.format(msgspec.json.encode(sidecar, order="deterministic"), indent=2)
    added = writer.add(encoded, "engines", name, ".json")
    return EngineEntry(file, added, body, key.backend, key.device, key.digest)


def request(
    builder: EngineBuilder,
    device: str,
    shapes: Mapping[str, Sequence[Sequence[int]]],
    flags: Flags,
    **others: object,
) -> dict[str, object]:
    """Return the request to the child process. shapes: the (smallest, preferred, largest) shape of each input. others:
    "timing_cache" and "layers", paths or None; "sizes", for workers other than TensorRT's."""
    return {
        "module": builder.module,
        "device": device,
        "shapes": shapes,
        "flags": flags,
        "compute_capability": device.upper() if builder.devices else None,
        "timing_cache": None,
        "layers": None,
        **others,
    }


def _shapes(order: BuildOrder) -> dict[str, list[list[int]]]:
    """Return the (smallest, preferred, largest) shape of each input."""
    key = order.key
    ends = [
        {BATCH: batch, **{name: sizes[end] for name, sizes in key.sizes.items()}}
        for end, batch in enumerate(key.batches)
    ]
    return {
        tensor.name: [[resolve_dimension(size, sizes) for size in tensor.shape] for sizes in ends]
        for tensor in order.graph.inputs
    }


def _check_types(order: BuildOrder, program: bytes, layers: Path) -> dict[str, int]:
    """Return how many of an engine's convolutions multiply in each type, as far as the engine reveals it.

    An unexpected float32 in the program text is an error, since that text is reliable. In the output of an inspector it
    only causes a warning, since layer names differ between versions.
    """
    kernels = kernels_of(program)
    convolutions = () if kernels is None else kernels.convolutions
    for convolution in convolutions:
        if order.is_reduced and convolution.multiplies == "float32":
            raise UserError(
                f"the engine for {order.key.device} computes convolution {convolution.name!r} in float32",
                "report this with the graph: a lowering of fewstep is wrong",
            )
    types = Counter(convolution.multiplies or "unknown" for convolution in convolutions)
    if layers.exists():
        types = Counter(engine_layers.convolutions(layers.read_bytes()).values())
        if order.is_reduced and (count := types["float32"]):
            LOG.warning("the engine of %s computes %d convolutions in float32", order.body, count)
    return dict(types)


def run_worker(
    arguments: list[str],
    what: str,
    timeout: float,
    backend: str,
    other: str = OTHER,
    longer: str = LONGER,
    program: str | None = None,
) -> None:
    """Run the builder to completion. Raises a one-line UserError if it fails, hangs or dies.

    other: the fix if the builder fails.
    longer: the fix if it takes more than `timeout` seconds.
    program: the name of a script in this folder; WORKER by default.
    """
    worker = WORKER if program is None else WORKER.with_name(program)
    try:
        child = subprocess.run(
            [sys.executable, str(worker), *arguments], capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{backend} took more than {timeout:g} s to build {what}", longer) from None
    code = child.returncode
    if code < 0 or code > 0xFF:  # a signal, or its equivalent on Windows
        death = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        raise UserError(f"{backend} died ({death}) while building {what}", f"free memory, or {other}")
    if code:
        output = child.stderr + child.stdout
        if other == OTHER and REFUSED in output and "dequantize" in output:
            other = SCALES
        raise UserError(f"{backend} cannot build {what}: {_reason(output)}", other)


def _reason(output: str) -> str:
    """Return the first cause that the worker named, else the first error that the builder logged, else the last line.

    Messages about a setting that strongly typed networks ignore do not stop a build: TensorRT 10 logs one for each
    norm.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line.removeprefix("[E]").strip() for line in lines if line.startswith("[E]")]
    logged = [line.partition("[E]")[2].strip() for line in lines if "[E]" in line and IGNORED not in line]
    return (named or logged or lines[-1:] or ["it gave no reason"])[0]


@contextmanager
def timing_cache(builder: EngineBuilder, of: EngineKey | EngineFacts, file: Path) -> Iterator[Path | None]:
    """Yield the file in which a builder reads and writes its timing measurements; None if it measures nothing.

    The user's cache folder keeps the file for this GPU and version, unless the builder fails.
    """
    if not builder.sees_gpu:
        yield None
        return
    name = f"{of.backend}-{of.backend_version}-{of.device}-{of.multiprocessors}.cache"
    if (content := cache.read("timing", name)) is not None:
        file.write_bytes(content)
    yield file
    if file.exists():
        cache.store("timing", name, file.read_bytes())
