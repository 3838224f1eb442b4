"""From a torch module to a Graph: captured by torch.export, written as ONNX by torch.onnx, named by its modules."""

import contextlib
import io
import logging
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch

from fewstep.export.spec import Source, Spec
from fewstep.graph.graph import BATCH, OUTPUT, TIME, Graph, X
from fewstep.graph.io import OPSET, from_model
from fewstep.runtime.errors import UserError

TRACE_BATCH = 3  # torch.export would take 1 for a constant


@dataclass(frozen=True)
class Traced:
    """A denoiser in both forms. FX nodes of `program` and tensors of `graph` have the same names."""

    graph: Graph
    program: torch.export.ExportedProgram


def trace(source: Source) -> Traced:
    """Export the module with a dynamic batch, opset 20. It is put in evaluation mode, on the CPU, in float32."""
    module, spec = source.module.eval().cpu().float(), source.spec
    check_weights(module)
    example = example_inputs(spec, TRACE_BATCH)
    _check_forward(module, spec, example)
    batch = torch.export.Dim(BATCH)
    with _quiet():
        try:
            captured = torch.export.export(module, example, dynamic_shapes=[{0: batch} for _ in example], strict=False)
            program = torch.onnx.export(
                captured.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attention}),
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=[X, TIME, *(condition.input for condition in spec.conditions)],
                output_names=[OUTPUT],
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            raise _cannot_be_exported(error, module) from error
    assert program is not None and program.exported_program is not None
    graph = from_model(_named_by_module(program.model_proto))
    fixed = [value.name for value in graph.inputs if value.shape[:1] != (BATCH,)]
    if fixed:
        raise UserError(f"{_name(module)} fixes the batch of {fixed[0]!r}", "use x.shape[0] instead of a number")
    return Traced(replace(graph, name=spec.name), program.exported_program)


def example_inputs(spec: Spec, batch: int) -> tuple[torch.Tensor, ...]:
    """Any valid (x, time, *conditions)."""
    conditions = [
        torch.full((batch, *condition.shape), condition.low or 0, dtype=getattr(torch, condition.dtype))
        for condition in spec.conditions
    ]
    return (torch.zeros(batch, *spec.x_shape), torch.ones(batch), *conditions)


def check_weights(module: torch.nn.Module) -> None:
    """UserError naming the first parameter or buffer that holds NaN or an infinity."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"weight {name!r} holds NaN or infinity", "load a checkpoint from before training diverged")


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention over [B, N, C], written out: torch.onnx knows that of [B, heads, N, C] only."""
    if q.dim() != 3 or mask is not None or is_causal:
        return NotImplemented  # keeps the operation
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(1, 2)
    return torch.softmax(scores, dim=-1) @ v


def call(module: torch.nn.Module, spec: Spec, inputs: tuple[torch.Tensor, ...], where: str = "") -> Any:
    """What the module returns. What fails here is not about export; `where` says at which inputs."""
    try:
        with torch.no_grad():
            return module(*inputs)
    except (Exception, SystemExit) as error:
        what = f"{_name(module)} failed{where}: {_one_line(error)}{_place(error)}"
        raise UserError(what, f"let {_signature(spec)} take every value that its spec allows") from error


def _signature(spec: Spec) -> str:
    return f"forward(x, time{''.join(', ' + condition.name for condition in spec.conditions)})"


def _check_forward(module: torch.nn.Module, spec: Spec, example: tuple[torch.Tensor, ...]) -> None:
    made, fix = call(module, spec, example), f"let {_signature(spec)} return a float32 tensor shaped as x"
    if not isinstance(made, torch.Tensor):
        raise UserError(f"{_name(module)} returned {type(made).__name__}, not a tensor", fix)
    if made.dtype != torch.float32:
        raise UserError(f"{_name(module)} returned {made.dtype}, not torch.float32", fix)
    if made.shape != example[0].shape:
        raise UserError(f"{_name(module)} returned shape {list(made.shape)} for x {list(example[0].shape)}", fix)


def _cannot_be_exported(error: BaseException, module: torch.nn.Module) -> UserError:
    """What torch says in pages, in one line: the operation or the line of the user's code, and the way out."""
    causes = [error]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)  # type: ignore[arg-type]
    root = causes[-1]
    place = next((place for cause in causes if (place := _place(cause))), "")
    if "No ONNX function found" in str(root):
        operation = str(root).split("op='")[-1].split("'")[0]
        return UserError(f"{operation} in {_name(module)} has no ONNX form{place}", "write it with other operations")
    fix = "make forward free of branches and loops on values, and of a fixed batch"
    return UserError(f"{_name(module)} cannot be exported: {_one_line(root)}{place}", fix)


def _place(error: BaseException) -> str:
    """' (FILE:LINE)' of the innermost frame outside torch and fewstep.export, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.suffix == ".py" and file != Path(__file__) and not file.is_relative_to(Path(torch.__file__).parent):
            return f" ({file.name}:{frame.lineno})"
    return ""


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _name(module: torch.nn.Module) -> str:
    return type(module).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints, warns and logs about itself; its errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # of its many loggers, whatever their levels
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _named_by_module(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node by the module it comes from, as "down28.conv1/Conv", so that reports speak the user's words.

    The exporter's metadata holds that, and also paths of this machine: none of it goes further.
    """
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        scopes: dict[str, Any] = {entry.key: entry.value for entry in node.metadata_props}
        path = [part.strip(" '\"") for part in scopes.get("pkg.torch.onnx.name_scopes", "").strip("[]").split(",")]
        name = f"{path[-2] if len(path) > 1 else ''}/{node.op_type}".lstrip("/")
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
    return model
