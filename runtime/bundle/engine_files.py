"""Select an engine of a bundle that may run on this machine.

An engine is native code, so a process that loads one must trust its builder. A hash detects damage, but does not prove
origin. An engine is therefore loaded only under two conditions:

- Its key matches this machine: the graph, the backend and its version, the GPU.
- This machine built it, according to a file in the user's cache folder, or the caller trusts its builder.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from fewstep.plans.errors import UserError, quote_path
from fewstep.runtime.backends import find_graph
from fewstep.runtime.bundle.engine_key import AMPERE_ON, SCHEMA, EngineFacts, EngineKey, Sidecar, key_difference
from fewstep.runtime.bundle.manifest import EngineEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine import cache

SIDECAR_LIMIT = 2**20  # bytes; an actual sidecar has a few hundred


@dataclass(frozen=True)
class Program:
    """An engine whose bytes have been verified, so that it is safe to load, and the key under which it is stored."""

    content: bytes
    key: EngineKey


def remember(content: bytes, key: EngineKey) -> None:
    """Record that this machine built an engine."""
    cache.store("engines", f"{hashlib.sha256(content).hexdigest()}.json", msgspec.json.encode(key))


def was_built_here(sha256: str) -> bool:
    return cache.read("engines", f"{sha256}.json") is not None


def find(bundle: Bundle, name: str, here: EngineFacts, trust: bool) -> Program:
    """Return the engine of a body (or of the prologue) for this machine.

    `trust` allows engines from other machines. Raises UserError that names what is missing or differs.
    """
    build = f"fewstep build {quote_path(bundle.path)} --backend {here.backend}{_precision(bundle, name)}"
    candidates = [engine for engine in bundle.manifest.engines if (engine.body, engine.backend) == (name, here.backend)]
    if not candidates:
        raise UserError(f"{bundle.path} has no {here.backend} engine of {name!r}", build)
    graph = find_graph(bundle, name)  # not read: its recorded hash is compared with the engine's key
    hashes = bundle.manifest.files
    weights = tuple(hashes[file] for file in graph.data)
    problems = {}
    for engine in candidates:
        sidecar = read_sidecar(bundle, engine)
        problem = key_difference(sidecar.built_from, hashes[graph.file], weights, here)
        if problem is None:
            return _read_program(bundle, engine, sidecar, build, trust)
        problems[engine.device] = problem
    closest = problems.get(here.device) or next(iter(problems.values()))
    built = f" (built for {', '.join(problems)})" if len(problems) > 1 else ""
    raise UserError(f"{bundle.path}: no engine of {name!r} fits this machine{built}: {closest}", build)


def is_built(bundle: Bundle, name: str, here: EngineFacts) -> bool:
    """Return True if the bundle has an engine for this backend and GPU, whether or not its key matches."""
    wanted = {(name, here.backend, device) for device in (here.device, AMPERE_ON)}
    return any((engine.body, engine.backend, engine.device) in wanted for engine in bundle.manifest.engines)


def read_sidecar(bundle: Bundle, engine: EngineEntry) -> Sidecar:
    """Read the file next to an engine that has the key under which the engine was built.

    Raises UserError if it cannot be read or does not match the manifest.
    """
    again = f"fewstep build {quote_path(bundle.path)} --backend {engine.backend}"
    path = bundle.file(engine.sidecar)
    if path.stat().st_size > SIDECAR_LIMIT:
        raise UserError(f"{bundle.path}: {engine.sidecar} is larger than {SIDECAR_LIMIT} bytes", again)
    try:
        sidecar = msgspec.json.decode(path.read_bytes(), type=Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{bundle.path}: {engine.sidecar} cannot be read ({error})", again) from error
    if sidecar.schema > SCHEMA:
        raise UserError(
            f"{bundle.path}: {engine.sidecar} has schema {sidecar.schema}, and this fewstep reads up to {SCHEMA}",
            "pip install --upgrade fewstep",
        )
    key = sidecar.built_from
    agrees = engine.key == sidecar.key == key.digest and sidecar.sha256 == bundle.manifest.files[engine.file]
    if not agrees or (key.backend, key.device) != (engine.backend, engine.device):
        raise UserError(f"{bundle.path}: {engine.sidecar} does not belong to {engine.file}", again)
    return sidecar


def _read_program(bundle: Bundle, engine: EngineEntry, sidecar: Sidecar, build: str, trust: bool) -> Program:
    """Return the engine's bytes. The hash is of these bytes, so that the loaded engine is the checked one."""
    content = bundle.read(engine.file)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != sidecar.sha256:
        raise UserError(f"{bundle.path}: {engine.file} changed while it was read", "run the command again")
    if not trust and not was_built_here(sha256):
        raise UserError(
            f"{bundle.path}: {engine.file} was not built on this machine, and an engine is native code",
            f"build it here: {build}; or, if you trust its builder, give trust_engines=True",
        )
    return Program(content, sidecar.built_from)


def _precision(bundle: Bundle, name: str) -> str:
    body = bundle.manifest.bodies.get(name.partition("/")[0])
    return f" --precision {body.precision}" if body else ""
