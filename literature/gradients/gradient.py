"""Denoisers with a second output: the gradient of an energy of the prediction, which `Steer` guidance reads.

No exporter supports autograd. Therefore the module is traced once with its backward pass, with symbolic sizes and with
weights as inputs, into a module of plain operations (`write_backward_pass`). That module is then exported like any
other.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from fewstep.export.error_text import error_location, module_name, user_code_location
from fewstep.export.spec import Spec
from fewstep.export.tracing.export_errors import explain_export_error, watch_calls
from fewstep.export.tracing.traced_form import TracedForm
from fewstep.literature.gradients.derivatives import DERIVATIVES
from fewstep.literature.gradients.products import keep_products_whole, restore_torch_names
from fewstep.plans.errors import UserError, first_line
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.bundle.conditions import has_null
from fewstep.runtime.bundle.manifest import Condition

Of = Literal["x", "x0"]
Normalise = Literal["residual", "unit"]
POINTS = 1024  # number of times at which the coefficients of a schedule without timesteps are tabulated
TRACE_BATCH = 5  # neither 1 nor a common size in networks, which torch would treat as constants
REPLAYED_BATCHES = (1, 3)
REPLAYED = 1e-4  # largest difference between the written-out module and autograd, relative to the largest value
LARGEST = 100.0  # largest factor of x in x0 (1 / alpha for epsilon) at which float32 can represent the gradient
SMALLEST = 1e-12  # least divisor of a gradient, so that none is divided by 0
DERIVATIVE = "write a forward pass that torch.autograd.grad can differentiate"


@dataclass(frozen=True)
class Noisy:
    """The input of a prediction: x [B, *x_shape] = alpha x0 + sigma eps, with alpha and sigma of shape [B, 1, ...], and
    the network's time [B]. A gradient with respect to x also flows through this x."""

    x: Tensor
    time: Tensor
    alpha: Tensor
    sigma: Tensor


Energy = Callable[..., Tensor]


def with_gradient(
    denoiser: nn.Module,
    spec: Spec,
    energy: Energy,
    conditions: Sequence[Condition] = (),
    of: Of = "x",
    normalise: Normalise | None = None,
) -> tuple[nn.Module, Spec]:
    """Return a denoiser with two outputs, [prediction; h] with h = -dE/dx or -dE/dx0, and its spec, as a `FILE.py:make`
    returns them.

    Args:
        energy: `energy(x0, noisy, *conditions)` -> [B], for the predicted sample x0 [B, *x_shape] and `Noisy`. It is a
            function, or a module, whose weights are also exported. With -log p(y | x0), `Steer` samples given y.
        conditions: conditions of the energy, such as a measurement or a class. They follow those of the denoiser.
        of: "x" differentiates through the denoiser: h = J^T (-dE/dx0) + ..., which takes two to three times as long as
            the prediction (DPS: Chung et al. 2023, arXiv 2209.14687). "x0" treats the prediction as constant, so only
            the energy is added to the cost (EluCD: Ma et al. 2024, arXiv 2310.11311).
        normalise: "residual" divides h by sqrt(2 E), as DPS does; this is the norm of the residual if E is half its
            square. "unit" divides h by its root mean square. Both apply to each sample separately.

    In an unconditional branch, a condition of the energy keeps the sample's value, unless it has a null value.

    Raises UserError for free sizes, carried tensors, a denoiser that restores or takes its previous x0, and an energy
    that cannot be called with these arguments.
    """
    for name, choice, choices in (("of", of, get_args(Of)), ("normalise", normalise, (None, *get_args(Normalise)))):
        if choice not in choices:
            raise UserError(
                f"{name}={choice!r} is not valid for the gradient of an energy",
                f"give {' or '.join(map(repr, choices))}",
            )
    check_sizes(spec)
    if spec.other_outputs:
        what = "carried tensors" if spec.carried else "named outputs"
        raise UserError(
            f"the gradient of an energy cannot be added to a denoiser with {what}", "export it without them"
        )
    if spec.self_condition:
        raise UserError(
            "the gradient of an energy cannot be added to a denoiser that takes its previous x0",
            "export it without the gradient",
        )
    if spec.towards is not None:
        what = f"the gradient of an energy cannot be added to a denoiser that restores {spec.towards!r}"
        raise UserError(what, "give a denoiser that starts from noise alone")
    asked = [
        condition if has_null(condition) else msgspec.structs.replace(condition, shared=True)
        for condition in conditions
    ]
    names = ", ".join(("x0", "noisy", *(gradient.name for gradient in asked)))
    try:
        signature(energy.forward if isinstance(energy, nn.Module) else energy).bind(*names.split(", "))
    except TypeError as error:
        raise UserError(f"the energy cannot be called: {error}", f"let it take ({names})") from None
    return (
        GradientModule(denoiser, spec, energy, len(conditions), of, normalise),
        msgspec.structs.replace(spec, conditions=(*spec.conditions, *asked), heads=2, steers=of),
    )


def check_sizes(spec: Spec) -> None:
    """Raise UserError for a denoiser with free sizes, for which no backward pass can be exported."""
    if spec.sizes:
        sizes = ", ".join(size.name for size in spec.sizes)
        raise UserError(
            f"the gradient of an energy cannot be added to a denoiser with free sizes ({sizes})",
            "export one size for each bundle: leave sizes out",
        )


class GradientModule(TracedForm):
    """A denoiser and the gradient of an energy: forward(x, time, *conditions) -> [B, 2 C, ...]."""

    coefficients: Tensor

    def __init__(
        self,
        denoiser: nn.Module,
        spec: Spec,
        energy: Energy,
        energy_conditions: int = 0,
        of: Of = "x",
        normalise: Normalise | None = None,
    ) -> None:
        """Create the module. The conditions of the energy follow those of the denoiser; `energy_conditions` is their
        number."""
        super().__init__()
        self.denoiser, self.energy = denoiser.requires_grad_(False), energy
        if isinstance(energy, nn.Module):
            energy.requires_grad_(False)
        self.of, self.normalise = of, normalise
        self.channels, self.arguments = spec.x_shape[0], len(spec.times) - 1 + len(spec.conditions)
        self.energy_conditions = energy_conditions
        path = NoiseSchedule(spec.schedule).path
        self.first, self.last = path.first, path.last
        self.register_buffer("coefficients", _coefficients(spec))

    def forward(self, x: Tensor, time: Tensor, *rest: Tensor) -> Tensor:
        return torch.cat(self.outputs(x, time, *rest), dim=1)

    def check_spec(self, spec: Spec) -> None:
        check_sizes(spec)

    def make_traceable(self, example: tuple[Tensor, ...]) -> "BackwardGraph":
        return write_backward_pass(self, example)

    def explain_refusal(self, example: tuple[Tensor, ...], operation: str) -> UserError:
        return explain_missing_derivative(self, example, operation)

    def outputs(self, x: Tensor, time: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prediction and h, each [B, *x_shape]."""
        with torch.enable_grad():
            output, energy, by = self.energies(x, time, *rest)
            try:
                (slope,) = torch.autograd.grad(energy.sum(), by)
            except RuntimeError as error:
                raise self._derivative_error(error, (x, time, *rest)) from error
        shape = (-1, *[1] * (x.dim() - 1))
        if self.normalise == "residual":
            slope = slope / (2 * energy.detach()).clamp_min(SMALLEST).sqrt().reshape(shape)
        elif self.normalise == "unit":
            slope = slope / slope.square().flatten(1).mean(1).clamp_min(SMALLEST).sqrt().reshape(shape)
        return output.detach(), -slope * self._coefficients_at(time, x.dim())[5]

    def energies(self, x: Tensor, time: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prediction, the energy [B], and the tensor with respect to which the energy is differentiated."""
        conditions, of_energy = rest[: self.arguments], rest[self.arguments :][: self.energy_conditions]
        scale, of_x, of_output, alpha, sigma, _ = self._coefficients_at(time, x.dim())
        noisy = (x / scale).detach().requires_grad_(self.of == "x")
        output = self.denoiser(noisy * scale, time, *conditions)[:, : self.channels]
        x0 = of_x * noisy + of_output * output
        if self.of == "x0":
            x0 = x0.detach().requires_grad_(True)
        energy = self.energy(x0, Noisy(noisy, time, alpha, sigma), *of_energy)
        if not isinstance(energy, Tensor) or energy.shape != x.shape[:1]:
            returned = list(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
            raise UserError(f"the energy returned {returned} for a batch of {x.shape[0]}", "let it return [B]")
        return output, energy, noisy if self.of == "x" else x0

    def _derivative_error(self, error: RuntimeError, inputs: tuple[Tensor, ...]) -> UserError:
        named = re.search(r"the derivative for '(\w+)", str(error))
        if named is not None:
            return explain_missing_derivative(self, inputs, named[1])
        if "does not require grad" in str(error):
            return UserError(
                f"the energy does not depend on {self.of}", "compute it from the x0 that it is called with"
            )
        return UserError(
            f"{module_name(self.denoiser)} has no gradient: {first_line(error)}{error_location(error)}", DERIVATIVE
        )

    def _coefficients_at(self, time: Tensor, dim: int) -> tuple[Tensor, ...]:
        """Return `_coefficients` at times [B], each of shape [B, 1, ...]."""
        last = self.coefficients.shape[0] - 1
        place = ((time - self.first) * (last / (self.last - self.first))).clamp(0, last)
        before = place.floor().clamp(max=last - 1)
        row, share = before.long(), (place - before)[:, None]
        rows = self.coefficients[row] * (1 - share) + self.coefficients[row + 1] * share
        return rows[(..., *[None] * (dim - 1))].unbind(1)


def explain_missing_derivative(module: GradientModule, inputs: tuple[Tensor, ...], operation: str) -> UserError:
    """Return the error for an operation such as "grid_sampler_2d", with the line of the user's code that computes
    it."""
    with torch.enable_grad(), torch.autograd.set_detect_anomaly(True, check_nan=False):
        _, energy, _ = module.energies(*inputs)
    waiting: list[Any] = [energy.grad_fn]
    seen: set[Any] = set()
    line = ""
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if operation.replace("_", "") in node.name().lower():
            line = user_code_location(node.metadata.get("traceback_", ()))
    what = f"operation aten::{operation} has no derivative that can be exported{line}"
    return UserError(what, "write it with other operations")


def _coefficients(spec: Spec) -> Tensor:
    """Return a table [points, 6] of the schedule. A row has c_in, then a and b in x0 = a x + b output, alpha, sigma,
    and 1 if the gradient is computed at this point.

    The last number is 0 if a is too large: x0 is then a small difference of large numbers, which float32 cannot
        represent accurately. At points where the prediction does not determine x0, the coefficients are those of the
        previous point.
    """
    schedule = NoiseSchedule(spec.schedule)
    first, last = schedule.path.first, schedule.path.last
    rows: list[tuple[float, ...]] = []
    for t in np.linspace(first, last, schedule.timesteps or POINTS):
        time = schedule.time(float(t))
        try:
            a, b = x0_coefficients(spec.prediction, time, spec.schedule)
        except UserError:
            rows.append((*rows[-1][:-1], 0.0))
            continue
        scale = input_scale(spec.prediction, time, spec.schedule)
        rows.append((scale, a, b, time.alpha, time.sigma, float(a <= LARGEST)))
    return torch.tensor(rows, dtype=torch.float32)


class BackwardGraph(nn.Module):
    """A `GradientModule` whose backward pass is written out as ordinary operations, so that it can be exported."""

    def __init__(self, operations: torch.fx.GraphModule, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.operations, self.count = operations, len(weights)
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight{number}", weight)
        self.gradient_head = Heads()

    def forward(self, x: Tensor, time: Tensor, *rest: Tensor) -> Tensor:
        weights = [getattr(self, f"weight{number}") for number in range(self.count)]
        return self.gradient_head(*self.operations(weights, x, time, *rest))


class Heads(nn.Module):
    """Concatenate the outputs along the channels. The lowering recognises the operation by the name of this module."""

    def forward(self, prediction: Tensor, gradient: Tensor) -> Tensor:
        return torch.cat([prediction, gradient], dim=1)


def write_backward_pass(module: GradientModule, example: tuple[Tensor, ...]) -> BackwardGraph:
    """Return the module with its backward pass as plain operations, for any batch. `example` are valid inputs.

    Raises UserError if an operation has no derivative, and if the operations do not compute the same as the module.
    """
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())

    def outputs(weights: Sequence[Tensor], *arguments: Tensor) -> tuple[Tensor, Tensor]:
        with (
            keep_products_whole(),
            torch.nn.utils.stateless._reparametrize_module(module, dict(zip(tensors, weights, strict=True))),
        ):
            return module.outputs(*arguments)

    weights = [tensor.detach() for tensor in tensors.values()]
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    stand_ins = [fake.from_tensor(weight, static_shapes=True) for weight in weights]
    arguments = [_symbolic_batch(fake, tensor) for tensor in _batch(example, TRACE_BATCH)]
    with watch_calls(module) as watch:
        try:
            traced = make_fx(outputs, DERIVATIVES, "symbolic", _allow_non_fake_inputs=True)(stand_ins, *arguments)
        except UserError:
            raise
        except Exception as error:
            raise explain_export_error(error, watch, None) from error
    for node in traced.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and "backward" in node.target.name():
            raise explain_missing_derivative(
                module, example, node.target.name().split("::")[1].partition("_backward")[0]
            )
    restore_torch_names(traced.graph)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    written = BackwardGraph(traced, weights)
    _check_replay(written, module, example)
    return written


def _batch(example: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    """Return inputs with `size` samples. Float inputs are the first sample of `example` plus noise, so that no two
    samples are equal."""
    generator = torch.Generator().manual_seed(size)
    spread = [tensor[:1].expand(size, *tensor.shape[1:]).clone() for tensor in example]
    return tuple(
        tensor + torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for tensor in spread
    )


def _check_replay(written: nn.Module, module: GradientModule, example: tuple[Tensor, ...]) -> None:
    """Raise UserError if the written operations do not compute the same as the module. Later steps could not
    distinguish this from an error of the ONNX export."""
    for size in REPLAYED_BATCHES:
        inputs = _batch(example, size)
        with torch.no_grad():
            wanted, replayed = module(*inputs), written(*inputs)
        difference = float((wanted - replayed).abs().max() / wanted.abs().max().clamp_min(SMALLEST))
        if not difference <= REPLAYED:
            raise UserError(
                f"the gradient of {module_name(module.denoiser)} written out differs from autograd's by"
                f" {difference:.1e} of its largest value",
                "write the forward pass without branches and random draws",
            )


def _symbolic_batch(fake: FakeTensorMode, tensor: Tensor) -> Tensor:
    """Return a fake tensor whose batch axis is symbolic, and whose other axes are fixed."""
    sizes = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (tensor.dim() - 1)]
    return fake.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
