"""From a torch module to a Graph: captured by torch.export, written as ONNX by torch.onnx, named by its modules."""

import contextlib
import inspect
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx
import torch

from fewstep.export.reference import TorchReference, call, module_name, one_line, place, signature
from fewstep.export.spec import Spec, Traced
from fewstep.graph.graph import BATCH, OUTPUT, TIME, X
from fewstep.graph.io import OPSET, from_model
from fewstep.runtime.conditions import drawn_range
from fewstep.runtime.errors import UserError

TRACE_BATCH = 3  # torch.export would take 1 for a constant


def trace(module: torch.nn.Module, spec: Spec, batch_limit: int | None = None) -> Traced:
    """Export the module with a dynamic batch, opset 20. It is put in evaluation mode, on the CPU, in float32.

    `batch_limit` is the largest batch that takes the same way through the module's code, where that branches on it and
    the branch makes no difference to the values: the graph then serves any batch.
    """
    module = module.eval().cpu().float()
    check_weights(module)
    example = example_inputs(spec, TRACE_BATCH)
    _check_forward(module, spec, example)
    with _quiet():
        try:
            captured = torch.export.export(
                module, example, dynamic_shapes=_dynamic(module, len(example), batch_limit), strict=False
            )
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
        raise UserError(f"{module_name(module)} fixes the batch of {fixed[0]!r}", "use x.shape[0] instead of a number")
    return Traced(replace(graph, name=spec.name), TorchReference(module, spec, program.exported_program))


def _dynamic(module: torch.nn.Module, count: int, limit: int | None) -> list[Any]:
    """The batch as the dynamic axis of each of `count` arguments, nested where forward takes some as *arguments."""
    batch = torch.export.Dim(BATCH, max=limit)
    shapes: list[Any] = [{0: batch} for _ in range(count)]
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else count
    return [*shapes[:named], tuple(shapes[named:])] if named < count else shapes


def example_inputs(spec: Spec, batch: int) -> tuple[torch.Tensor, ...]:
    """Any valid (x, time, *conditions)."""
    lowest = [(drawn_range(condition) or (0.0, 0.0))[0] for condition in spec.conditions]
    conditions = [
        torch.full((batch, *condition.shape), value, dtype=getattr(torch, condition.dtype))
        for condition, value in zip(spec.conditions, lowest, strict=True)
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


def _check_forward(module: torch.nn.Module, spec: Spec, example: tuple[torch.Tensor, ...]) -> None:
    made, fix = call(module, spec, example), f"let {signature(spec)} return a float32 tensor shaped as x"
    if not isinstance(made, torch.Tensor):
        raise UserError(f"{module_name(module)} returned {type(made).__name__}, not a tensor", fix)
    if made.dtype != torch.float32:
        raise UserError(f"{module_name(module)} returned {made.dtype}, not torch.float32", fix)
    if made.shape != (len(made), *spec.output_shape):
        heads = "" if spec.heads == 1 else f" and {spec.heads} heads"
        what = f"{module_name(module)} returned shape {list(made.shape)} for x {list(example[0].shape)}{heads}"
        raise UserError(what, fix)


def _cannot_be_exported(error: BaseException, module: torch.nn.Module) -> UserError:
    """What torch says in pages, in one line: the operation or the line of the user's code, and the way out."""
    causes = [error]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)  # type: ignore[arg-type]
    root = causes[-1]
    where = next((found for cause in causes if (found := place(cause))), "")
    if "No ONNX function found" in str(root):
        operation = str(root).split("op='")[-1].split("'")[0]
        return UserError(
            f"{operation} in {module_name(module)} has no ONNX form{where}", "write it with other operations"
        )
    fix = "make forward free of branches and loops on values, and of a fixed batch"
    return UserError(f"{module_name(module)} cannot be exported: {one_line(root)}{where}", fix)


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
