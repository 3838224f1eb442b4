"""How far a body of a token denoiser agrees with float32, as a manifest records it."""

from fewstep.plans.spec import Strict


class TokenAgreement(Strict, frozen=True):
    """How far an int8 body of a token denoiser agrees with float32, at the states of float32's run.

    disagreement: the share of open positions whose likeliest token is another. same: the share of tokens that are the
        same at the end of runs of their own. steps: of each, the disagreement and the mean KL divergence in nats.
    """

    disagreement: float
    same: float
    steps: tuple[tuple[float, float], ...]
