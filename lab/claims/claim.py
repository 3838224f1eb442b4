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
FEW = 128  # the same next to hundreds of steps
LOG_P, SEAMS = "log p(class)", "minus step at borders"
SEARCH_STEPS = 10  # of each sample of a search
MORE_STEPS = "the best of 10, 20 and 40 steps"  # a control of searches, with as many evaluations at most
ITSELF = "the same in float32"  # a control for int8, which does not compete with the system
OF_ITS_PLAN = "best of N along ddpm"  # the authors' control; along `ddim` the best of N is better


@dataclass(frozen=True)
class StepPair:
    """A sampler with few and with many steps. A figure of data that many steps make worse judges nothing along it.

    few, many: the names of both plans.
    of_few, of_many: their ways. The sample of a seed is the same whatever the other seeds are.
    guidance: the weight of guidance of both; None for restorers, and for guidance of another kind.
    network: a network in place of the model's.
    how: what differs from a plain run, in words that follow the name of the network.
    """

    few: str
    many: str
    of_few: Way
    of_many: Way
    guidance: float | None = None
    network: str | None = None
    how: str = ""

    def name_of(self, model: str) -> str:
        """Return the name of the network, for a claim of this model."""
        return f"{self.network or model} {self.how}".rstrip()


Compared = tuple[StepPair | None, StepPair | None]


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
    plain_evaluations: evaluations of the plain way, if it cannot use the same number, or a function that returns them
        for a way that is chosen.
    guidance: the weight of guidance of the samples, for which the figure must get better with steps of the network.
    network: the network's own sampler, whose figure must get better with steps; None for that of the model.
    compared: the samplers of ours and of the plain way, along which the figure must get better too; None for one that
        has no number of steps. Every claim by a figure of data names both.
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
    plain_evaluations: int | Callable[[Setting], int] | None = None
    has_longer: bool = True
    guidance: float = 1.0
    search: Search | None = None
    network: StepPair | None = None
    compared: Compared | None = None


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
def alike_in_many_steps(guidance: float | None) -> Figure:
    """Return the figure of `alike` against a teacher of many steps, which no compared solver with 20 steps equals. Its
    control has up to 1000 steps, so seeds are few."""
    score = scores.teacher_distance(guidance, scores.TEACHER)
    return Figure("-FD to the teacher in 80 steps", score, "an eighth of the samples, jackknifed", FEW)


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
    best = cache(lambda apart: max(ways, key=lambda way: score(apart, way(apart)).mean()))
    return lambda s: best(replace(s, seeds=APART))(s)


@dataclass(frozen=True)
class Always:
    """A plain way with a fixed number of evaluations."""

    way: Way

    def __call__(self, s: Setting, evaluations: int) -> Floats:
        return self.way(s)


def step_pair(few: str, many: str, guidance: float | None = None) -> StepPair:
    """Return the pair of two plans of the model's network."""
    return StepPair(few, many, plan(few, guidance), plan(many, guidance), guidance)


def claims(
    system: str,
    claim: str,
    evaluations: int,
    ours: Way,
    models: tuple[str, ...],
    controls: Mapping[str, tuple[int, Way]],
    figures: Sequence[Figure] = (FD,),
    guidance: float = 1.0,
    network: StepPair | None = None,
    own_steps: StepPair | None = None,
    steps: Mapping[str, StepPair | None] | None = None,
) -> list[Claim]:
    """Return the claims that compare one plan with others, each with its number of evaluations. Equal evaluations are
    equal time.

    own_steps, steps: the samplers of ours and of each control, for figures of data.
    """
    return [
        Claim(
            *(system, claim, control, figure.name, evaluations, ours, Always(theirs), figure.score, models),
            seeds=figure.seeds, unit=figure.unit, plain_evaluations=of_theirs, has_longer=False, guidance=guidance,
            network=network, compared=None if steps is None else (own_steps, steps[control]),
        )
        for control, (of_theirs, theirs) in controls.items()
        for figure in figures
    ]  # fmt: skip
