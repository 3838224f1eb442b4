"""A convolution and what follows it as one kernel of cuDNN: in half precision, or in int8 with a scale of each channel.

Nothing is computed here: a graph lists the plans that cuDNN has for it, on this machine's GPU or on a described one.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["sums", "linear", "silu", "int8", "half_silu", "half_bias", "half"]
X, WEIGHTS, SCALE, BIAS, INVERSE_STEP, Y = range(1, 7)  # the numbers by which a call gives the tensors


@dataclass(frozen=True)
class Convolution:
    """A convolution of stride 1 that keeps height and width. Tensors have their channels last.

    channels, features: of its input and output. kernel: the side of its window, which is odd.
    """

    batch: int
    channels: int
    features: int
    height: int
    width: int
    kernel: int = 3

    @property
    def name(self) -> str:
        window = f"{self.kernel}x{self.kernel}"
        return f"{self.channels}->{self.features} {window} at {self.height}x{self.width}, batch {self.batch}"

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.features, self.height, self.width)

    @property
    def weights_shape(self) -> tuple[int, int, int, int]:
        return (self.features, self.channels, self.kernel, self.kernel)


def channels_last(shape: tuple[int, ...]) -> list[int]:
    """Strides of a tensor [N, C, H, W] whose channels lie next to each other."""
    _, channels, height, width = shape
    return [channels * height * width, 1, channels * width, channels]


def fused_graph(cudnn: Any, of: Convolution, form: Form, handle: Any = None, device: Any = None) -> Any:
    """The graph of a convolution, with its plans listed; none of them is compiled yet.

    form: what the kernel computes of x and the weights.
        sums       int8 -> int32: the sums.
        linear     int8 -> half: sums * scale[channel] + bias[channel].
        silu       int8 -> half: SiLU of `linear`.
        int8       int8 -> int8: `silu` * inverse step, rounded and clipped.
        half_silu  half -> half: SiLU of the convolution + bias[channel].
        half_bias  half -> half: the convolution + bias[channel], for which cuDNN has the most kernels.
        half       half -> half: the convolution alone.
    handle: of cuDNN on a GPU. device: properties of a described GPU, instead of a handle.

    Raises cuDNN's own errors, such as for a form that it has no plan for.
    """
    types, is_half = cudnn.data_type, form.startswith("half")
    elements = types.HALF if is_half else types.INT8
    graph = cudnn.pygraph(
        name=f"{form} {of.name}",
        io_data_type=elements,
        intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT,
        **({"handle": handle} if device is None else {"device_property": device}),
    )
    margin = [of.kernel // 2] * 2
    value = graph.conv_fprop(
        image=_tensor(graph, X, of.x_shape, elements),
        weight=_tensor(graph, WEIGHTS, of.weights_shape, elements),
        pre_padding=margin,
        post_padding=margin,
        stride=[1, 1],
        dilation=[1, 1],
        compute_data_type=types.FLOAT if is_half else types.INT32,
    )
    if form not in ("sums", "half"):
        value.set_data_type(types.FLOAT if is_half else types.INT32)
        value = _epilogue(cudnn, graph, value, of, form)
    result = {"sums": types.INT32, "int8": types.INT8}.get(form, types.HALF)
    value.set_output(True).set_data_type(result).set_uid(Y)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.B, cudnn.heur_mode.FALLBACK])
    return graph


def _epilogue(cudnn: Any, graph: Any, value: Any, of: Convolution, form: Form) -> Any:
    """What follows the sums. Between its operations are float32 values."""
    types, by_channel, is_half = cudnn.data_type, (1, of.features, 1, 1), form.startswith("half")

    def then(kind: str, **inputs: Any) -> Any:
        found = getattr(graph, kind)(**inputs, compute_data_type=types.FLOAT)
        found.set_data_type(types.FLOAT)
        return found

    if not is_half:
        value = then("mul", a=value, b=_tensor(graph, SCALE, by_channel, types.FLOAT))
    value = then("add", a=value, b=_tensor(graph, BIAS, by_channel, types.HALF if is_half else types.FLOAT))
    if form in ("silu", "int8", "half_silu"):
        value = then("swish", input=value)
    if form == "int8":
        value = then("mul", a=value, b=_tensor(graph, INVERSE_STEP, (1, 1, 1, 1), types.FLOAT))
    return value


def _tensor(graph: Any, number: int, shape: tuple[int, ...], elements: Any) -> Any:
    return graph.tensor(dim=list(shape), stride=channels_last(shape), data_type=elements, uid=number)


def engines_of(graph: Any) -> dict[str, int]:
    """How many plans each engine has, such as {"eng4": 5}."""
    names = (graph.get_plan_name_at_index(number) for number in range(graph.get_execution_plan_count()))
    return dict(Counter(name.partition("_")[0] for name in names))
