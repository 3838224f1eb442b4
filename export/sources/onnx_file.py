"""A denoiser that is an ONNX file already: `MODEL.onnx` with a spec in JSON. Works without torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fewstep.export.ports import with_ports
from fewstep.export.sources.spec_file import read_spec
from fewstep.export.spec import Spec, Traced
from fewstep.graph import io
from fewstep.graph.graph import BATCH, TIME, Array, Graph, X
from fewstep.graph.passes.batch import free_batch
from fewstep.graph.passes.constants import fold_constants
from fewstep.graph.passes.float32 import is_half, to_float32
from fewstep.graph.session import explained
from fewstep.graph.upgrade import to_opset
from fewstep.runtime.errors import UserError

TOLERANCE = 1e-4  # float32 against float32
HALF_TOLERANCE = 2e-2  # against a graph that rounds to float16 after every operation
DYNAMIC = "its batch is fixed: export it again with a dynamic batch (dynamic_shapes of torch.onnx.export)"


def load_onnx_file(path: Path, spec: Path | None) -> "OnnxSource":
    """The denoiser in an .onnx file, with what a JSON file says of it."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path")
    if spec is None:
        raise UserError(f"{path.name} does not say what it predicts, nor its schedule", "describe it: --spec SPEC.json")
    with _foreign(path.name):
        return OnnxSource(path, read_spec(spec), path.name, io.sha256(path))


@dataclass(frozen=True)
class OnnxSource:
    """An ONNX file with its spec: a `Source`."""

    path: Path
    spec: Spec
    label: str
    sha256: str
    scheduler: Mapping[str, Any] | None = None

    def trace(self) -> Traced:
        """The file's graph in opset 20, in float32, its batch dynamic, behind fewstep's ports."""
        graph = _read(self.path)  # first: it keeps weights to the file's folder, which onnxruntime would not
        session = _open(self.path)  # then: what it loads is a valid graph, and the passes may rely on that
        is_float16 = is_half(graph)
        given = {value.name: value for value in graph.inputs}
        batch = _fixed_batch(graph, self.spec)
        time = given[self.spec.time].shape if self.spec.time in given else (BATCH,)
        graph = fold_constants(to_float32(graph))
        if batch is not None:
            graph = free_batch(graph)
        graph = with_ports(graph, self.spec, self.path.name)
        reference = OnnxReference(
            name=self.path.name,
            spec=self.spec,
            session=session,
            inputs={name: value.dtype for name, value in given.items()},
            one_time=time if time == () or (time == (1,) and batch != 1) else None,
            batch=batch,
            tolerance=HALF_TOLERANCE if is_float16 else TOLERANCE,
            fix="report the file: fewstep is at fault" if batch is None else DYNAMIC,
        )
        return Traced(graph, reference)


@dataclass(frozen=True)
class OnnxReference:
    """The file as it was given, in onnxruntime. It may have a fixed batch, or one time for all of its samples."""

    name: str
    spec: Spec
    session: ort.InferenceSession
    inputs: Mapping[str, np.dtype[Any]]
    one_time: tuple[int | str, ...] | None  # shape of a time that serves all samples
    batch: int | None
    tolerance: float
    fix: str

    @property
    def engine(self) -> str:
        return self.name

    def output(self, feeds: Mapping[str, Array], where: str = "") -> Array:
        """The prediction, in as many runs as the file's batch and time need."""
        count = len(feeds[X])
        mixed = self.one_time is not None and len(np.unique(feeds[TIME])) > 1
        step = 1 if mixed else self.batch or count
        parts = []
        for start in range(0, count, step):
            rows = np.arange(start, min(start + step, count))
            made = self._run(
                {name: array[np.resize(rows, self.batch or len(rows))] for name, array in feeds.items()}, where
            )
            parts.append(made[: len(rows)])
        made, wanted = np.concatenate(parts), self.spec.output_shape[0]
        if made.ndim > 1 and made.shape[1] == 2 * wanted:
            made = made[:, :wanted]  # behind it: a learned variance
        output: Array = made.astype(np.float32)
        return output

    def inner(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Nothing: the exported graph tells a difference by its output alone."""
        return {}

    def _run(self, feeds: Mapping[str, Array], where: str) -> Array:
        names = {X: self.spec.x, TIME: self.spec.time}
        given = {names.get(name, name): array for name, array in feeds.items()}
        typed = {name: _as(array, self.inputs[name]) for name, array in given.items()}
        if self.one_time is not None:
            typed[self.spec.time] = typed[self.spec.time][:1].reshape([1] * len(self.one_time))
        with explained(f"run {self.name}{where}", "let it take every value that its spec allows"):
            (output,) = self.session.run([self.spec.output], typed)
        made: Array = output
        return made


def _as(array: Array, dtype: np.dtype[Any]) -> Array:
    whole: Array = np.round(array) if dtype.kind in "iu" and array.dtype.kind == "f" else array
    return whole.astype(dtype)


def _read(path: Path) -> Graph:
    """The graph of a file that fewstep did not write: another opset, functions, weights beside it."""
    with _foreign(path.name):
        return io.from_model(to_opset(io.parse(path), path.name), path, path.parent)


@contextmanager
def _foreign(name: str) -> Iterator[None]:
    """What is said of a bundle's graphs, about a file that is in none."""
    try:
        yield
    except UserError as error:
        if error.fix != io.WRITE_AGAIN:
            raise
        raise UserError(error.what, f"write {name} again, with its weights beside it") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # damage that still parses
        raise UserError(f"{name} is damaged ({type(error).__name__}: {error})", "write it again") from error


def _fixed_batch(graph: Graph, spec: Spec) -> int | None:
    """The batch that x is fixed to, if it is."""
    x = next((value for value in graph.inputs if value.name == spec.x), None)
    size = x.shape[0] if x is not None and x.shape else None
    return size if isinstance(size, int) else None


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with explained(f"load {path.name}", "export it again with operations that onnxruntime has"):
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
