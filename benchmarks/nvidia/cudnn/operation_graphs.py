"""An operation as a graph of cuDNN, whose plans are listed. Nothing is compiled or computed here."""

from collections import Counter
from math import prod
from typing import Any

from benchmarks.nvidia.cudnn.operations import ACTIVATIONS, Operation

X, WEIGHTS, RESULT, FIRST_OPERAND = (
    1,
    2,
    3,
    10,
)  # numbers by which a call gives tensors; operand i of the epilogue adds i


def operation_graph(cudnn: Any, operation: Operation, handle: Any = None, device: Any = None) -> Any:
    """The graph of an operation with its plans.

    handle: of cuDNN on a GPU. device: properties of a described GPU, instead of a handle. Tensors are numbered X,
    WEIGHTS and RESULT, and FIRST_OPERAND + i for step i of the epilogue.

    Raises cuDNN's own errors, such as for an operation without plans.
    """
    types, is_int8 = cudnn.data_type, operation.precision == "int8"
    floats = {"half": types.HALF, "bfloat16": types.BFLOAT16}[operation.floats]
    elements = types.INT8 if is_int8 else floats
    graph = cudnn.pygraph(
        name=operation.name,
        io_data_type=elements,
        intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT,
        **({"handle": handle} if device is None else {"device_property": device}),
    )
    value = _product(graph, operation, elements, types.INT32 if is_int8 else types.FLOAT)
    if operation.epilogue:
        value.set_data_type(types.INT32 if is_int8 else types.FLOAT)
    for number, step in enumerate(operation.epilogue):
        value = _epilogue_step(cudnn, graph, value, operation, step, FIRST_OPERAND + number, floats)
        value.set_data_type(types.FLOAT)
    result = {"int32": types.INT32, "int8": types.INT8}.get(operation.result, floats)
    value.set_output(True).set_data_type(result).set_uid(RESULT)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.B, cudnn.heur_mode.FALLBACK])
    return graph


def _product(graph: Any, operation: Operation, elements: Any, sums: Any) -> Any:
    image = _tensor(graph, X, operation.x, elements)
    weights = _tensor(graph, WEIGHTS, operation.weights, elements)
    if not operation.is_convolution:
        return graph.matmul(A=image, B=weights, compute_data_type=sums)
    return graph.conv_fprop(
        image=image,
        weight=weights,
        pre_padding=list(operation.pads[:2]),
        post_padding=list(operation.pads[2:]),
        stride=list(operation.strides),
        dilation=list(operation.dilations),
        compute_data_type=sums,
    )


def _epilogue_step(
    cudnn: Any, graph: Any, value: Any, operation: Operation, step: str, number: int, floats: Any
) -> Any:
    types = cudnn.data_type
    if step in ACTIVATIONS:
        return getattr(graph, ACTIVATIONS[step])(input=value, compute_data_type=types.FLOAT)
    is_short = step == "residual" or (step == "bias" and operation.precision != "int8")
    operand = _tensor(graph, number, operand_shape(operation, step), floats if is_short else types.FLOAT)
    kind = graph.add if step in ("bias", "residual") else graph.mul
    return kind(a=value, b=operand, compute_data_type=types.FLOAT)


def operand_shape(operation: Operation, step: str) -> tuple[int, ...]:
    """The shape of the tensor that a step of the epilogue reads."""
    rank = len(operation.x)
    if step == "residual":
        return operation.y
    if step in ("factor", "inverse_step"):
        return (1,) * rank
    by_channel = [1] * rank
    by_channel[1 if operation.is_convolution else -1] = operation.y[1 if operation.is_convolution else -1]
    return tuple(by_channel)


def strides_of(shape: tuple[int, ...], is_column_major: bool = False) -> list[int]:
    """Strides of a tensor: its channels last if it is [N, C, H, W], else row by row, or column by column."""
    if len(shape) == 4:
        _, channels, height, width = shape
        return [channels * height * width, 1, channels * width, channels]
    if is_column_major:
        return [shape[-2] * shape[-1], 1, shape[-2]]
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _tensor(graph: Any, number: int, shape: tuple[int, ...], elements: Any) -> Any:
    """Weights of a product lie column by column, as kernels of int8 need."""
    stride = strides_of(shape, is_column_major=number == WEIGHTS)
    return graph.tensor(dim=list(shape), stride=stride, data_type=elements, uid=number)


def engines_of(graph: Any) -> dict[str, int]:
    """How many plans each engine has, such as {"eng4": 5}."""
    names = (graph.get_plan_name_at_index(number) for number in range(graph.get_execution_plan_count()))
    return dict(Counter(name.partition("_")[0] for name in names))
