"""Add engines to a bundle, as if `fewstep build` had built them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fewstep.graph.files.commit import open_for_update
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import SCHEMA, EngineKey, Sidecar
from fewstep.runtime.bundle.manifest import EngineEntry
from fewstep.runtime.bundle.reading import open_bundle
from tests.runtime.backends.tensorrt_double import engine

BATCHES = (1, 2, 8)


def feeds(value: float, batch: int = 2) -> dict[str, np.ndarray]:
    """Return the feeds of the tiny bundle's float32 body, x / 2 + row."""
    return {"x": np.full((batch, 1, 4, 4), value, np.float32), "row": np.ones((batch, 1), np.float32)}


def add_engine(
    bundle: Path,
    body: str,
    remember: bool = True,
    content: bytes | None = None,
    edit: Callable[[Sidecar], bytes] = msgspec.json.encode,
    **changes: Any,
) -> Path:
    """Add the engine of a body (or "prologue") for the double of TensorRT 10.3 on sm89; returns its path.

    `changes` are fields of its key, `edit` changes its JSON file; `remember` records that this machine built it.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    graph = manifest.prologue if body == "prologue" else manifest.bodies[body].graph
    assert graph is not None
    fields: dict[str, Any] = {
        "graph": manifest.files[graph.file],
        "weights": (),
        "batches": BATCHES,
        "flags": {"strongly_typed": True, "tf32": False},
        "backend": "tensorrt",
        "backend_version": "10.3.0",
        "device": "sm89",
        "multiprocessors": 64,
    }
    key = EngineKey(**(fields | changes))
    file = (bundle / graph.file).read_bytes()
    content = (
        engine(file, key.backend_version, key.batches, key=key.digest, sizes=key.sizes) if content is None else content
    )
    sidecar = Sidecar(SCHEMA, key.digest, key, hashlib.sha256(content).hexdigest(), {})
    if remember:
        engine_files.remember(content, key)
    with open_for_update(bundle, must_exist=True) as writer:
        made = EngineEntry(
            file=writer.add(content, "engines", f"{body}-{key.device}", ".engine"),
            sidecar=writer.add(edit(sidecar), "engines", f"{body}-{key.device}", ".json"),
            body=body,
            backend=key.backend,
            device=key.device,
            key=key.digest,
        )
        writer.commit(msgspec.structs.replace(manifest, engines=(*manifest.engines, made)))
    return bundle / made.file
