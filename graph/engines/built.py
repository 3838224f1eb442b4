"""Build the program of one graph of fixed shapes for this machine's GPU, and keep it in the user's cache folder."""

import json
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from fewstep.graph.engines.build_engine import request, run_worker
from fewstep.graph.engines.builders import STRICT, builder_of
from fewstep.graph.engines.timings import timings
from fewstep.graph.graph import Graph
from fewstep.graph.io import save
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.machine import cache

TIMEOUT, PROGRAMS = 3600.0, 32  # seconds, programs
OTHER = "run it on another backend"
GRAPH, ENGINE, REQUEST, TIMING = "graph.onnx", "graph.engine", "graph.json", "graph.timing"


def built(backend: TensorRt, graph: Graph, is_kept: bool = True, rebuild: bool = False) -> bytes:
    """The program of a graph whose inputs have fixed shapes. UserError if it cannot be built.

    is_kept: read the program from this user's cache folder, and keep it there. A program is native code, and is read
        from nowhere else. The folder keeps the last `PROGRAMS` programs.
    rebuild: build the program even if the folder has it.
    """
    builder, here = builder_of(backend.name), backend.here()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = save(graph, folder / GRAPH)
        content = sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:32]
        key = f"{content}-{here.backend}-{here.backend_version}-{here.device}-{here.multiprocessors}"
        if is_kept and not rebuild and (program := cache.read("programs", key)) is not None:
            return program
        arguments = [str(folder / each) for each in (GRAPH, ENGINE, REQUEST)]
        shapes = {value.name: [[*map(int, value.shape)]] * 3 for value in graph.inputs}
        with timings(builder, here, folder / TIMING) as measured:
            asked = request(builder, here.device, shapes, STRICT, timing_cache=measured)
            (folder / REQUEST).write_text(json.dumps(asked, default=str))
            run_worker(arguments, f"{graph.name!r} for {here.device}", TIMEOUT, builder.name, OTHER, OTHER)
        program = (folder / ENGINE).read_bytes()
    if is_kept:
        cache.store("programs", key, program)
        _drop_old()
    return program


def _drop_old() -> None:
    """Remove all programs but the last `PROGRAMS`."""
    with suppress(OSError):  # another process may remove them too
        files = sorted(cache.path("programs", "").iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-PROGRAMS]:
            file.unlink(missing_ok=True)
