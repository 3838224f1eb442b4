"""A claim about a system: the figure, the system's way of sampling, and the plain way that could refute the claim."""

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
MANY = 256  # number of seeds for a distance between distributions
LOG_P = "log p(class)"
MORE_STEPS = "the best of 10, 20 and 40 steps"  # a control of searches, with as many evaluations at most
ITSELF = "the same in float32"  # a control for int8, which does not compete with the system
OF_ITS_PLAN = "best of N along ddpm"  # the authors' control; along `ddim` the best of N is better


@dataclass(frozen=True)
class Network:
    """A network that a claim has in place of its model's, with few and many steps of the sampler that it judges."""

    name: str
    few: str
    many: str
    sample: Callable[[Setting, str], Floats]


@dataclass(frozen=True)
class Search:
    """A search for samples with the largest figure, which is its aim and no measure of their quality.

    steps: number of steps of each sample.
    plain_steps: numbers of steps from which the plain way has the best one.
    """

    steps: int
    plain_steps: tuple[int, ...]

    @property
    def has_equal_steps(self) -> bool:
        """Whether the plain way may have as many steps as the search. Otherwise the number of steps is also compared,
        by a figure that may get worse with steps."""
        return self.steps in self.plain_steps


@dataclass(frozen=True)
class Claim:
    """A system and the plain way, each with a number of evaluations per sample. `score` returns the figures of the
    samples, one for each seed or a fixed number; larger is better. Only sampling is timed, not scoring.

    control: the plain way, in words.
    seeds: number of seeds that the figures use; None for the number of the command line.
    of_time: the result is itself a figure of time, one for each round.
    asked: the claimed factor over the figure of the plain way.
    unit: what each figure is for; the standard error of the mean is computed over these.
    plain_evaluations: evaluations of the plain way, if it cannot use the same number.
    guidance: the weight of guidance of the samples, for which the figure must get better with steps.
    network: the one whose figure must get better with steps; None for that of the model.
    search: the steps of a search and of its plain way; None if the system does not look for the largest figure.
    has_longer: whether the plain way is also measured at equal time. For two plans of the same network, equal
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
    guidance: float = 1.0
    search: Search | None = None
    network: Network | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of many samples: its name, its score, the unit of its values, and the number of seeds."""

    name: str
    score: Callable[[Setting, Floats], Floats]
    unit: str = "seed"
    seeds: int | None = MANY


FD = Figure("-FD", scores.likeness, "an eighth of the samples, jackknifed")
CLEAN = Figure("PSNR to clean", scores.to_clean)
SOUND = Figure("SI-SDR", scores.si_sdr, seeds=None)
OTHER = Figure("the item, in another colour", scores.other_colour)


@cache
def near(guidance: float | None = W) -> Figure:
    """Return the figure of samples that should be those of the teacher with this guidance."""
    return Figure("PSNR to the teacher", scores.to_teacher(guidance), seeds=None)


@cache
def alike(guidance: float | None) -> Figure:
    """Return the figure of samples that should have the distribution of the teacher's with this guidance."""
    return Figure("-FD to the teacher", scores.teacher_distance(guidance), "an eighth of the samples, jackknifed")


@cache
def plan(name: str, guidance: Guidance | float | None = None) -> Way:
    """Return one way for each plan. Claims with the same plan share its samples."""
    return lambda s: s.sample(name, guidance=guidance)


@cache
def nearest(solver: str, steps: int) -> Way:
    """Return the way of a guided solver on the one of `GRIDS` that is closest to the teacher on separate seeds."""
    return choose_way([plan(f"{solver}:{steps}@{grid}", W) for grid in GRIDS], lambda s, x: scores.to_teacher()(s, x))


def choose_way(ways: Sequence[Way], score: scores.Score) -> Way:
    """Return the way whose samples have the largest mean figure on separate seeds."""
    best = cache(lambda apart: max(ways, key=lambda each: score(apart, each(apart)).mean()))
    return lambda s: best(replace(s, seeds=APART))(s)


@cache
def always(way: Way) -> PlainWay:
    """Return a plain way with a fixed number of evaluations."""
    return lambda s, n: way(s)


def claims(
    system: str,
    claim: str,
    evaluations: int,
    ours: Way,
    models: tuple[str, ...],
    controls: Mapping[str, tuple[int, Way]],
    figures: Sequence[Figure] = (FD,),
    guidance: float = 1.0,
    network: Network | None = None,
) -> list[Claim]:
    """Return the claims that compare one plan with others, each with its number of evaluations. Equal evaluations are
    equal time."""
    return [
        Claim(
            *(system, claim, control, figure.name, evaluations, ours, always(theirs), figure.score, models),
            seeds=figure.seeds, unit=figure.unit, plain_evaluations=of_theirs, has_longer=False, guidance=guidance,
            network=network,
        )
        for control, (of_theirs, theirs) in controls.items()
        for figure in figures
    ]  # fmt: skip
