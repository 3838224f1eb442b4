"""A denoiser in an ONNX file: `MODEL.onnx` with a spec in JSON. Works without torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from fewstep.export.ports import standardize_ports
from fewstep.export.sources.spec_file import read_spec
from fewstep.export.spec import Spec, TracedDenoiser
from fewstep.graph.files import io
from fewstep.graph.files.upgrade import report_foreign_errors, to_opset
from fewstep.graph.graph import Array, Graph, X
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.batch import free_batch
from fewstep.graph.passes.constants import RANDOM, drop_unused, fold_constants
from fewstep.graph.passes.float32 import has_type, to_float32
from fewstep.graph.selection import is_quantized
from fewstep.graph.session import report_ort_errors
from fewstep.plans.errors import UserError

TOLERANCE = 1e-4  # float32 against float32
HALF_TOLERANCE = 2e-2  # float32 against a graph that rounds to float16 after every operation
DYNAMIC = "its batch is fixed: export it again with a dynamic batch (dynamic_shapes of torch.onnx.export)"


def load_onnx_file(path: Path, spec: Path | None) -> "OnnxSource":
    """Return the denoiser in an .onnx file, described by a JSON file."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path")
    if spec is None:
        raise UserError(f"{path.name} does not define its prediction and its schedule", "describe it: --spec SPEC.json")
    with report_foreign_errors(path.name):
        return OnnxSource(path, read_spec(spec), path.name, io.sha256(path))


@dataclass(frozen=True)
class OnnxSource:
    """A `Source` that reads an ONNX file, which the user describes with a spec."""

    path: Path
    spec: Spec
    label: str
    sha256: str
    scheduler: Mapping[str, Any] | None = None
    companions: None = None

    def trace(self) -> TracedDenoiser:
        """Return the file's graph in opset 20 and float32, with a dynamic batch, and with its inputs and outputs named
        as in fewstep."""
        graph = _read_graph(self.path)  # first, since it refuses weights outside the file's folder
        session = _open_session(self.path)  # second: passes may rely on a graph that loads
        is_float16 = has_type(graph, FLOAT16)
        ports = {value.name: value for value in graph.inputs}
        batch = _static_batch(graph, self.spec, self.path.name)
        times = {port: ports[name].shape for port, name in self.spec.times.items() if name in ports}
        graph = fold_constants(to_float32(graph))
        if batch is not None:
            graph = free_batch(graph)
        graph = standardize_ports(graph, self.spec, self.path.name)
        reference = OnnxReference(
            name=self.path.name,
            path=self.path,
            spec=self.spec,
            session=session,
            inputs={name: value.dtype for name, value in ports.items()},
            one_time={port: shape for port, shape in times.items() if shape == () or (shape == (1,) and batch != 1)},
            batch=batch,
            tolerance=HALF_TOLERANCE if is_float16 else TOLERANCE,
            fix="report the file: this is a bug in fewstep" if batch is None else DYNAMIC,
        )
        return TracedDenoiser(graph, reference)


@dataclass(frozen=True)
class OnnxReference:
    """The original file in onnxruntime. It may have a fixed batch, or one time for all of its samples."""

    name: str
    path: Path
    spec: Spec
    session: ort.InferenceSession
    inputs: Mapping[str, np.dtype[Any]]
    one_time: Mapping[str, tuple[int | str, ...]]  # port -> shape of a time for all samples
    batch: int | None
    tolerance: float
    fix: str

    @property
    def engine(self) -> str:
        return self.name

    def output(self, feeds: Mapping[str, Array], where: str = "") -> Array:
        """Return the prediction, from as many runs as the file's batch and time require."""
        outputs, wanted = (
            self._run_batches(self.session, feeds, [self.spec.output], where)[0],
            self.spec.output_shape[0],
        )
        if outputs.ndim > 1 and outputs.shape[1] == 2 * wanted:
            outputs = outputs[:, :wanted]  # a learned variance follows
        output: Array = outputs.astype(np.float32)
        return output

    def other_outputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {}  # `standardize_ports` refuses a spec with other outputs

    def random_operation(self) -> str:
        nodes = onnx.load(self.path, load_external_data=False).graph.node
        return next(
            (f" (node {node.name or node.output[0]!r}, {node.op_type})" for node in nodes if node.op_type in RANDOM), ""
        )

    def tensor_names(self) -> tuple[str, ...]:
        """Return the tensor names of the file's graph. Passes and conversions do not rename the values that they
        keep."""
        ports = {self.spec.output, *self.inputs}
        nodes = onnx.load(self.path, load_external_data=False).graph.node
        return tuple(name for node in nodes for name in node.output if name and name not in ports)

    def inner_tensors(self, feeds: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
        """Return inner tensors, from a session with these as outputs. If the batch is split, only tensors with one part
        per sample are returned."""
        model = onnx.load(self.path, load_external_data=False)
        there = {name for node in model.graph.node for name in node.output}
        asked = [name for name in names if name in there]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
        arrays = self._run_batches(_open_session(self.path, model), feeds, asked, "")
        return {name: array for name, array in zip(asked, arrays, strict=True) if array is not None}

    def _run_batches(
        self, session: ort.InferenceSession, feeds: Mapping[str, Array], names: Sequence[str], where: str
    ) -> list[Any]:
        """Return tensors [B, ...] from runs with as many samples as the file accepts at once; None for tensors without
        parts per sample."""
        count = len(feeds[X])
        mixed = any(len(np.unique(feeds[port])) > 1 for port in self.one_time)
        step = 1 if mixed else self.batch or count
        runs: list[list[Array | None]] = []
        for start in range(0, count, step):
            rows = np.arange(start, min(start + step, count))
            padded = np.resize(rows, self.batch or len(rows))
            outputs = self._run(session, {name: array[padded] for name, array in feeds.items()}, names, where)
            if count == len(padded):
                return outputs
            runs.append([array[: len(rows)] if array.shape[:1] == padded.shape else None for array in outputs])
        return [None if any(part is None for part in parts) else np.concatenate(parts) for parts in zip(*runs)]

    def _run(
        self, session: ort.InferenceSession, feeds: Mapping[str, Array], names: Sequence[str], where: str
    ) -> list[Any]:
        names_in_file = {X: self.spec.x, **self.spec.times}
        named = {names_in_file.get(name, name): array for name, array in feeds.items()}
        typed = {name: _cast(array, self.inputs[name]) for name, array in named.items() if name in self.inputs}
        for port, shape in self.one_time.items():
            name = self.spec.times[port]
            typed[name] = typed[name][:1].reshape([1] * len(shape))
        with report_ort_errors(f"run {self.name}{where}", "let it take every value that its spec allows"):
            outputs: list[Any] = session.run(list(names), typed)
        return outputs


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    whole: Array = np.round(array) if dtype.kind in "iu" and array.dtype.kind == "f" else array
    return whole.astype(dtype)


def _read_graph(path: Path) -> Graph:
    """Read the graph of an ONNX file that another program wrote. It may have another opset, functions, and external
    weights."""
    with report_foreign_errors(path.name):
        model = io.parse(path)
        _refuse_quantized(model, path.name)
        return drop_unused(io.from_model(to_opset(model, path.name), path))


def _refuse_quantized(model: onnx.ModelProto, name: str) -> None:
    """Raise UserError if a file has quantized weights or operations, also in functions: a bundle is exported in
    float."""
    for node in (node for part in (model.graph, *model.functions) for node in part.node):
        if is_quantized(node.op_type, node.domain):
            raise UserError(
                f"{name} is quantized already: node {node.name or ', '.join(node.output)!r} is a {node.op_type}",
                "export the original float ONNX file; `fewstep calibrate` quantizes that",
            )


def _static_batch(graph: Graph, spec: Spec, file: str) -> int | None:
    """Return the batch size of the input x if the file fixes it, otherwise None. Raises UserError for one below 1."""
    x = next((value for value in graph.inputs if value.name == spec.x), None)
    size = x.shape[0] if x is not None and x.shape else None
    if isinstance(size, int) and size < 1:
        raise UserError(
            f"{file} takes {size} samples in {spec.x!r}", "export it with a batch of 1 or more, or a free one"
        )
    return size if isinstance(size, int) else None


def _open_session(path: Path, model: onnx.ModelProto | None = None) -> ort.InferenceSession:
    """Open a session of the file, or of a changed model with the weights of the file.

    onnxruntime gets weights of other files as arrays, since its versions follow different links.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")  # prepacking would hold each weight twice
    content: Path | bytes = path
    is_file = model is None
    model = model or io.parse(path)
    external = io.take_external(model, path)
    if external or not is_file or len(_node_names(model)) < len(model.graph.node):
        _number_nodes(model)
        content = model.SerializeToString()
    with report_ort_errors(f"load {path.name}", "export it again with operations that onnxruntime supports"):
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in external.values()]
        options.add_external_initializers(list(external), values)
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _node_names(model: onnx.ModelProto) -> set[str]:
    """Return the different names of nodes, where each unnamed one counts as different."""
    return {node.name or f"({place})" for place, node in enumerate(model.graph.node)}


def _number_nodes(model: onnx.ModelProto) -> None:
    """Rename each node to its index, in place. ONNX allows two nodes of one name, but onnxruntime does not."""
    for place, node in enumerate(model.graph.node):
        node.name = str(place)
