"""A denoiser's noise schedule, prediction type and other properties, as plans and manifests store them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from fewstep.plans.errors import UserError

T = TypeVar("T", bound=msgspec.Struct)


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every struct of a bundle: immutable, and an unknown field is an error instead of being dropped."""


class ScheduleSpec(Strict, frozen=True, omit_defaults=True):
    """The parameters of a noise schedule, which `paths.py` interprets. None means the default for this `kind` of
    schedule.

    Parameters that a kind does not use keep their defaults, and are not written to files. They are not part of the
    fingerprint, except the first four, which always are.
    """

    kind: Literal[
        "linear",  # variance-preserving tables of timesteps: betas, or a formula for them
        "scaled-linear",
        "cosine",
        "sigmoid",
        "betas",
        "flow",  # straight path between data and noise
        "trigonometric",  # quarter circle between data and noise
        "exploding",  # variance exploding: sigma grows geometrically in time, or as in EDM
        "edm",
        "table",  # alpha and sigma as lists of numbers
        "interpolant",  # interpolants from a sample y to the data, as lists of numbers
        "residual-shift",  # from the data to a degraded sample: ResShift, RDDM, OUVE, Schroedinger bridge, IR-SDE
        "rddm",
        "ou",
        "bridge",
        "mean-reverting",
    ]
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    betas: tuple[float, ...] = ()
    alphas: tuple[float, ...] = ()  # for lists of numbers: values at evenly spaced times, beginning at the data
    sigmas: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()  # the shares of y, if they are not 1 - alpha
    zero_terminal_snr: bool = False  # rescale a table so that its last timestep is pure noise
    sigma_min: float | None = None
    sigma_max: float | None = None
    sigma_data: float = 0.5  # standard deviation of the data, in EDM's preconditioning
    time_scale: float = 1.0  # factor of the time that the network receives, for kinds without timesteps
    kappa: float = 2.0  # ResShift: standard deviation of the noise where eta is 1
    eta_min: float | None = None
    eta_max: float | None = None
    power: float | None = None
    noise_variance: float = 0.01  # RDDM: the noise variance at the last timestep
    theta: float = 1.5  # OU: how fast the mean moves to the degraded sample
    growth: float = 2.6  # bridge: the noise added at time t has the variance rate growth^2t
    rate: float = 0.4
    alpha_min: float = 0.005  # mean-reverting: alpha at the last timestep


Prediction = Literal["epsilon", "sample", "v", "flow", "score", "edm", "consistency", "residual", "velocity", "logits"]


class BankedTensor(Protocol):
    """The properties of a carried tensor that plan compilation needs (from `runtime.kinds.named_tensors.Carried`)."""

    @property
    def name(self) -> str: ...
    @property
    def bank(self) -> Literal["step", "sample"]: ...


@dataclass(frozen=True)
class Stairs:
    """Positions that are denoised in blocks of `leaves` positions, each block one stage noisier than the block before
    it (`runtime.kinds.positions.Positions`).

    axis: the axis of a sample that has `places` positions, negative (counted from the end).
    kept: the number of positions at the front that are finished already.
    """

    axis: int
    places: int
    leaves: int
    kept: int = 0


PURE_NOISE = -sys.float_info.max  # below the lambda of every step except one at pure noise


By = Literal["x", "x0"]  # the variable of a gradient


@dataclass(frozen=True)
class NetworkFacts:
    """The properties of one network of a denoiser that plan compilation needs.

    until: the network runs those steps with log-SNR below `until` that no network before it runs. With PURE_NOISE these
        are only the steps at -infinity.
    steers: if the second output is a gradient, the variable with respect to which it is taken; otherwise None.
    """

    name: str
    until: float
    prediction: Prediction
    heads: int = 1
    steers: By | None = None


@dataclass(frozen=True)
class DenoiserFacts:
    """The facts about a denoiser that compiling a plan needs.

    guided: whether it has an unconditional branch.
    heads: the number of outputs. The first is the prediction; a second may be a learned variance, for example.
    steers: if the second output is a gradient, which `Steer` reads, the variable of the gradient; otherwise None.
    towards: for restoration, the name of the given tensor that noising reverts to (`Tracer.start`).
    grid: the grid of plan names without one. `plans.default_grid` chooses it for new bundles.
    perturbed: whether it has a branch of perturbed attention.
    carried: tensors that it carries from run to run.
    networks: networks that replace the denoiser in some steps, in the order of increasing `until`.
    distilled: whether it was distilled to few steps.
    stairs: set if its positions have separate times.
    self_condition: whether its network also receives the x0 that its previous evaluation predicted.
    features: the name of the inner features that a light network reads; None without a light network.
    without_null: conditions that have no value in the unconditional branch. If there are any, that branch does not
        exist.
    """

    schedule: ScheduleSpec
    prediction: Prediction
    guided: bool = True
    heads: int = 1
    steers: By | None = None
    towards: str | None = None
    grid: str = "trailing"
    perturbed: bool = True
    carried: tuple[BankedTensor, ...] = ()
    networks: tuple[NetworkFacts, ...] = ()
    distilled: bool = False
    stairs: Stairs | None = None
    self_condition: bool = False
    features: str | None = None
    without_null: tuple[str, ...] = ()

    @property
    def gradients(self) -> set[By]:
        """The variables of the gradients that its networks output."""
        return {steers for steers in (self.steers, *(network.steers for network in self.networks)) if steers}


def canonicalize(value: T, problem: Callable[[T], str | None], fix: str) -> T:
    """Return the value with its fields converted to their declared types: 2 to 2.0, a list to a tuple, numpy to Python.

    This is necessary since a constructor does not check types, and a plan that contains a list would differ from the
    plan in its file. Raises UserError, which names the field, for values that cannot be converted, and for a value with
    a `problem`.
    """
    try:
        made = msgspec.convert(msgspec.to_builtins(value, enc_hook=_to_python), type(value))
    except (msgspec.ValidationError, TypeError) as error:
        raise UserError(f"{value}: {str(error).lower()}", fix) from None
    if wrong := problem(made):
        raise UserError(f"{made} {wrong}", fix)
    return made


def _to_python(value: Any) -> Any:
    """Convert a number or array of numpy, or of a framework with `tolist`, to Python types."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{value!r} is not a number")
    return value.tolist()
