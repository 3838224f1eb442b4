"""Convert ONNX models of other opsets to the opset of fewstep."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx import version_converter

from fewstep.graph.files.data_files import WRITE_AGAIN
from fewstep.graph.files.expansion import expand_functions
from fewstep.graph.files.weights import LARGE
from fewstep.graph.graph import DEFAULT_DOMAIN, OPSET
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")


@contextmanager
def report_foreign_errors(name: str) -> Iterator[None]:
    """Convert errors of the graph reader to UserErrors whose fix suits a file outside a bundle."""
    try:
        yield
    except UserError as error:
        if error.fix != WRITE_AGAIN:
            raise
        raise UserError(error.what, f"write {name} again, with its weights in the same folder") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a damaged file may still parse
        raise UserError(f"{name} is damaged ({type(error).__name__}: {error})", "write it again") from error


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default domain; 0 if a model names none."""
    return next((opset.version for opset in model.opset_import if opset.domain in ("", DEFAULT_DOMAIN)), 0)


def to_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Convert the model to opset 20. Raises UserError with the file's name if onnx cannot convert it.

    Large weights are not passed to the conversion, which copies its whole input: they may be gigabytes, or in a
    separate file. Small tensors are included, since some conversions read their values.
    """
    model = expand_functions(model, name)
    for named in (*model.opset_import, *model.graph.node):
        if named.domain == DEFAULT_DOMAIN:
            named.domain = ""  # the default domain has this second name, which no pass checks
    for node in [node for node in model.graph.node if not any(node.output)]:
        model.graph.node.remove(node)  # no outputs; onnxruntime skips it too
    version = opset_of(model)
    if version == OPSET:
        return model
    small: list[onnx.TensorProto] = []
    large: list[onnx.TensorProto] = []
    for tensor in model.graph.initializer:
        (large if _is_large(tensor) else small).append(tensor)
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(_strip_weights(model))
    skeleton.graph.initializer.extend(small)
    inputs = {value.name for value in model.graph.input}
    stand_ins = [tensor for tensor in large if tensor.name not in inputs]
    skeleton.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in stand_ins
    )
    try:
        converted = version_converter.convert_version(skeleton, OPSET)
    except Exception as error:  # onnx's C++ exceptions have no common base class
        if (fault := _find_fault(skeleton)) is not None:
            raise UserError(f"{name} is not a valid ONNX graph: {fault}", "export the model again") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(
            f"{name} has opset {version}, which onnx cannot convert to {OPSET} ({reason})",
            f"export it again with opset_version={OPSET}",
        ) from error
    kept = [value for value in converted.graph.input if value.name not in {tensor.name for tensor in stand_ins}]
    del converted.graph.input[:]
    converted.graph.input.extend(kept)
    converted.graph.initializer.extend(large)
    LOG.warning("%s: converted from opset %d to %d", name, version, OPSET)
    return converted


def _find_fault(model: onnx.ModelProto) -> str | None:
    """Return the first rule of ONNX that a model breaks, as text. None for a valid model."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # an exception class of C++
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return None


def _is_large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > LARGE


def _strip_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without weights. Fields are copied separately so that no weight is copied."""
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    return onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import, graph=graph)
