"""Convert a torch module to a graph: torch.export captures it, torch.onnx writes it, and nodes are named by their
modules."""

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx
import torch
from onnxscript import ir

from fewstep.export.tracing.antialiasing import ANTIALIASED
from fewstep.export.tracing.attention import zero_rows_without_keys
from fewstep.export.tracing.decompositions import DECOMPOSED, is_decomposed
from fewstep.export.tracing.exact_constants import NUMBERS, fold_as_torch, match_exact_constants
from fewstep.export.tracing.export_errors import explain_export_error, find_missing_form, watch_calls
from fewstep.export.tracing.exporter_speedups import cache_operations, list_operations_once, skip_impossible_matches
from fewstep.export.tracing.nearest import NEAREST
from fewstep.export.tracing.row_counts import keep_free_lengths
from fewstep.export.tracing.short_lists import expand_short_lists
from fewstep.export.tracing.size_arithmetic import FORMS, simplify_sizes
from fewstep.export.tracing.size_guards import decide_in_ranges
from fewstep.export.tracing.torch_functions import TraceableFunctions, quote_keywords, take_masks_as_given
from fewstep.export.tracing.weights.computed_weights import compute_from_weights
from fewstep.export.tracing.weights.mapped_weights import find_mapped
from fewstep.graph.files.io import from_model
from fewstep.graph.graph import OPSET, Array, Graph
from fewstep.graph.widened import widen_constants


def capture(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    dynamic_shapes: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    pads: bool = False,
) -> tuple[Graph, torch.export.ExportedProgram]:
    """Return the module as a graph of opset 20 with these input and output names, and the exported program from which
    the graph was written.

    The graph's constants are views of the module's weights, not copies of them. The arguments `example` and
    `dynamic_shapes` have the same meaning as in `torch.export.export`, and `pads` as in `decide_in_ranges`.
    Raises UserError naming an operation that cannot be exported.
    """
    captured = None
    with (
        _silence_exporter(),
        simplify_sizes(),
        keep_free_lengths(module),
        decide_in_ranges(pads) as guards,
        TraceableFunctions(),
        quote_keywords(),
        take_masks_as_given(),
        skip_impossible_matches(),
        match_exact_constants(),
        fold_as_torch(),
        cache_operations(),
        list_operations_once(),
        watch_calls(module) as watch,
        _copy_returned_inputs(module),
    ):
        try:
            with torch.no_grad():  # flex_attention, for one, refuses to run on a CPU with gradients
                captured = torch.export.export(module, example, dynamic_shapes=dynamic_shapes, strict=False)
            expand_short_lists(captured)
            zero_rows_without_keys(captured)
            program = _write_onnx(captured, inputs, outputs)
            initializers = list(program.model.graph.initializers.values())
            program.optimize()
        except Exception as error:
            raise explain_export_error(error, watch, captured, guards) from error
    weights = _take_weights(program.model, initializers)
    graph = from_model(_name_nodes_by_module(ir.to_proto(program.model)), extra=weights)
    return widen_constants(graph), program.exported_program


def _write_onnx(captured: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return the ONNX program. An operation that ONNX lacks is computed if it depends on weights alone."""
    while True:
        try:
            return torch.onnx.export(
                _decompose(captured),
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                optimize=False,
                verbose=False,
                custom_translation_table={**FORMS, **NUMBERS, **NEAREST, **ANTIALIASED},
            )
        except Exception as error:
            missing = find_missing_form(error, captured)
            if missing is None or not compute_from_weights(captured, missing.target):
                raise


def _decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program with the operations of `DECOMPOSED` replaced by simpler ones. Most programs have none of them.
    They are returned unchanged, since the replacement traces the network once more, which takes a quarter of the
    export's time."""
    graphs = [
        submodule.graph for submodule in program.graph_module.modules() if isinstance(submodule, torch.fx.GraphModule)
    ]
    changed = [node for graph in graphs for node in graph.nodes if is_decomposed(node)]  # of all: it refuses some
    return program.run_decompositions(DECOMPOSED) if changed else program


@contextlib.contextmanager
def _copy_returned_inputs(module: torch.nn.Module) -> Iterator[None]:
    """Inside the block, let a module that returns one of its inputs, or a tensor twice, return a copy: a tensor of a
    graph cannot have two names."""

    def copy(_: torch.nn.Module, inputs: tuple[Any, ...], returned: Any) -> Any:
        seen = {id(value) for value in inputs}
        tensors = returned if isinstance(returned, tuple) else (returned,)
        copied = []
        for tensor in tensors:
            copied.append(tensor.clone() if isinstance(tensor, torch.Tensor) and id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(copied) if isinstance(returned, tuple) else copied[0]

    handle = module.register_forward_hook(copy)
    try:
        yield
    finally:
        handle.remove()


def _take_weights(model: ir.Model, before: Iterable[ir.Value]) -> dict[str, Array]:
    """Return the weights of a model, and remove them from it and from the values `before`, the initializers that it had
    before it was optimized.

    onnxscript's rewrite rules are global and keep the last graph that they processed, so that graph must not hold
    weights. A graph also keeps a counter of all inputs that it ever had, which may include weights that no node reads.
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
