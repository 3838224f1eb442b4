"""A token plan is a sampler of masked denoisers as a table of numbers, compiled ahead of time and run by one executor.

The state of a sample is its tokens. Some positions are open: the network receives the vocabulary's mask id there. A
step evaluates the network, draws a candidate for each open position, scores the candidates, and reveals some of them:

    log q  = sum_b weights_b log softmax(logits_b) / temperature       normalised, without the mask id
    token ~ q                                                          one uniform per position; argmax at temperature 0
    score  = log max q | log q(token) | margin | -entropy | random, - penalty * codebook + noise * Gumbel
    reveal   each with probability `chance`; or the `reveal` highest scores, those with q(token) above `threshold`, and
             the highest scores whose entropies sum to less than `bound` (at least one)
    again    revealed positions become open again with this probability

The masked share m takes the place of sigma, and 1 - m that of alpha: lambda = log((1 - m) / m), as on the schedule
`flow`. So range groups and intervals of lambda have the same meaning for token plans as for other plans.
`compile_tokens.py` compiles the names of `samplers.py`, and `fewstep.runtime.sampling.tokens` runs the plans.
"""

import math
from typing import ClassVar, Literal

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, Guidance
from fewstep.plans.plan import Bank, Fitted, Tensor
from fewstep.plans.spec import Prediction, Strict

SCHEMA = 1  # schema of token plans
COLDEST = 1e-30  # the lowest temperature above 0: float32 logits divided by it remain finite
USUAL = "maskgit:8"  # the default plan of a token denoiser
LOGITS: Literal["logits"] = "logits"  # the prediction of a token denoiser
IDS = "ids"  # the given tensor of a token plan: known tokens, and -1 for open positions

Score = Literal["probability", "drawn", "margin", "entropy", "random"]


class TokenStep(Strict, frozen=True, omit_defaults=True):
    """One evaluation, and the rule by which it reveals positions: see the module's documentation.

    reveal: the number of positions that it reveals, of a sample that begins with all positions open. In a sample with
        known tokens it reveals the same share.
    score: "probability" is that of the most likely token, "drawn" that of the candidate. "margin" is the difference of
        the two most likely tokens.
    noise: the temperature of Gumbel noise on the score.
    penalty: a number that is subtracted from the score once for each codebook before the position's own (first axis).
    positions: (first, last) along the last axis, `last` excluded, of the positions that may change; None is all.
    weights: the weights of the branches in the guided log-probabilities. They sum to 1.
    """

    reveal: int = 0
    score: Score = "probability"
    temperature: float = 1.0
    noise: float = 0.0
    penalty: float = 0.0
    chance: float | None = None
    threshold: float | None = None
    bound: float | None = None  # nats
    again: float = 0.0
    positions: tuple[int, int] | None = None
    network: Literal["denoiser"] = "denoiser"  # a bundle of tokens has only one network
    time: float = 0.0
    to: None = None
    lam: float | None = None
    group: int = 0
    branches: tuple[str, ...] = (COND,)
    weights: tuple[float, ...] = (1.0,)


class TokenPlan(Strict, frozen=True, omit_defaults=True):
    """A compiled token sampler, for samples of `shape` ([T], or [codebooks, T]).

    schedule: the fingerprint of the noise schedule that it was compiled for.
    vocabulary: the number of ids.
    """

    schema: int
    name: str
    schedule: str
    vocabulary: int
    shape: tuple[int, ...]
    guidance: Guidance | None
    steps: tuple[TokenStep, ...]

    prediction: ClassVar[Prediction] = LOGITS
    rows: ClassVar[int] = 1  # the state is only the ids
    given: ClassVar[tuple[str, ...]] = ()  # known tokens are an optional argument of every run
    banks: ClassVar[tuple[Bank, ...]] = ()
    tensors: ClassVar[tuple[Tensor, ...]] = ()
    fitted: ClassVar[Fitted | None] = None
    tail_of: ClassVar[str | None] = None  # `tail` takes no token plan
    is_stochastic: ClassVar[bool] = True

    @property
    def is_counted(self) -> bool:
        """True if every sample needs all evaluations. Otherwise a sample may finish early, or a step reveal nothing."""
        return all(step.reveal and step.threshold is None and step.bound is None for step in self.steps)


def is_token_plan(data: bytes) -> bool:
    """True if a plan's JSON is a token plan."""
    try:
        return "vocabulary" in msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        return False


def decode_tokens(data: bytes, source: str = "plan") -> TokenPlan:
    """Decode a token plan from JSON and check it. Raises UserError, in which `source` names the plan."""
    fix = "compile it again (a plan NAME:STEPS needs no file)"
    try:
        plan = msgspec.json.decode(data, type=TokenPlan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is not a token plan: {error}", fix) from None
    if problem := token_plan_problem(plan):
        raise UserError(f"{source} is damaged: {problem}", fix)
    return plan


def token_plan_problem(plan: TokenPlan) -> str | None:
    """Return what is wrong with a token plan, as text that follows the plan's name, or None if nothing is."""
    if plan.schema != SCHEMA:
        return f"it has schema {plan.schema}, this version reads {SCHEMA}"
    if not plan.steps or not plan.shape or min(plan.shape) < 1 or plan.vocabulary < 2:
        return "it has no steps, no positions or no vocabulary"
    for number, step in enumerate(plan.steps):
        rules = (step.chance, step.threshold, step.bound)
        first, last = step.positions or (0, plan.shape[-1])
        numbers = (*step.weights, step.temperature, step.noise, step.penalty, step.time, step.lam or 0.0, step.again)
        if not all(map(math.isfinite, (*numbers, *(rule for rule in rules if rule is not None)))):
            return f"steps[{number}] holds a number that is not finite"
        if step.reveal < 0 or step.group < 0 or (step.reveal == 0 and rules == (None, None, None)):
            return f"steps[{number}] reveals nothing"
        if min(step.temperature, step.noise, step.bound or 0) < 0:
            return f"steps[{number}] has a temperature, a noise or a bound below 0"
        if 0 < step.temperature < COLDEST:
            return f"steps[{number}] has a temperature of {step.temperature:g}, between 0 and {COLDEST:g}"
        if not all(0 <= (rule or 0) <= 1 for rule in (step.again, step.chance, step.threshold)):
            return f"steps[{number}] has a chance or a threshold outside 0 to 1"
        if step.bound is not None and step.score != "entropy":
            return f"steps[{number}] has a bound of entropies, but its score is {step.score}"
        if not 0 <= first < last <= plan.shape[-1]:
            return f"steps[{number}] is for the positions {first} to {last} of {plan.shape[-1]}"
        if not step.branches or len(set(step.branches)) < len(step.branches) or len(step.branches) != len(step.weights):
            return f"steps[{number}] has the branches {list(step.branches)} and {len(step.weights)} weights"
        if abs(math.fsum(step.weights) - 1) > 1e-9 * max(map(abs, step.weights)):
            return f"steps[{number}] has weights that do not sum to 1"
    for first, last in {step.positions or (0, plan.shape[-1]) for step in plan.steps}:
        revealed = sum(step.reveal for step in plan.steps if (step.positions or (0, plan.shape[-1])) == (first, last))
        if revealed > (count := math.prod(plan.shape[:-1]) * (last - first)):
            return f"its steps reveal {revealed} of {count} positions"
    return None
