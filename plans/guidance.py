"""Guidance combines the outputs of several branches into one, by weights that are folded into a plan.

A branch is the network under one set of conditions. "cond" has the caller's conditions, "uncond" the null values, and
"perturbed" the caller's conditions with perturbed attention. The caller defines any other branch
(`Sampler.sample(branches=...)`), such as a negative prompt, or one of two conditions left out. Each form gives the
weights w_b of o = sum_b w_b o_b for evaluation i at lambda. They sum to 1.
A distilled network that takes its guidance weight as a condition needs no form of guidance.
"""

import sys
from collections.abc import Collection, Iterator
from math import isfinite
from numbers import Real
from typing import Literal

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.spec import By, Strict, canonicalize

COND, UNCOND = "cond", "uncond"
PERTURBED = "perturbed"  # the perturbed branch, and the condition that is 1 in it
PAG, STEER, CFG_PLUS_PLUS = "pag:", "steer:", "cfg++:"
FIX = "give values that fewstep.plans.guidance documents"


class Cfg(Strict, frozen=True, tag="cfg"):
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): o = o_uncond + w (o_cond - o_uncond).

    weight: w, or one weight per evaluation, of which the last applies to all further evaluations. A weight of 1
        evaluates only the conditional branch: (7.5, 7.5, 7.5, 1.0) stops guiding after three evaluations (Castillo et
        al. 2023, arXiv 2312.12487).
    interval: guide only where low <= lambda < high (Kynkaanniemi et al. 2024, arXiv 2404.07724), w = 1 elsewhere.
    """

    weight: float | tuple[float, ...]
    interval: tuple[float, float] | None = None


class CfgPlusPlus(Strict, frozen=True, tag="cfg++"):
    """CFG++ (Chung et al. 2024, arXiv 2406.08070): x0 comes from o_uncond + weight (o_cond - o_uncond), and the noise
    that is added back comes from o_uncond only. Written "cfg++:WEIGHT".

    weight: at least 0. The paper uses [0, 1]; small networks were better above 1."""

    weight: float


class Branches(Strict, frozen=True, tag="branches"):
    """Any number of named branches with weights that sum to 1.

    weights: the weight of each branch, or one weight per evaluation, of which the last applies to all further
        evaluations. A branch of weight 0 is not evaluated: {"cond": (1, 1, 0), "edit": (0, 0, 1)} switches to other
        conditions after two evaluations.

    InstructPix2Pix (Brooks et al. 2023, arXiv 2211.09800, equation 3) with scales s_I and s_T has the weights
    uncond: 1 - s_I, image: s_I - s_T, cond: s_T.
    """

    weights: dict[str, float | tuple[float, ...]]


class Pag(Strict, frozen=True, tag="pag"):
    """Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377): o = o_cond + scale (o_cond - o_perturbed),
    written "pag:SCALE". The network takes the perturbation as a condition: `fewstep export --change pag`.

    weight: the weight of additional classifier-free guidance, which adds (weight - 1) (o_cond - o_uncond), as in the
        pipelines of diffusers; written "WEIGHT+pag:SCALE". A weight of 1 evaluates no unconditional branch.
    """

    scale: float
    weight: float = 1.0


class Residual(Strict, frozen=True, tag="residual"):
    """Residual classifier-free guidance (StreamDiffusion: Kodaira et al. 2023, arXiv 2312.12491, section 3.2): the
    unconditional noise is not predicted by the network, but follows from a reference y: n = (x - alpha y) / sigma.

    The guided noise is delta n + weight (eps_cond - delta n), so that x0 is
    weight x0_cond + (1 - weight) (delta y + (1 - delta) x / alpha). Any solver can use it, with one more row for y.

    delta: the strength of n, 1 in theory. Values below 1 require times with alpha > 0.
    kind: "self" uses the given image as y (0 if a run starts from noise) and needs no extra evaluation. "onetime"
        evaluates the unconditional branch at the first step, and uses the x0 predicted there as y.
    """

    weight: float
    delta: float = 1.0
    kind: Literal["self", "onetime"] = "self"


class Steer(Strict, frozen=True, tag="steer"):
    """Guidance by a gradient h that the network computes as its second output (`literature.gradients.gradient`):
    x0' = x0 + w s h, with h of the conditional branch, after any other guidance and before any shaping.

    weight: w, or one weight per evaluation, of which the last applies to all further evaluations.
    scale: the factor s. "sigma2/alpha" is for h with respect to x. With h = grad log p(y | x) and weight 1 the plan
        samples p(x0 | y), since the score is (alpha x0 - x) / sigma^2 (Dhariwal & Nichol 2021, arXiv 2105.05233; PiGDM:
        Song et al. 2023). "variance" is for h with respect to x0: sigma^2 / (alpha^2 + sigma^2), the variance of x0
        given x for data of variance 1. "one" is for a gradient of unit size, and for DPS (Chung et al. 2023, arXiv
        2209.14687). None selects "sigma2/alpha" or "variance", whichever suits the network's gradient.
    guidance: another form with which it is combined. The gradient is that of its branch "cond".

    At pure noise (alpha = 0), where x contains no information about x0, "sigma2/alpha" does not steer. Networks
    without a gradient do not steer either.
    """

    weight: float | tuple[float, ...] = 1.0
    scale: Literal["sigma2/alpha", "variance", "one"] | None = None
    guidance: Cfg | Branches | Pag | None = None


Guidance = Cfg | CfgPlusPlus | Branches | Pag | Residual | Steer


def as_guidance(value: float | Guidance | None) -> Guidance | None:
    """Convert a number to `Cfg(number)`. Return None (only the conditional branch is evaluated) for None and 1, and any
    other Guidance in its canonical form.

    Raises UserError for any other value, and for guidance with invalid numbers.
    """
    if value is None:
        return None
    if isinstance(value, Guidance):
        return canonicalize(value, guidance_problem, FIX)
    if isinstance(value, bool) or not (isinstance(value, Real) and abs(value) <= sys.float_info.max):
        fix = "give a weight such as 2.0, or omit it"
        if isinstance(value, tuple | list):
            fix = f"give Cfg({tuple(value)!r}) of fewstep.plans.guidance for a weight for each evaluation"
        raise UserError(f"guidance {value!r} is not a finite number", fix)
    return None if value == 1 else Cfg(float(value))


def to_text(guidance: Guidance | None) -> str | None:
    """Return the text that `guidance_text.from_text` parses to this guidance, or None if no text can express it."""
    if isinstance(guidance, Steer):
        besides = None if guidance.guidance is None else to_text(guidance.guidance)
        if guidance != Steer(guidance.weight, guidance=guidance.guidance):
            return None
        steered = f"{STEER}{_format_weight(guidance.weight)}"
        return steered if guidance.guidance is None else besides and f"{besides}+{steered}"
    if isinstance(guidance, CfgPlusPlus):
        return f"{CFG_PLUS_PLUS}{_format_number(guidance.weight)}"
    if isinstance(guidance, Pag):
        return f"{_format_number(guidance.weight)}+{PAG}{_format_number(guidance.scale)}".removeprefix("1+")
    if isinstance(guidance, Cfg) and guidance.interval is None:
        return _format_weight(guidance.weight)
    return None


def _format_weight(weight: float | tuple[float, ...]) -> str:
    """Format a weight, or the weights of all evaluations with commas."""
    return ",".join(map(_format_number, weight)) if isinstance(weight, tuple) else _format_number(weight)


def _format_number(number: float) -> str:
    """Format a number with six significant digits if they represent it exactly, otherwise with all its digits."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def guidance_problem(guidance: Guidance) -> str | None:
    """Return what is wrong with the numbers of a guidance, as text, or None if nothing is."""
    if not all(map(isfinite, _numbers(guidance))):
        return "holds a number that is not finite"
    if isinstance(guidance, Steer):
        if guidance.weight == ():
            return "has no weight"
        return None if guidance.guidance is None else guidance_problem(guidance.guidance)
    if isinstance(guidance, Branches):
        if () in guidance.weights.values():
            return "has a branch without a weight"
        if any(
            abs(sum(branch_weights(guidance, index, 0.0).values()) - 1) > 1e-9
            for index in range(_evaluations(guidance))
        ):
            return "has weights that do not sum to 1"
    elif isinstance(guidance, CfgPlusPlus):
        if guidance.weight < 0:
            return f"has the weight {guidance.weight:g}, which is below 0"
    elif isinstance(guidance, Cfg):
        if guidance.weight == ():
            return "has no weight"
        if guidance.interval is not None and not guidance.interval[0] < guidance.interval[1]:
            return f"has the interval {guidance.interval}"
    return None


def describe(guidance: Guidance | None) -> str:
    """Describe the guidance as text. For `Cfg` with one weight this is the weight."""
    if guidance is None:
        return "none"
    weight = weight_of(guidance)
    return to_text(guidance) or str(guidance) if weight is None else f"{weight:g}"


def weight_of(guidance: Guidance | None) -> float | None:
    """Return the guidance weight if it alone defines the guidance. None without guidance, and for guidance with several
    weights or an interval."""
    if isinstance(guidance, Cfg) and not isinstance(guidance.weight, tuple) and guidance.interval is None:
        return guidance.weight
    return None


def needs_null(guidance: Guidance | None) -> bool:
    """True if any evaluation needs the unconditional branch."""
    form = guidance.guidance if isinstance(guidance, Steer) else guidance
    inside = form.interval[0] if isinstance(form, Cfg) and form.interval is not None else 0.0
    count = range(_evaluations(form))
    return any(UNCOND in branch_weights(form, each, inside) and not is_estimated(form, each) for each in count)


def _evaluations(guidance: Guidance | None) -> int:
    """The number of evaluations after which the weights are constant."""
    tuples = [guidance.weight] if isinstance(guidance, Cfg) else []
    tuples = [*guidance.weights.values()] if isinstance(guidance, Branches) else tuples
    return max((len(each) for each in tuples if isinstance(each, tuple)), default=1)


def is_estimated(guidance: Guidance | None, evaluation: int) -> bool:
    """True if an estimate replaces the unconditional branch in an evaluation."""
    return isinstance(guidance, Residual) and (guidance.kind == "self" or evaluation > 0)


def branch_weights(guidance: Guidance | None, evaluation: int, lam: float) -> dict[str, float]:
    """Return the weight of each branch in the guided output of an evaluation at log-SNR `lam`. A branch of weight 0 is
    left out, unless the guidance also reads it otherwise."""
    if isinstance(guidance, Steer):
        weights = branch_weights(guidance.guidance, evaluation, lam)
        return {COND: 0.0} | weights  # Steer reads the gradient of COND, whatever its weight
    if guidance is None:
        return {COND: 1.0}
    if isinstance(guidance, Branches):
        shares = {branch: _weight_at(weight, evaluation) for branch, weight in guidance.weights.items()}
    elif isinstance(guidance, Pag):
        w, s = guidance.weight, guidance.scale
        shares = {COND: w + s, UNCOND: 1 - w, PERTURBED: -s}
    else:
        w = _weight(guidance, evaluation, lam)
        shares = {COND: w, UNCOND: 1 - w}
        if isinstance(guidance, CfgPlusPlus | Residual):
            return shares  # both branches, whatever the weight: the form does not only read their sum
    return {branch: weight for branch, weight in shares.items() if weight != 0}


def _weight(guidance: Cfg | CfgPlusPlus | Residual, evaluation: int, lam: float) -> float:
    if not isinstance(guidance, Cfg):
        return guidance.weight
    if guidance.interval is not None and not guidance.interval[0] <= lam < guidance.interval[1]:
        return 1.0
    return _weight_at(guidance.weight, evaluation)


def respread_weights(guidance: Guidance | None, evaluations: int, count: int) -> Guidance | None:
    """Return guidance for a plan of `count` evaluations. Weights that were listed per evaluation, for a plan of
    `evaluations`, are resampled at the same relative position in the run; single weights stay as they are."""

    def spread(weight: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if not isinstance(weight, tuple):
            return weight
        return tuple(_weight_at(weight, evaluation * evaluations // count) for evaluation in range(count))

    if isinstance(guidance, Branches):
        return Branches({branch: spread(weight) for branch, weight in guidance.weights.items()})
    if isinstance(guidance, Cfg):
        return Cfg(spread(guidance.weight), guidance.interval)
    if isinstance(guidance, Steer):
        besides = respread_weights(guidance.guidance, evaluations, count)
        return msgspec.structs.replace(guidance, weight=spread(guidance.weight), guidance=besides)
    return guidance


def _weight_at(weight: float | tuple[float, ...], evaluation: int) -> float:
    """The weight of an evaluation: the number, or the tuple's element. The last one applies to all further ones."""
    return weight[min(evaluation, len(weight) - 1)] if isinstance(weight, tuple) else weight


def fill_steer_scale(guidance: Guidance | None, gradients: Collection[By]) -> Guidance | None:
    """Return guidance whose `Steer` has a scale. If none was given, it is the usual one for gradients with respect to
    x0 or x, whichever the network returns. Other guidance is returned unchanged."""
    if not isinstance(guidance, Steer) or guidance.scale is not None:
        return guidance
    return msgspec.structs.replace(guidance, scale="variance" if "x0" in gradients else "sigma2/alpha")


def gradient_factor(guidance: Guidance | None, evaluation: int, alpha: float, sigma: float) -> float:
    """The factor of the gradient in x0; 0 without a `Steer`."""
    if not isinstance(guidance, Steer):
        return 0.0
    weight = _weight_at(guidance.weight, evaluation)
    if guidance.scale == "sigma2/alpha":
        return weight * sigma**2 / alpha if alpha else 0.0
    return weight if guidance.scale == "one" else weight * sigma**2 / (alpha**2 + sigma**2)


def _numbers(value: object) -> Iterator[float]:
    """Yield all numbers in a guidance, including those of guidance nested in it."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.astuple(value)
    if isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, float):
        yield value
