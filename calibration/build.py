"""`fewstep build`: engines ahead of time, for devices that need not be there.

TensorRT-RTX compiles for a GPU it doesn't see. Nothing here runs an engine: what can be checked without one is that it
was built, and in which types its convolutions multiply. One engine per device, not one for all: a device is shipped
its own code only, adding one rebuilds nothing, and an operation that one generation lacks costs the others nothing.
"""

import hashlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec

from fewstep.calibration.engine_key import SCHEMA, EngineKey, Sidecar
from fewstep.calibration.engine_program import convolutions
from fewstep.calibration.lowering.float16 import to_float16
from fewstep.graph import io
from fewstep.graph.commit import Writer, open_for_update
from fewstep.graph.passes.constants import drop_unused
from fewstep.runtime.bundle import Bundle, open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Body, Engine, Manifest
from fewstep.runtime.manifest import Graph as GraphFile
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")
WORKER = Path(__file__).with_name("build_worker.py")
BACKEND = "tensorrt-rtx"
INSTALL = "pip install 'fewstep[tensorrt-rtx]'"
DEVICES = {  # what TensorRT-RTX compiles for: Turing, Ampere, Ampere for RTX, Ada, and both Blackwells
    "sm75": (7, 5),
    "sm80": (8, 0),
    "sm86": (8, 6),
    "sm89": (8, 9),
    "sm120": (12, 0),
    "sm121": (12, 1),
}
BODIES = {"int8": "int8-tensorrt", "float16": "float16-tensorrt"}
OTHER = "try another --precision or an older --device"
FLAGS = {"strongly_typed": True, "tf32": False}


@dataclass(frozen=True)
class BuildOptions:
    """Build engines of a bundle's body ahead of time. No GPU is needed, and none is used: engines are not run.

    bundle: The bundle to build for; engines are added to it.
    backend: tensorrt-rtx.
    device: Compute capabilities to build for: sm75, sm80, sm86, sm89, sm120, sm121.
    precision: int8 builds the body that calibrate made for tensorrt, float16 the float body.
    min_batch: The least number of rows of x in one evaluation; a guided sample takes two.
    opt_batch: The number to be fastest at.
    max_batch: The greatest number.
    timeout: Seconds that one engine may take.
    """

    bundle: Path
    backend: str = BACKEND
    device: tuple[str, ...] = ("sm86", "sm89", "sm120")
    precision: Literal["int8", "float16"] = "int8"
    min_batch: int = 1
    opt_batch: int = 4
    max_batch: int = 16
    timeout: float = 3600.0


@dataclass(frozen=True)
class Build:
    """The bundle's manifest afterwards, and which devices were built for or had their engine already."""

    manifest: Manifest
    built: tuple[str, ...]
    kept: tuple[str, ...]


def build(options: BuildOptions, progress: Progress = SILENT) -> Build:
    """Build the engines that are missing, and commit them all at once. UserError if one cannot be built."""
    devices = _devices(options)
    backend_version = _backend_version(options)
    with open_for_update(options.bundle, must_exist=True) as writer:
        bundle = open_bundle(options.bundle)
        name, body = _body(options, bundle, writer)
        hashes = {**bundle.manifest.files, **writer.files}
        keys = {
            device: EngineKey(
                graph=hashes[body.graph.file],
                weights=tuple(hashes[file] for file in body.graph.data),
                batches=_batches(options),
                flags=FLAGS,
                backend=options.backend,
                backend_version=backend_version,
                device=device,
            )
            for device in devices
        }
        kept = tuple(device for device, key in keys.items() if _is_present(bundle, key))
        engines = {}
        for done, (device, key) in enumerate(keys.items(), 1):
            if device in kept:
                LOG.info("the engine of %s for %s is up to date", name, device)
            else:
                engines[device] = _add_engine(writer, name, body.graph, key, options)
            progress(f"engine {device} (up to date)" if device in kept else f"engine {device}", done, len(keys))
        manifest = _commit(writer, bundle.manifest, options, name, body, engines) if engines else bundle.manifest
    return Build(manifest, tuple(engines), kept)


def _devices(options: BuildOptions) -> tuple[str, ...]:
    if options.backend != BACKEND:
        raise UserError(f"unknown backend {options.backend!r} to build for", f"choose {BACKEND}")
    for device in options.device:
        if device not in DEVICES:
            raise UserError(f"unknown device {device!r}", f"choose from {', '.join(DEVICES)}")
    if not options.device:
        raise UserError("no device to build for", f"choose from {', '.join(DEVICES)}")
    return tuple(dict.fromkeys(options.device))


def _backend_version(options: BuildOptions) -> str:
    """The builder's version. UserError if it isn't installed."""
    for module in ("tensorrt_rtx", "polygraphy"):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{options.backend} cannot build here: {module} is not installed", INSTALL)
    return version("tensorrt-rtx")


def _body(options: BuildOptions, bundle: Bundle, writer: Writer) -> tuple[str, Body]:
    """The body to build, its files checked, and its name. The float16 one is made the first time it is asked for."""
    if options.precision not in BODIES:
        raise UserError(f"no engines of precision {options.precision!r}", f"choose from {', '.join(BODIES)}")
    name = BODIES[options.precision]
    body = bundle.manifest.bodies.get(name)
    if body is not None:
        bundle.graph(body.graph)
        return name, body
    if options.precision == "int8":
        raise UserError(
            f"{options.bundle} has no body {name!r} to build",
            f"fewstep calibrate {options.bundle} --target tensorrt, or build --precision float16",
        )
    base = bundle.body("float32").graph
    prepared = io.load(bundle.graph(base), root=options.bundle)
    file, data = io.store(writer, drop_unused(to_float16(prepared)), name)
    return name, Body(GraphFile(file, base.inputs, base.outputs, data), "float16", "tensorrt")


def _batches(options: BuildOptions) -> tuple[int, int, int]:
    least, preferred, greatest = options.min_batch, options.opt_batch, options.max_batch
    if not 1 <= least <= preferred <= greatest:
        raise UserError(
            f"batches {least}, {preferred}, {greatest} are not 1 <= min <= opt <= max",
            "give --min-batch, --opt-batch and --max-batch in this order",
        )
    return least, preferred, greatest


def _is_present(bundle: Bundle, key: EngineKey) -> bool:
    """Whether the bundle has an undamaged engine with this key."""
    for engine in bundle.manifest.engines:
        if engine.key == key.digest:
            try:
                bundle.file(engine.file), bundle.file(engine.sidecar)
            except UserError as error:
                LOG.warning("building again: %s", error.what)
                return False
            return True
    return False


def _add_engine(writer: Writer, body: str, graph: GraphFile, key: EngineKey, options: BuildOptions) -> Engine:
    """Build one engine in a child process, and add it to the bundle with its side-car."""
    name = f"{body}-{key.device}"
    # named by this process: the builder of one that was killed may still be at work, and must not write over ours
    draft, request = (writer.scratch(f"{name}-{os.getpid()}{suffix}") for suffix in (".engine", ".json"))
    shapes = {
        tensor.name: [[batch if isinstance(size, str) else size for size in tensor.shape] for batch in key.batches]
        for tensor in graph.inputs
    }
    request.write_text(json.dumps({"shapes": shapes, "flags": key.flags, "compute_capability": DEVICES[key.device]}))
    files = [str(path) for path in (options.bundle / graph.file, draft, request)]
    run_worker(files, f"body {body!r} for {key.device}", options.timeout)
    program = draft.read_bytes()
    kinds = convolutions(program)
    for convolution, kind in kinds.items():
        if kind == "float32":
            raise UserError(
                f"the engine for {key.device} computes convolution {convolution!r} in float32",
                "report this with the graph: a lowering of fewstep is wrong",
            )
    sidecar = Sidecar(SCHEMA, key.digest, key, hashlib.sha256(program).hexdigest(), dict(Counter(kinds.values())))
    encoded = msgspec.json.format(msgspec.json.encode(sidecar, order="deterministic"), indent=2)
    return Engine(
        file=writer.add(draft, "engines", name, ".engine"),
        sidecar=writer.add(encoded, "engines", name, ".json"),
        body=body,
        backend=key.backend,
        device=key.device,
        key=key.digest,
    )


def run_worker(arguments: list[str], what: str, timeout: float) -> None:
    """Run the builder to its end. UserError in one line if it fails, hangs or dies."""
    try:
        child = subprocess.run(
            [sys.executable, str(WORKER), *arguments], capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{BACKEND} took more than {timeout:g} s to build {what}", "give a longer --timeout") from None
    code = child.returncode
    if code < 0 or code > 0xFF:  # a signal, or what Windows has instead
        death = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        raise UserError(f"{BACKEND} died ({death}) building {what}", f"free memory, or {OTHER}")
    if code:
        raise UserError(f"{BACKEND} cannot build {what}: {_reason(child.stderr + child.stdout)}", OTHER)


def _reason(output: str) -> str:
    """The first line that the builder marked as an error, or the last line there is."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [line.partition("[E]")[2].strip() for line in lines if "[E]" in line]
    return (marked or lines[-1:] or ["it says nothing"])[0]


def _commit(
    writer: Writer, manifest: Manifest, options: BuildOptions, name: str, body: Body, engines: Mapping[str, Engine]
) -> Manifest:
    """Put the new engines in the place of those of the same body and device."""
    new = {(engine.body, engine.backend, engine.device) for engine in engines.values()}
    others = (engine for engine in manifest.engines if (engine.body, engine.backend, engine.device) not in new)
    command = (
        f"fewstep build BUNDLE --backend {options.backend} --device {','.join(engines)} --precision {options.precision}"
        f" --min-batch {options.min_batch} --opt-batch {options.opt_batch} --max-batch {options.max_batch}"
    )
    provenance = manifest.provenance
    return writer.commit(
        msgspec.structs.replace(
            manifest,
            bodies={**manifest.bodies, name: body},
            engines=(*others, *engines.values()),
            provenance=msgspec.structs.replace(provenance, commands=(*provenance.commands, command)),
        )
    )
