"""Whether a figure of samples gets better with more steps of a network's own sampler. If not, it judges no claim.

A network that was trained too little can be nearer to the data in few steps than in many. Its figures then reward the
errors of solvers.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

import msgspec

from benchmarks.distance_to_data import CERTAIN, mean_and_error
from fewstep.measure.rollouts.metrics import Floats
from lab.claims import scores
from lab.claims.claim import CLEAN, FD, LOG_P, SOUND, Claim
from lab.claims.settings import Setting

FEW, MANY = "ddim:20", "ddim:50"
SEEDS = 128
PUBLISHED = {  # few and many steps of the published sampler of a restorer; ResShift's schedule has 15 steps
    "nafnet_residual": ("resshift:4", "resshift:15"),
    "speech_ncsn": ("sgmse:10@linspace", "sgmse:30@linspace"),
}
BY_FIGURE: dict[str, Callable[[Setting, Floats], Floats]] = {  # figures whose best value is that of the data
    FD.name: scores.likeness,
    LOG_P: scores.reward,
    CLEAN.name: scores.to_clean,
    SOUND.name: scores.si_sdr,
}


class Direction(msgspec.Struct, frozen=True):
    """How much a figure gains from few to many steps of a network's sampler, with its standard error.

    network: the model of the claim, or the network that the claim has in its place.
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
    def key(self) -> tuple[str, str, float | None]:
        return self.network, self.figure, self.guidance

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


def key_of(model: str, claim: Claim) -> tuple[str, str, float | None]:
    """Return the network, the figure and the guidance by which a claim of a model needs a direction."""
    if claim.network is not None:
        return claim.network.name, claim.figure, None
    return model, claim.figure, None if model in PUBLISHED else claim.guidance


def measure_direction(model: str, setting: Setting, claim: Claim, seeds: int = SEEDS) -> Direction:
    """Measure a claim's figure along few and many steps from the same noise, for this number of seeds."""
    s = replace(setting, seeds=range(setting.seeds.start, setting.seeds.start + seeds))
    network, figure, guidance = key_of(model, claim)
    if claim.network is None:
        few, many = PUBLISHED.get(model, (FEW, MANY))
        made = [_samples(s, plan, guidance) for plan in (few, many)]
    else:
        few, many = claim.network.few, claim.network.many
        made = [claim.network.sample(s, plan) for plan in (few, many)]
    by_few, by_many = (BY_FIGURE[figure](s, x) for x in made)
    gain, error = mean_and_error(by_many - by_few)
    return Direction(network, figure, guidance, few, many, seeds, float(by_few.mean()), gain, error)


@cache
def _samples(s: Setting, plan: str, guidance: float | None) -> Floats:
    """Return samples that the figures of a network share."""
    return s.sample(plan, guidance=guidance)


def find_direction(directions: Iterable[Direction], model: str, claim: Claim) -> Direction | None:
    """Return the stored direction for a claim of a model, if any."""
    return next((each for each in directions if each.key == key_of(model, claim)), None)


def prefer_more_seeds(direction: Direction, known: Iterable[Direction]) -> Direction:
    """Return the direction of the most seeds among this one and the known ones of its figure and network, from the same
    few to the same many steps."""
    alike = (
        each for each in known if (*each.key, each.few, each.many) == (*direction.key, direction.few, direction.many)
    )
    return max((direction, *alike), key=lambda each: each.seeds)
