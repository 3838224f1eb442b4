"""Whether a figure of data gets better with more steps: of a network's own sampler, of a system's, and of its
control's. If it surely gets worse along one of them, it does not judge the claim.

A network that was trained too little can be nearer to the data in few steps than in many. Its figures then reward the
errors of solvers.
"""

from collections.abc import Callable, Iterable

import msgspec

from benchmarks.distance_to_data import CERTAIN, mean_and_error
from fewstep.measure.rollouts.metrics import Floats
from lab.claims import scores
from lab.claims.claim import CLEAN, FD, LOG_P, SEAMS, SOUND, Claim, StepPair, step_pair
from lab.claims.settings import Setting
from lab.claims.shared_samples import sample_first, take_seeds

FEW, MANY = "ddim:20", "ddim:50"
SEEDS = 128
PUBLISHED = {  # few and many steps of the published sampler of a restorer; ResShift's schedule has 15 steps
    "nafnet_residual": step_pair("resshift:4", "resshift:15"),
    "speech_ncsn": step_pair("sgmse:10@linspace", "sgmse:30@linspace"),
}
BY_FIGURE: dict[str, Callable[[Setting, Floats], Floats]] = {  # figures whose best value is that of the data
    FD.name: scores.likeness,
    LOG_P: scores.reward,
    CLEAN.name: scores.to_clean,
    SOUND.name: scores.si_sdr,
    SEAMS: scores.seams,
}
Key = tuple[str, str, float | None, str, str]  # network, figure, guidance, few, many


class Direction(msgspec.Struct, frozen=True):
    """How much a figure gains from few to many steps of a sampler, with its standard error.

    network: the model of the claim, or the network that the claim has in its place, and what differs from a plain run.
    guidance: the weight of guidance of both; None for restorers.
    """

    network: str
    figure: str
    guidance: float | None
    few: str
    many: str
    seeds: int
    figure_of_few: float
    gain: float
    error: float

    @property
    def key(self) -> Key:
        return self.network, self.figure, self.guidance, self.few, self.many

    @property
    def is_wrong(self) -> bool:
        """Whether many steps are surely worse."""
        return -self.gain > CERTAIN * self.error

    def __str__(self) -> str:
        guidance = "" if self.guidance is None else f" with guidance {self.guidance:g}"
        return (
            f"{self.figure} of {self.network}{guidance} is {self.figure_of_few:.2f} along {self.few} and"
            f" {self.figure_of_few + self.gain:.2f} along {self.many}"
        )


def needs_direction(claim: Claim) -> bool:
    """Return whether more steps have to be better by a claim's figure. They need not be if a search looks for the
    largest figure, and its control has as many steps or the best number of them: the figure is the aim then and no
    measure of quality."""
    return claim.figure in BY_FIGURE and not (claim.search is not None and claim.search.has_equal_steps)


def pairs_of(model: str, claim: Claim) -> list[StepPair]:
    """Return the samplers along which a claim of a model needs a direction: the network's own, ours, and that of the
    control. Raises ValueError if the claim does not name what is compared."""
    if not needs_direction(claim):
        return []
    if claim.compared is None:
        raise ValueError(f"{claim.system}, {claim.control}: a figure of data, and no samplers that are compared")
    own = claim.network or PUBLISHED.get(model) or step_pair(FEW, MANY, claim.guidance)
    pairs = (own, *(each for each in claim.compared if each is not None))
    return list({key_of(model, claim.figure, pair): pair for pair in pairs}.values())


def key_of(model: str, figure: str, pair: StepPair) -> Key:
    """Return what names the direction of a figure along a sampler, for a claim of this model."""
    return pair.name_of(model), figure, pair.guidance, pair.few, pair.many


def measure_direction(model: str, setting: Setting, claim: Claim, pair: StepPair, seeds: int = SEEDS) -> Direction:
    """Measure a claim's figure along few and many steps from the same noise, for this number of seeds."""
    few = sample_first(setting, pair.of_few, seeds, claim.seeds or len(setting.seeds))
    many = sample_first(setting, pair.of_many, seeds, seeds)
    by_few, by_many = (BY_FIGURE[claim.figure](take_seeds(setting, seeds), x) for x in (few, many))
    gain, error = mean_and_error(by_many - by_few)
    of = key_of(model, claim.figure, pair)
    return Direction(*of, seeds, float(by_few.mean()), gain, error)


def prefer_more_seeds(direction: Direction, known: Iterable[Direction]) -> Direction:
    """Return the direction of the most seeds among this one and the known ones of its figure and sampler."""
    alike = (each for each in known if each.key == direction.key)
    return max((direction, *alike), key=lambda each: each.seeds)
