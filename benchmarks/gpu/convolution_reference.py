"""Operands of a convolution, and its exact result."""

from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.fused_convolution import BIAS, INVERSE_STEP, SCALE, WEIGHTS, Convolution, Form, X, Y
from benchmarks.gpu.results import Agreement

IMAGES = 2  # of a batch that are compared


@dataclass(frozen=True)
class Operands:
    """Tensors by their number in a graph of `fused_graph`, and memory for the result."""

    by_number: dict[int, Any]

    @property
    def result(self) -> Any:
        return self.by_number[Y]


def draw_operands(of: Convolution, form: Form, device: str, seed: int = 0) -> Operands:
    """Draw random operands. Scales are powers of two, so that int32 sums below 2^24 times a scale are exact in
    float32: the result of `linear` then has the same bits in any order of operations.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    is_half = form.startswith("half")

    def last(values: Any) -> Any:
        return values.contiguous(memory_format=torch.channels_last)

    def integers(shape: tuple[int, ...]) -> Any:
        return last(torch.randint(-127, 128, shape, generator=generator, device=device, dtype=torch.int8))

    def normal(shape: tuple[int, ...], deviation: float, dtype: Any = torch.float32) -> Any:
        return (deviation * torch.randn(shape, generator=generator, device=device)).to(dtype)

    fan = of.channels * of.kernel**2
    by_channel = (1, of.features, 1, 1)
    bias = normal(by_channel, 1.0, torch.float16 if is_half else torch.float32)
    if is_half:
        x, weights = last(normal(of.x_shape, 1.0)), last(normal(of.weights_shape, fan**-0.5))
        given = {X: x.to(torch.float16), WEIGHTS: weights.to(torch.float16), BIAS: bias}
    else:
        deviation = fan**0.5 * 127**2 / 3  # of a sum
        power = torch.randint(-1, 2, by_channel, generator=generator, device=device)
        scale = torch.exp2(power - round(_log2(deviation))).to(torch.float32)
        step = torch.full((1, 1, 1, 1), 32.0, device=device)
        given = {X: integers(of.x_shape), WEIGHTS: integers(of.weights_shape)}
        given |= {SCALE: scale, BIAS: bias, INVERSE_STEP: step}
    dtype = {"sums": torch.int32, "int8": torch.int8}.get(form, torch.float16)
    given[Y] = last(torch.zeros(of.y_shape, dtype=dtype, device=device))
    used = {"sums": (X, WEIGHTS, Y), "half": (X, WEIGHTS, Y), "int8": tuple(given)}
    return Operands({number: given[number] for number in used.get(form, set(given) - {INVERSE_STEP})})


def _log2(value: float) -> float:
    import math

    return math.log2(value)


def exact_sums(x: Any, weights: Any) -> Any:
    """Return the convolution of x [N, C, H, W] in float64, without rounding for integers: as one product of
    matrices, since libraries may compute a convolution by a transform that rounds.
    """
    import torch

    features, _, kernel, _ = weights.shape
    columns = torch.nn.functional.unfold(x.to(torch.float64), kernel, padding=kernel // 2)
    sums = weights.to(torch.float64).flatten(1) @ columns
    return sums.unflatten(2, x.shape[2:])


def expected_result(operands: Operands, form: Form, images: int = IMAGES) -> Any:
    """Return the correct output of a kernel for the first images: float32 arithmetic on exact sums."""
    import torch

    given = operands.by_number
    sums = exact_sums(given[X][:images], given[WEIGHTS])
    if form == "sums":
        return sums.to(torch.int32)
    value = sums.to(torch.float32)
    if SCALE in given:
        value = value * given[SCALE]
    if BIAS in given:
        value = value + given[BIAS].to(torch.float32)
    if form in ("silu", "int8", "half_silu"):
        value = value * torch.sigmoid(value)
    if form == "int8":
        return (value * given[INVERSE_STEP]).round().clamp(-128, 127).to(torch.int8)
    return value.to(torch.float16)


def compare(of: Convolution, form: Form, plan: str, operands: Operands) -> Agreement:
    """Compare the result in the operands with the expected one."""
    import torch

    expected = expected_result(operands, form)
    found = operands.result[: len(expected)]
    difference = (found.to(torch.float64) - expected.to(torch.float64)).abs().max()
    largest = 1.0 if form in ("sums", "int8") else float(expected.to(torch.float64).abs().max())
    return Agreement(of.name, form, plan, expected.numel(), int((found != expected).sum()), float(difference) / largest)
