"""Convert a torch module to a graph: torch.export captures it, torch.onnx writes it, and nodes are named by their
modules."""

import contextlib
import io
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx
import torch
from onnxscript import ir

from fewstep.export.export_errors import explain_export_error, watch_calls
from fewstep.export.mapped_weights import find_mapped
from fewstep.export.tracing.antialiasing import ANTIALIASED
from fewstep.export.tracing.attention import ATTENTION, EXPORTED_RANK, decompose_attention, zero_rows_without_keys
from fewstep.export.tracing.circular_padding import CIRCULAR, is_circular, pad_circularly
from fewstep.export.tracing.complex_pairs import ON_PAIRS, has_complex_input
from fewstep.export.tracing.distances import DISTANCES
from fewstep.export.tracing.exporter_speedups import cache_operations, skip_impossible_matches
from fewstep.export.tracing.linspace import FreeSteps
from fewstep.export.tracing.nearest import NEAREST
from fewstep.export.tracing.order_statistics import ORDER_STATISTICS
from fewstep.export.tracing.short_lists import expand_short_lists
from fewstep.export.tracing.size_arithmetic import FORMS, simplify_sizes
from fewstep.export.tracing.stacking import STACKS
from fewstep.graph.graph import OPSET, Array, Graph
from fewstep.graph.io import from_model

DROPPED_BELOW = 1e-8  # onnxscript treats smaller constants as 0


def capture(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    dynamic_shapes: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> tuple[Graph, torch.export.ExportedProgram]:
    """Return the module as a graph of opset 20 with these input and output names, and the exported program from which
    the graph was written.

    The graph's constants are views of the module's weights, not copies of them. The arguments `example` and
    `dynamic_shapes` have the same meaning as in `torch.export.export`. Raises UserError naming an operation that cannot
    be exported.
    """
    captured = None
    with (
        _silence_exporter(),
        simplify_sizes(),
        FreeSteps(),
        skip_impossible_matches(),
        cache_operations(),
        watch_calls(module) as watch,
    ):
        try:
            with torch.no_grad():  # flex_attention, for one, refuses to run on a CPU with gradients
                captured = torch.export.export(module, example, dynamic_shapes=dynamic_shapes, strict=False)
            expand_short_lists(captured)
            zero_rows_without_keys(captured)
            program = torch.onnx.export(
                _decompose(captured),
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                optimize=False,
                verbose=False,
                custom_translation_table={**FORMS, **NEAREST, **ANTIALIASED},
            )
            assert program is not None and program.exported_program is not None
            initializers = list(program.model.graph.initializers.values())
            program.optimize()
        except Exception as error:
            raise explain_export_error(error, watch, captured) from error
    weights = _take_weights(program.model, initializers)
    return from_model(_name_nodes_by_module(ir.to_proto(program.model)), beside=weights), program.exported_program


def _decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program with the operations of `DECOMPOSED` replaced by simpler ones. Most programs have none of them.
    They are returned unchanged, since the replacement traces the network once more, which takes a quarter of the
    export's time."""
    graphs = [each.graph for each in program.graph_module.modules() if isinstance(each, torch.fx.GraphModule)]
    is_any = any(_is_written_out(node) for graph in graphs for node in graph.nodes)
    return program.run_decompositions(DECOMPOSED) if is_any else program


def _is_written_out(node: torch.fx.Node) -> bool:
    """Return True if the decomposition of a node's operation differs from the operation."""
    if node.target in ON_PAIRS and not is_circular(node):
        return has_complex_input(node)  # a trial call outside of torch's tracing could fix the batch
    if node.target == ATTENTION:  # for the same reason
        return bool(node.meta["val"].dim() != EXPORTED_RANK)
    decomposition = DECOMPOSED.get(node.target)
    if decomposition is None:
        return False
    args, named = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda node: node.meta["val"])
    return decomposition(*args, **named) is not NotImplemented


def _take_weights(model: ir.Model, before: Iterable[ir.Value]) -> dict[str, Array]:
    """Return the weights of a model, and remove them from it and from the initializers that it had `before` it was
    optimized.

    onnxscript's rewrite rules are global and keep the last graph that they processed, so that graph must not hold
    weights. A graph also keeps a counter of all inputs that it ever had, which may include weights that nothing reads.
    The counter is private to onnx_ir; a release without it holds no such weights.
    """
    values = model.graph.initializers.items()
    weights = {name: find_mapped(value.const_value.numpy()) for name, value in values if value.const_value}
    outputs = (output for node in model.graph for output in node.outputs)
    counted: Iterable[ir.Value] = getattr(model.graph.inputs, "_ref_counter", ())
    for value in (*before, *model.graph.initializers.values(), *outputs, *counted):
        value.const_value = None
    model.graph.initializers.clear()
    return weights


def _add(a: torch.Tensor, b: Any, *, alpha: float = 1) -> Any:
    """Return a + b for a number b that is so small that torch.onnx's optimizer would drop the Add. Such a b prevents 0
    / 0, so the sum is written as a selection: b where a is 0, otherwise a."""
    if not isinstance(b, float) or alpha != 1 or not 0 < abs(b) < DROPPED_BELOW:
        return NotImplemented
    return torch.where(a == 0, b, a)


def _arange(start: Any, end: Any, step: Any = 1, *, dtype: torch.dtype | None = None, **layout: Any) -> Any:
    """Return a range with a fractional step as multiples of the step, with torch's number of elements. ONNX's Range may
    round to one element more."""
    numbers = (start, end, step)
    if not all(isinstance(each, int | float) for each in numbers) or all(isinstance(each, int) for each in numbers):
        return NotImplemented
    places = torch.arange(math.ceil((end - start) / step), dtype=torch.float64, device=layout.get("device"))
    return (start + places * step).to(dtype or torch.get_default_dtype())


def _squeeze(x: torch.Tensor, dim: int) -> Any:
    """Return x unchanged if the axis is longer than 1, as torch does. ONNX refuses to squeeze such an axis."""
    return NotImplemented if x.shape[dim] == 1 else torch.ops.aten.alias.default(x)


def _squeeze_all(x: torch.Tensor) -> Any:
    """Return x without its axes of length 1. Free axes, such as the batch, are kept, as in torch; ONNX would remove a
    free axis whenever its length is 1."""
    if all(isinstance(size, int) for size in x.shape):
        return NotImplemented
    short = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    return torch.ops.aten.squeeze.dims(x, short) if short else torch.ops.aten.alias.default(x)


def _pad(x: torch.Tensor, pad: Sequence[Any], mode: str = "constant", value: float | None = None) -> Any:
    """Return padding in a form that both ONNX Runtime and OpenVINO support, also for complex tensors."""
    if mode == CIRCULAR:
        return pad_circularly(x, pad)
    return ON_PAIRS[torch.ops.aten.pad.default](x, pad, mode, value)


DECOMPOSED: dict[Any, Callable[..., Any]] = {
    ATTENTION: decompose_attention,
    torch.ops.aten.add.Tensor: _add,
    torch.ops.aten.arange.default: lambda end, **options: _arange(0, end, **options),
    torch.ops.aten.arange.start: _arange,
    torch.ops.aten.arange.start_step: _arange,
    torch.ops.aten.squeeze.dim: _squeeze,
    torch.ops.aten.squeeze.default: _squeeze_all,
    **ON_PAIRS,
    **DISTANCES,
    **ORDER_STATISTICS,
    **STACKS,
    torch.ops.aten.pad.default: _pad,
}


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Suppress what torch's exporter prints, warns and logs. Its errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # all of its loggers, whatever their levels
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _name_nodes_by_module(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node after the module that it comes from, as "down28.conv1/Conv", so that reports use the names of the
    user's code.

    The names are read from the exporter's metadata. The rest of the metadata, which contains paths of this machine, is
    not used.
    """
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        scopes: dict[str, Any] = {entry.key: entry.value for entry in node.metadata_props}
        path = [part.strip(" '\"") for part in scopes.get("pkg.torch.onnx.name_scopes", "").strip("[]").split(",")]
        name = f"{path[-2] if len(path) > 1 else ''}/{node.op_type}".lstrip("/")
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
    return model
