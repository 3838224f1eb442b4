"""A claim: what a system claims, the figure, our way, and the plain way that could refute it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.guidance import Guidance
from lab.claims import scores
from lab.claims.settings import APART, Setting, W

Way = Callable[[Setting], Floats]
PlainWay = Callable[[Setting, int], Floats]
SHIPPED = ("fashion_mnist", "cifar10")
GUIDED = ("dit_flow", "convnext_v_cosine")
SHARPENED, SPOKEN = ("nafnet_residual",), ("speech_ncsn",)
GRIDS = ("arctan", "ays_svd", "trailing")
MANY = 256  # seeds of a distance
LOG_P = "log p(class)"
ITSELF = "the same in float32"  # a control of int8, and no rival of the system


@dataclass(frozen=True)
class Claim:
    """A system and the plain way, at `evaluations` per sample. `score` is the figures of what they make, one for
    each seed or as many as there are; the larger is better. Making is timed, scoring is not.

    control: the plain way, in words.
    seeds: that the figures are of, from the first seed on; None for those of the command.
    of_time: what is made is itself a figure of time, one for each round.
    asked: how many times the plain way's figure the claim asks for.
    unit: of which there is a figure each: the deviation of the mean is over these.
    plain_evaluations: of a plain way that has a number of its own.
    has_longer: whether the plain way stands at equal time too. Between two plans equal
        evaluations are equal time.
    """

    system: str
    claim: str
    control: str
    figure: str
    evaluations: int
    ours: Way
    plain: PlainWay
    score: Callable[[Setting, Floats], Floats]
    models: tuple[str, ...] = SHIPPED
    seeds: int | None = None
    of_time: bool = False
    asked: float | None = None
    unit: str = "seed"
    plain_evaluations: int | None = None
    has_longer: bool = True
    guidance: float = W


@dataclass(frozen=True)
class Figure:
    """A figure of many samples: its name, its score, of what there is one each, and of how many seeds."""

    name: str
    score: Callable[[Setting, Floats], Floats]
    unit: str = "seed"
    seeds: int | None = MANY


FD = Figure("-FD", scores.likeness, "an eighth of the samples, jackknifed")
CLEAN = Figure("PSNR to clean", scores.to_clean)
SOUND = Figure("SI-SDR", scores.si_sdr, seeds=None)
OTHER = Figure("the item, in another colour", scores.other_colour)
NEAR = Figure("PSNR to the teacher", scores.to_teacher, seeds=None)


@cache
def plan(name: str, guidance: Guidance | float | None = None) -> Way:
    """One way for each plan, whose samples claims share."""
    return lambda s: s.sample(name, guidance=guidance)


@cache
def nearest(solver: str, steps: int) -> Way:
    """A guided solver on the one of `GRIDS` that comes nearest to the teacher on seeds apart."""
    ways = [plan(f"{solver}:{steps}@{grid}", W) for grid in GRIDS]
    best = cache(lambda apart: max(ways, key=lambda each: scores.to_teacher(apart, each(apart)).mean()))
    return lambda s: best(replace(s, seeds=APART))(s)


@cache
def always(way: Way) -> PlainWay:
    """A plain way of one number of evaluations."""
    return lambda s, n: way(s)


def claims(
    system: str,
    claim: str,
    evaluations: int,
    ours: Way,
    models: tuple[str, ...],
    controls: Mapping[str, tuple[int, Way]],
    figures: Sequence[Figure] = (FD,),
    guidance: float = W,
) -> list[Claim]:
    """One plan next to others, each with its own number of evaluations: equal ones are equal time."""
    return [
        Claim(
            *(system, claim, control, figure.name, evaluations, ours, always(theirs), figure.score, models),
            seeds=figure.seeds, unit=figure.unit, plain_evaluations=of_theirs, has_longer=False, guidance=guidance,
        )
        for control, (of_theirs, theirs) in controls.items()
        for figure in figures
    ]  # fmt: skip
