"""A convolution or matrix product with the epilogue that one cuDNN kernel fuses.

This module, `operation_graphs` and `ask_plans` need nothing but Python and the package that they ask.
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

Floats = Literal["half", "bfloat16"]  # 16 bits
Precision = Literal["int8", Floats]
ACTIVATIONS = {"silu": "swish", "gelu_tanh": "gelu_approx_tanh", "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Operation:
    """Shapes of a fused kernel. Tensors of a convolution have their channels last.

    x: [N, C, H, W] of a convolution, [1, rows, K] of a product. weights: [F, C / groups, kH, kW], or [1, K, F].
    pads: at the top, left, bottom and right. precision: of x and the weights; int8 has sums in int32. floats: the
    16-bit type around int8, and of results. These are int8 after `inverse_step`, and int32 without an epilogue of
    int8. epilogue: the steps on the sums, in this order: `scale` multiplies by a float32 for each channel, `factor`
    by one float32. `bias` adds a number for each channel (float32 after int8, else the type of x), `residual` a
    tensor of the result's shape in 16 bits. `silu` and others (`ACTIVATIONS`) apply a function. `inverse_step`
    multiplies by one float32 and rounds to int8; it is the last.
    """

    x: tuple[int, ...]
    weights: tuple[int, ...]
    precision: Precision = "int8"
    epilogue: tuple[str, ...] = ()
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    floats: Floats = "half"

    @property
    def is_convolution(self) -> bool:
        return len(self.x) == 4

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of the result."""
        if not self.is_convolution:
            return (*self.x[:-1], self.weights[-1])
        sizes = (
            (size + before + after - dilation * (window - 1) - 1) // stride + 1
            for size, before, after, dilation, window, stride in zip(
                *(self.x[2:], self.pads[:2], self.pads[2:], self.dilations, self.weights[2:], self.strides), strict=True
            )
        )
        return (self.x[0], self.weights[0], *sizes)

    @property
    def macs(self) -> int:
        """Multiplications of the whole batch."""
        return prod(self.y) * (prod(self.weights[1:]) if self.is_convolution else self.weights[1])

    @property
    def result(self) -> str:
        """The type of the result: int32, int8 or floats."""
        if "inverse_step" in self.epilogue:
            return "int8"
        return "int32" if self.precision == "int8" and not self.epilogue else self.floats

    @property
    def name(self) -> str:
        """The shapes, such as `64->128 3x3 at 28x28, stride 2x2, pads 1x1, batch 8`, without the epilogue."""
        if not self.is_convolution:
            return f"{self.x[-1]}->{self.weights[-1]}, {self.x[-2]} rows"
        size = f"{self.x[1]}->{self.weights[0]} {_sizes(self.weights[2:])} at {_sizes(self.x[2:])}"
        before, after = self.pads[:2], self.pads[2:]
        facts = {
            "stride": _sizes(self.strides) if max(self.strides) > 1 else "",
            "dilation": _sizes(self.dilations) if max(self.dilations) > 1 else "",
            "pads": "" if not any(self.pads) else _sizes(before if before == after else self.pads),
            "groups": str(self.x[1] // self.weights[1]) if self.x[1] > self.weights[1] else "",
            "batch": str(self.x[0]),
        }
        return ", ".join([size, *(f"{name} {value}" for name, value in facts.items() if value)])

    @property
    def epilogue_text(self) -> str:
        """The epilogue and the type of the result, such as `scale, bias to half`."""
        return " ".join([*([", ".join(self.epilogue)] if self.epilogue else []), "to", self.result])

    def encode(self) -> dict[str, Any]:
        """Return the operation as JSON values."""
        return asdict(self)


def _sizes(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def decode(fields: dict[str, Any]) -> Operation:
    """The operation of `Operation.encode`."""
    given: dict[str, Any] = {name: tuple(field) if isinstance(field, list) else field for name, field in fields.items()}
    return Operation(**given)
