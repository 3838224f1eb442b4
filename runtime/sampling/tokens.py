"""The executor of token plans on numpy arrays. It draws tokens, reveals positions in order, and skips evaluations that
a step does not need.

All numbers of a sample are computed in float64, from its logits and from uniform draws that are functions of its seed,
the step and the position. A sample is therefore bitwise identical in any batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans import noise
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.tokens.plan import TokenPlan, TokenStep

Ids = NDArray[np.int64]
Float64 = NDArray[np.float64]
TokenNetwork = Callable[[int, TokenStep, Ids], NDArray[np.float32]]
CHANCES = 3  # the draws of a step, for tokens, for the order, and for positions that are masked again
EVEN = 2.0**32  # scores are rounded to multiples of 1 / EVEN, since summation order and processor change them by less
AT_ONCE = 2**17  # number of probabilities computed at once, few enough for a core's cache


class TokenState(msgspec.Struct, frozen=True):
    """A step and its result. `u` are the network's input ids; `ids` [B, *shape] hold the mask id where `is_open`.

    `is_evaluated`: whether the network ran. It does not run if there is nothing to reveal, or if the logits of an
    earlier step still apply.
    """

    index: int
    step: TokenStep
    u: Ids
    ids: Ids
    is_open: NDArray[np.bool_]
    is_evaluated: bool
    before: ClassVar[tuple[()]] = ()  # no rows or outputs that may not be finite
    outputs: ClassVar[tuple[()]] = ()
    after: ClassVar[tuple[()]] = ()
    slots: ClassVar[None] = None  # token denoisers carry no tensors

    def sample(self, plan: AnyPlan, hold: None = None) -> Ids:
        """Return the tokens [B, *shape] at the end of a run. Raises UserError if positions are still masked."""
        if self.is_open.any():
            fix = "use a plan whose last step reveals all positions"
            raise UserError(f"plan {plan.name!r} leaves {self.is_open.sum()} positions masked", fix)
        return self.ids


class Candidates(msgspec.Struct, frozen=True):
    """The tokens proposed for M masked positions: their ids, scores before noise is added, and probabilities, each
    [M]."""

    ids: Ids
    score: Float64
    probability: Float64


def execute_tokens(
    plan: TokenPlan,
    network: TokenNetwork,
    seeds: Sequence[int],
    mask: int,
    known: Ids | None = None,
    reads_time: bool = True,
) -> Iterator[TokenState]:
    """Run a token plan. Yields one `TokenState` per step.

    Args:
        network: `network(index, step, ids)` -> logits [branches * B, *shape, V] for ids [B, *shape].
        mask: the id at masked positions. Its logit, if it has one, is ignored.
        known: tokens [B, *shape] that do not change, with -1 at masked positions.
        reads_time: whether the network reads the time. If it does not, its logits stay valid while the ids do not
            change.
    """
    ids = np.full((len(seeds), *plan.shape), -1, np.int64) if known is None else known.copy()
    is_open = ids < 0
    ids[is_open] = mask
    is_known, counts = ~is_open, _counts(plan, is_open)
    logits, evaluated_at = None, None
    for index, step in enumerate(plan.steps):
        some = _may_change(plan, step) & is_open
        count = counts[index]
        has_rule = (step.chance, step.threshold, step.bound) != (None, None, None)
        is_needed = some.any() and (count.any() or has_rule)
        evaluation = (step.branches, step.group, step.time if reads_time else None)
        is_evaluated = bool(is_needed) and (logits is None or evaluation != evaluated_at)
        if is_evaluated:
            logits, evaluated_at = network(index, step, ids), evaluation
        before = ids
        if is_needed and logits is not None:
            ids, is_open = advance(plan, index, ids, some, is_open, logits, count, seeds, mask)
        if step.again:
            fresh = noise.uniforms(seeds, CHANCES * index + 2, ids[0].size).reshape(ids.shape) < step.again
            fresh &= ~is_known & (before != mask)
            ids, is_open = np.where(fresh, mask, ids), is_open | fresh
        if not np.array_equal(ids, before):
            evaluated_at = None
        yield TokenState(index, step, before, ids, is_open, is_evaluated)


def finish_tokens(plan: TokenPlan, states: Iterable[TokenState]) -> Ids:
    """Run to the end and return the tokens [B, *shape]. Raises UserError if positions are still masked."""
    (last,) = deque(states, maxlen=1)
    return last.sample(plan)


def chances_of(index: int, step: TokenStep) -> tuple[int, ...]:
    """Return the numbers of the draws of uniform random numbers that a step reads."""
    has_order = step.chance is not None or step.noise > 0 or step.score == "random"
    reads = (step.temperature > 0, has_order, step.again > 0)
    return tuple(CHANCES * index + kind for kind, is_read in enumerate(reads) if is_read)


def advance(
    plan: TokenPlan,
    index: int,
    ids: Ids,
    some: NDArray[np.bool_],
    is_open: NDArray[np.bool_],
    logits: NDArray[np.float32],
    count: NDArray[np.int64],
    seeds: Sequence[int],
    mask: int,
) -> tuple[Ids, NDArray[np.bool_]]:
    """Return the tokens, and which positions are still masked, after step `index`.

    The step may reveal only the positions `some`. In each sample it reveals at least `count` [B] of them; a step with a
    `chance` reveals each with that probability instead.
    """
    step = plan.steps[index]
    chances = noise.uniforms(seeds, CHANCES * index, some[0].size).reshape(some.shape)
    made = _candidates(step, logits.reshape(len(step.branches), *ids.shape, -1), some, chances[some], mask)
    order = chances
    if CHANCES * index + 1 in chances_of(index, step):
        order = noise.uniforms(seeds, CHANCES * index + 1, some[0].size).reshape(some.shape)
    score = np.full(some.shape, -np.inf)
    if step.score == "random":
        score[some] = order[some]
    else:
        axes = len(plan.shape) - 1  # a shape of one axis has one codebook
        books = np.broadcast_to(np.arange(plan.shape[0]).reshape(-1, *[1] * axes) if axes else 0, some.shape)
        gumbel = -np.log(-np.log(order[some])) if step.noise else 0.0
        score[some] = np.rint(EVEN * (made.score - step.penalty * books[some] + step.noise * gumbel)) / EVEN
    probability = np.zeros(some.shape)
    probability[some] = made.probability
    shown = (
        some & (order < step.chance)
        if step.chance is not None
        else _top_positions(step, score, probability, some, count)
    )
    token = np.full(ids.shape, mask, np.int64)
    token[some] = made.ids
    return np.where(shown, token, ids), is_open & ~shown


def _top_positions(
    step: TokenStep, score: Float64, probability: Float64, some: NDArray[np.bool_], count: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the positions that a step reveals in the order of their scores."""
    flat = score.reshape(len(score), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], 1)
    least = count
    if step.bound is not None:  # scores are entropies, and infinite where nothing is open
        sums = np.cumsum(-np.take_along_axis(flat, order, 1), 1)
        least = np.maximum(count, np.maximum(1, (sums < step.bound).sum(1)))
    shown = (ranks < least[:, None]).reshape(some.shape)
    if step.threshold is not None:
        shown |= probability > step.threshold
    return shown & some


def _candidates(
    step: TokenStep, logits: NDArray[np.float32], some: NDArray[np.bool_], chances: Float64, mask: int
) -> Candidates:
    """Draw a candidate for each of the positions `some` from logits [branches, B, *shape, V], a few at a time."""
    places, size = np.argwhere(some), max(1, AT_ONCE // logits.shape[-1])
    parts = []
    for start in range(0, len(places), size):
        rows = logits[(slice(None), *places[start : start + size].T)].astype(np.float64)
        if not np.isfinite(rows).all():
            raise UserError("the denoiser's logits are not finite", "check its weights and conditions")
        parts.append(_draw_tokens(step, guide_log_probs(step, rows, mask), chances[start : start + size]))
    return Candidates(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Candidates.__struct_fields__)
    )


def guide_log_probs(step: TokenStep, rows: Float64, mask: int) -> Float64:
    """Return the logarithms of guided probabilities [M, V] for logits [branches, M, V]."""
    if mask < rows.shape[-1]:
        rows[..., mask] = -np.inf
    if len(rows) == 1:
        return _log_softmax(rows[0])
    with np.errstate(invalid="ignore"):  # infinity minus infinity at the mask id
        mixed = np.zeros(rows.shape[1:])
        for weight, row in zip(step.weights, rows, strict=True):
            mixed += weight * _log_softmax(row)
    if mask < rows.shape[-1]:
        mixed[:, mask] = -np.inf
    return _log_softmax(mixed)


def _draw_tokens(step: TokenStep, logs: Float64, chances: Float64) -> Candidates:
    """Draw a token for each position by inverse CDF, and return it with its score and probability."""
    every = np.arange(len(logs))
    if step.temperature not in (0.0, 1.0):
        logs = _log_softmax(logs / step.temperature)
    if step.temperature == 0.0:
        ids = logs.argmax(1)
    else:
        share = np.exp(logs)
        sums = share.cumsum(1)
        last = share.shape[1] - 1 - (share[:, ::-1] > 0).argmax(1)
        ids = np.minimum((sums <= (chances * sums[:, -1])[:, None]).sum(1), last)
    probability = np.exp(logs[every, ids])
    if step.score == "probability":
        score = logs.max(1)
    elif step.score == "margin":
        ends = np.exp(np.partition(logs, -2, axis=1)[:, -2:])
        score = ends[:, 1] - ends[:, 0]
    elif step.score == "entropy":
        score = (np.exp(logs) * np.where(np.isfinite(logs), logs, 0.0)).sum(1)
    else:
        score = logs[every, ids]
    return Candidates(ids, score, probability)


def _log_softmax(rows: Float64) -> Float64:
    shifted = rows - rows.max(-1, keepdims=True)
    normalised: Float64 = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


def _may_change(plan: TokenPlan, step: TokenStep) -> NDArray[np.bool_]:
    """Return the positions [*shape] that a step may reveal."""
    first, last = step.positions or (0, plan.shape[-1])
    places = np.arange(plan.shape[-1])
    return np.broadcast_to((places >= first) & (places < last), plan.shape)


def _counts(plan: TokenPlan, is_open: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the minimum number of positions [B] that each step reveals in each sample.

    If all positions are masked at the start, these are the numbers in the plan. If some tokens are known, they are
    reduced in proportion.
    """
    totals: dict[tuple[int, int] | None, int] = {}
    for step in plan.steps:
        totals[step.positions] = totals.get(step.positions, 0) + step.reveal
    left, counts = dict(totals), []
    axes = tuple(range(1, is_open.ndim))
    for step in plan.steps:
        opened, total = (_may_change(plan, step) & is_open).sum(axes), max(totals[step.positions], 1)
        after = left[step.positions] - step.reveal
        counts.append(left[step.positions] * opened // total - after * opened // total)
        left[step.positions] = after
    return counts
