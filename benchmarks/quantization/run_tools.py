"""Run other tools on the material, and add their graphs as bodies of a copy of the bundle, so that the same code
judges all.
"""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.quantization.contenders import TARGET_OF, Contender
from benchmarks.quantization.tool_inputs import Material
from fewstep.graph.describe import describe
from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body

SCRIPTS = Path(__file__).parent / "tools"
TIMEOUT = 3600.0  # seconds of one tool
PRIVATE = {"NNCF_CI": "1"}  # NNCF's telemetry is off


@dataclass(frozen=True)
class QuantizedFile:
    """A tool's graph, and the tool's own name and version."""

    path: Path
    version: str


def quantize(contender: Contender, material: Material, python: str) -> QuantizedFile:
    """Run a tool in its environment, and store its graph. Raises UserError with its last line if it fails.

    The stored file is also named after the tool's script, since another setting there gives another result.
    """
    assert contender.tool is not None
    script = SCRIPTS / f"{contender.tool.id}.py"
    kept = material.folder / f"{contender.body}-{sha256(script.read_bytes()).hexdigest()[:12]}.onnx"
    version = kept.with_suffix(".version")
    if kept.exists():
        return QuantizedFile(kept, version.read_text())
    with TemporaryDirectory(dir=material.folder) as folder:  # tools leave files of their own where they work
        output = Path(folder) / "int8.onnx"
        command = [python, str(script), str(material.folder.absolute()), contender.setting, str(output.absolute())]
        said = _run(command, folder, f"give the Python that has it: --python {contender.tool.id}=PATH")
        version.write_text(said)
        output.replace(kept)
    return QuantizedFile(kept, said)


def add_body(bundle: Path, contender: Contender, made: QuantizedFile, material: Material) -> None:
    """Put a tool's graph into a bundle, with the inputs and outputs of the original graph (tools rename sizes)."""
    given = material.graph
    graph = replace(io.load(made.path), name=given.name, inputs=given.inputs, outputs=given.outputs)
    with open_for_update(bundle, must_exist=True) as writer:
        assert writer.manifest is not None
        base = writer.manifest.bodies["float32"].graph
        described = describe(graph, *io.store(writer, graph, contender.body))
        described = msgspec.structs.replace(described, inputs=base.inputs, outputs=base.outputs)
        body = Body.from_graph(described, precision="int8", target=TARGET_OF[contender.engine])
        bodies = {**writer.manifest.bodies, contender.body: body}
        writer.commit(msgspec.structs.replace(writer.manifest, bodies=bodies))


def reason(error: Exception, paths: Iterable[Path]) -> str:
    """Return the reason why a tool has no result, for publication: one line, with only the last parts of these
    paths.
    """
    said = str(error.what if isinstance(error, UserError) else error).strip().splitlines() or [type(error).__name__]
    shown = said[0]
    for path in sorted({os.path.abspath(path) for path in paths} - {os.sep}, key=len, reverse=True):
        shown = shown.replace(path, os.path.basename(path))
    return shown


def _run(command: list[str], folder: str, fix: str) -> str:
    """The last line that a tool's script prints: its version."""
    environment = os.environ | PRIVATE
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise UserError(f"took more than {TIMEOUT:g} s", "give it fewer trajectories") from None
    except OSError as error:
        raise UserError(f"its Python does not start: {error.strerror}", fix) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        raise UserError(said, fix)
    return (done.stdout.strip().splitlines() or [""])[-1]
