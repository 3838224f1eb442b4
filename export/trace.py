"""Trace a denoiser: check its inputs and outputs against its spec, then capture it as a graph with a dynamic batch and
free sizes."""

import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from fewstep.export import free_sizes
from fewstep.export.batches import TRACE_BATCH
from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec, TracedDenoiser
from fewstep.export.traceable import refuse_nested_tensors
from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.export_errors import NumpyError, describe_random_operation, find_input_change
from fewstep.export.tracing.samples.one_sample import CREATES, LISTS, call_with_one_sample, use_training_form
from fewstep.export.tracing.traced_form import TracedForm
from fewstep.export.tracing.weights.mapped_weights import release
from fewstep.export.tracing.weights.stored_halves import count_weights, stored_halves
from fewstep.export.verification.bisect import NO_DRAWS
from fewstep.export.verification.reference import (
    OF_SIZES,
    OTHERWISE,
    TorchReference,
    first_call,
    forward_signature,
    prepare_module,
    select_prediction,
)
from fewstep.graph.extents import free_ports
from fewstep.graph.graph import BATCH, OUTPUT, Graph, X
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.conditions import random_range
from fewstep.runtime.kinds.positions import time_shape
from fewstep.runtime.kinds.sizes import apply_sizes

LARGE = 3 * 10**8  # weights of a module that is checked with one sample before it is traced: a call takes long
LOG = logging.getLogger("fewstep")
Capture = Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], tuple[Graph, torch.export.ExportedProgram]]


def trace(
    module: torch.nn.Module,
    spec: Spec,
    batch_limit: int | None = None,
    batch_least: int | None = None,
    loops_over_samples: bool = False,
) -> TracedDenoiser:
    """Export the module in opset 20, with a dynamic batch and the spec's free sizes.

    The module is put in evaluation mode, on the CPU, in float32.

    `batch_limit` and `batch_least` are for code that branches on the batch without changing values: the largest and the
    smallest batch that take the traced branch. The graph then serves any batch.

    `loops_over_samples` allows code that loops over the samples of a batch, or selects tokens by a mask: if it cannot
    be captured with a batch, it is captured as code of one sample.
    """
    if isinstance(module, TracedForm):
        module.check_spec(spec)
    prepare_module(module)
    check_weights(module)
    _check_forward(module, spec, example_inputs(spec, 1 if count_weights(module) > LARGE else TRACE_BATCH))
    free_sizes.check_forward(module, spec, example_inputs, TRACE_BATCH)
    example = example_inputs(apply_sizes(spec, free_sizes.trace_sizes(spec)), TRACE_BATCH)
    dynamic = _dynamic_shapes(module, spec, torch.export.Dim(BATCH, min=batch_least, max=batch_limit))
    names = [X, *spec.times, *(condition.input for condition in spec.conditions), *spec.carried_inputs]
    try:
        written = module.make_traceable(example) if isinstance(module, TracedForm) else module
        pads = {size.axis for size in spec.sizes} == {None}  # the default is then the largest size
        run = partial(capture, dynamic_shapes=dynamic, inputs=names, outputs=[OUTPUT, *spec.other_outputs], pads=pads)
        graph, program = _capture(written, example, run, loops_over_samples)
    except UserError as error:
        operation = re.match(r"aten\.(\w+)\b.* has no ONNX equivalent", error.what)
        if operation is not None and isinstance(module, TracedForm):
            raise module.explain_refusal(example, operation[1]) from error
        raise free_sizes.explain_fixed_size(error, module, spec, example, dynamic) from error.__cause__
    graph = free_ports(graph, spec)
    fixed = [value.name for value in (*graph.inputs, *graph.outputs) if value.shape[:1] != (BATCH,)]
    if fixed:
        raise UserError(f"{module_name(module)} fixes the batch of {fixed[0]!r}", "use x.shape[0] instead of a number")
    if "dropout" in (drawn := describe_random_operation(module, program)):  # whose form in ONNX drops nothing
        raise UserError(f"{module_name(module)} draws random numbers{drawn}", NO_DRAWS)
    reference = TorchReference(module, spec, program, fix=OF_SIZES if spec.sizes else OTHERWISE)
    return TracedDenoiser(replace(graph, name=spec.name), reference)


def _capture(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], run: Capture, loops_over_samples: bool
) -> tuple[Graph, torch.export.ExportedProgram]:
    try:
        return run(module, example)
    except UserError as error:
        if not loops_over_samples:
            raise
        computes_with_numpy = error.module if isinstance(error, NumpyError) else None
        for creates in (CREATES, LISTS):
            try:
                with call_with_one_sample(module, creates), use_training_form(module, computes_with_numpy):
                    return run(module, example)
            except UserError as other:
                LOG.info("nor can it be traced as code of one sample: %s", other)
        raise error from error.__cause__


def _dynamic_shapes(module: torch.nn.Module, spec: Spec, batch: Any) -> list[Any]:
    """Return the dynamic axes of each argument of forward, for torch.export. Those of arguments that *arguments
    collects are nested in a tuple."""
    shapes: list[Any] = free_sizes.dynamic_axes(spec, batch)
    count = len(shapes)
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else count
    return [*shapes[:named], tuple(shapes[named:])] if named < count else shapes


def example_inputs(spec: Spec, batch: int) -> tuple[torch.Tensor, ...]:
    """Return any valid (x, time, *conditions), or (x, time, to, *conditions), followed by carried tensors of zeros."""
    lowest = [(random_range(condition) or (0.0, 0.0))[0] for condition in spec.conditions]
    conditions = [
        torch.from_numpy(np.full((batch, *condition.shape), value, condition.dtype))
        for condition, value in zip(spec.conditions, lowest, strict=True)
    ]
    carried = [torch.from_numpy(np.zeros((batch, *tensor.shape), tensor.dtype)) for tensor in spec.carried]
    x = torch.full((batch, *spec.input_shape), spec.space.fill, dtype=getattr(torch, spec.space.dtype))
    return (x, *(torch.ones(batch, *time_shape(spec)) for _ in spec.times), *conditions, *carried)


def check_weights(module: torch.nn.Module) -> None:
    """Raise UserError naming the first parameter or buffer that contains NaN or infinity.

    A buffer may contain minus infinity, such as an additive attention mask.
    """
    buffers = {name for name, _ in module.named_buffers()}
    for name, tensor in module.state_dict().items():
        held = tensor.masked_fill(tensor == -torch.inf, 0.0) if name in buffers else tensor
        _check_weight(name, held)
        release(tensor)
    for name, tensor in stored_halves(module):
        _check_weight(name, tensor)
        release(tensor)


def _check_weight(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise UserError(f"weight {name!r} holds NaN or infinity", "load a checkpoint from before training diverged")


def _check_forward(module: torch.nn.Module, spec: Spec, example: tuple[torch.Tensor, ...]) -> None:
    versions = [tensor._version for tensor in example]
    with refuse_nested_tensors(module):
        returned, fix = first_call(module, spec, example), _return_fix(spec)
    if spec.other_outputs:
        _check_beside(module, spec, returned, len(example[0]))
    output = select_prediction(spec, returned)
    if [tensor._version for tensor in example] != versions:
        who = find_input_change(module, tuple(map(torch.clone, example)))
        raise UserError(f"{who} changes its input in place", "create a new tensor, like x = x * 2 for x.mul_(2)")
    if not isinstance(output, torch.Tensor):
        raise UserError(f"{module_name(module)} returned {type(output).__name__}, not a tensor", fix)
    if output.is_complex():
        fix = "return torch.view_as_real of it with both parts along the channels, as in docs/restoration.md"
    if output.dtype != torch.float32:
        raise UserError(f"{module_name(module)} returned {output.dtype}, not torch.float32", fix)
    if output.shape != (len(output), *spec.output_shape):
        heads = "" if spec.heads == 1 else f" and {spec.heads} heads"
        what = f"{module_name(module)} returned shape {list(output.shape)} for x {list(example[0].shape)}{heads}"
        first, *others = spec.output_shape
        if output.shape[1:] == (2 * first, *others):
            fix = "return output.chunk(2, dim=1)[0] if the other half is a learned variance, or give heads in the spec"
        raise UserError(what, fix)


def _return_fix(spec: Spec) -> str:
    logits = "".join(f", with a last axis of {size} logits" for size in spec.space.logits)
    return f"let {forward_signature(spec)} return a float32 tensor shaped like x{logits}"


def _check_beside(module: torch.nn.Module, spec: Spec, returned: Any, batch: int) -> None:
    """Raise UserError unless the tensors that a module returns besides its prediction are its named outputs and its
    carried tensors, the latter in the shapes of the inputs."""
    wanted = spec.other_outputs.values()
    names = ", ".join(condition.name for condition in wanted)
    fix = f"let {forward_signature(spec)} return (prediction, {names}), each as in the spec"
    if not isinstance(returned, tuple) or len(returned) != 1 + len(wanted):
        count = f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
        raise UserError(
            f"{module_name(module)} should return {names} in addition to its prediction, but returned {count}", fix
        )
    for declared, tensor in zip(wanted, returned[1:], strict=True):
        form = f"{[batch, *declared.shape]} of torch.{declared.dtype}"
        has = f"{list(tensor.shape)} of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        if has != form:
            raise UserError(f"{module_name(module)} returned {declared.name!r} as {has}, not {form}", fix)
