"""A denoiser's noise schedule and kind of prediction, as plans and manifests hold them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from fewstep.plans.errors import UserError

T = TypeVar("T", bound=msgspec.Struct)


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every struct of a bundle: immutable, and an unknown field is an error rather than a silent loss."""


class ScheduleSpec(Strict, frozen=True, omit_defaults=True):
    """Parameters of a noise schedule; `paths.py` gives them meaning, and None is a kind's own default.

    What a kind does not use keeps its default, is not written, and is no part of the fingerprint (but the first four,
    which always are).
    """

    kind: Literal[
        "linear",  # tables of timesteps, variance preserving: betas, or a formula for them
        "scaled-linear",
        "cosine",
        "sigmoid",
        "betas",
        "flow",  # straight path between data and noise
        "trigonometric",  # a quarter of a circle between them
        "exploding",  # sigma alone grows: geometrically in time, or as EDM has it
        "edm",
        "table",  # alpha and sigma as numbers
        "interpolant",  # from a sample y to the data, as numbers
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
    alphas: tuple[float, ...] = ()  # of a table: at even times, from the data on
    sigmas: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()  # of y, where it is no 1 - alpha
    zero_terminal_snr: bool = False  # of a table: rescaled so that its last timestep is pure noise
    sigma_min: float | None = None
    sigma_max: float | None = None
    sigma_data: float = 0.5  # standard deviation of the data, in EDM's preconditioning
    time_scale: float = 1.0  # of what the network is told, for kinds without timesteps
    kappa: float = 2.0  # ResShift: the noise's deviation where eta is 1
    eta_min: float | None = None
    eta_max: float | None = None
    power: float | None = None
    noise_variance: float = 0.01  # RDDM: of the last timestep
    theta: float = 1.5  # OU: how fast the mean moves to the degraded sample
    growth: float = 2.6  # bridge: the noise added at time t has the variance rate growth^2t
    rate: float = 0.4
    alpha_min: float = 0.005  # mean-reverting: the data's share at the last timestep


Prediction = Literal["epsilon", "sample", "v", "flow", "score", "edm", "consistency", "residual", "velocity", "logits"]


class BankedTensor(Protocol):
    """The facts that a plan has of a tensor that is carried from run to run: `runtime.kinds.named_tensors.Carried`."""

    @property
    def name(self) -> str: ...
    @property
    def bank(self) -> Literal["step", "sample"]: ...


@dataclass(frozen=True)
class Stairs:
    """Positions that are denoised in blocks of `leaves`, one behind the other: `runtime.kinds.positions.Positions`.

    axis: of a sample, counted from its end, of `places` positions. kept: how many at the front have left already.
    """

    axis: int
    places: int
    leaves: int
    kept: int = 0


PURE_NOISE = -sys.float_info.max  # below the lambda of every step but of one at pure noise


By = Literal["x", "x0"]  # what a gradient is by


@dataclass(frozen=True)
class NetworkFacts:
    """A network's facts for a plan. It runs the steps with lambda below `until` that no network before it runs:
    with PURE_NOISE, those at -infinity alone. `steers`: what its second output is a gradient by, if it is one."""

    name: str
    until: float
    prediction: Prediction
    heads: int = 1
    steers: By | None = None


@dataclass(frozen=True)
class DenoiserFacts:
    """A denoiser's facts for a plan: its schedule, its prediction, whether it has an unconditional branch
    (`guided`) or one of perturbed attention (`perturbed`), and the number of its outputs (`heads`; the first is the
    prediction, a learned variance would be a second). Where it `steers`, the second is a gradient by that, which
    `Steer` reads. For restoration `towards` names the given tensor that noising reverts to (`Tracer.start`). `grid`
    is the grid of plan names without one; `plans.default_grid` chooses it for new bundles. `carried` is what it
    carries from run to run. `networks` run steps in its place, from the noise on. `distilled`: to few steps. `stairs`:
    its positions have times of their own."""

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

    @property
    def gradients(self) -> set[By]:
        """The names of what the gradients of its networks are by."""
        return {steers for steers in (self.steers, *(each.steers for each in self.networks)) if steers}


def canonicalize(value: T, problem: Callable[[T], str | None], fix: str) -> T:
    """The value with its fields as declared: 2.0 for 2, a tuple for a list, Python's numbers for numpy's.

    Python checks nothing when a class is made, and a plan with a list in it would differ from the plan of its file.
    Raises UserError, which names the field, for any other value, and for numbers that have a `problem`.
    """
    try:
        made = msgspec.convert(msgspec.to_builtins(value, enc_hook=_to_python), type(value))
    except (msgspec.ValidationError, TypeError) as error:
        raise UserError(f"{value}: {str(error).lower()}", fix) from None
    if wrong := problem(made):
        raise UserError(f"{made} {wrong}", fix)
    return made


def _to_python(value: Any) -> Any:
    """A number or array of numpy (or of a framework that is like it) in Python's own types."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{value!r} is no number")
    return value.tolist()
