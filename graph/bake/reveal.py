"""A step of a token plan in ONNX: candidate tokens, their scores, and which positions are revealed.

The rule is that of `fewstep.runtime.sampling.tokens.advance`, in float64. Both round scores to multiples of 2**-32, so
that an engine whose sums differ in the last bit orders positions in the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from fewstep.graph.bake.draws import Draws
from fewstep.graph.bake.run_setup import INT64, add_limit_check, add_refusal
from fewstep.graph.bake.step_alignment import StepRange, branch_ranges
from fewstep.graph.bake.step_numbers import StepNumbers
from fewstep.graph.builder import Builder
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.tokens.plan import IDS, TokenStep
from fewstep.runtime.bundle.manifest import Condition, Vocabulary
from fewstep.runtime.sampling.tokens import CHANCES, EVEN, chances_of

DOUBLE = 11  # ONNX's number of the type
BEGINS_OPEN = "begins_open"  # tensor of the outer graph: the positions that are open at the start of a run


def align_token_steps(steps: Sequence[TokenStep]) -> StepRange | None:
    """Return token steps as one range if all have the same rule and their branches in the same order, otherwise None.
    Such a range needs no common columns, since all its steps read the same tensors."""
    branches, first, count = branch_ranges(steps)
    is_one = -1 not in first and len({_rule(step) for step in steps}) == 1
    return StepRange(tuple(steps), branches, first, count, 1) if is_one else None


def _rule(step: TokenStep) -> tuple[object, ...]:
    """Return the properties of a token step on which the operations of its graph depend. Steps that differ only in the
    values of their numbers have equal properties."""
    rules = (step.chance, step.threshold, step.bound)
    return step.score, step.temperature == 0, *(rule is None for rule in rules)


def begin_tokens(outer: Builder, vocabulary: Vocabulary, known: str) -> str:
    """Add the nodes that compute the ids [B, *shape] before the first step from the known tokens, which are -1 at
    masked positions. Return the name of the ids. The mask id is not a valid known token, and is refused like any other
    invalid id."""
    mask, zero, none = (outer.constant(np.array(each, np.int64), f"id_{each}") for each in (vocabulary.mask, 0, -2))
    no_mask = outer.node("Where", (outer.node("Equal", (known, mask), "is_given_mask"), none, known), "known_or_none")
    tokens = add_limit_check(outer, Condition(IDS, IDS, low=-1, high=vocabulary.size - 1), no_mask)
    ids = outer.node("Where", (outer.node("Less", (tokens, zero), "is_unknown"), mask, tokens), "first_ids")
    outer.node("Equal", (ids, mask), BEGINS_OPEN)
    return ids


def add_chance_check(outer: Builder, draws: str) -> str:
    """Add nodes that return the uniform random numbers [D, B, *shape] unchanged, or fail for a value outside (0, 1),
    since 1 would draw an id beyond the vocabulary. Return the name of the result."""
    ends = [outer.constant(np.array(float(end)), f"chance_of_{end}") for end in (0, 1)]
    tests = [outer.node(op, (draws, end), op) for op, end in zip(("Greater", "Less"), ends, strict=True)]
    is_wrong = outer.node("Not", (outer.node("And", tests, "are_chances"),), "are_no_chances")
    return add_refusal(outer, is_wrong, draws, "draws_are_between_0_and_1", "float64")


def finish_tokens(outer: Builder, vocabulary: Vocabulary, ids: str) -> str:
    """Add nodes that return the ids after the last step, or fail if a position is still masked (see `add_limit_check`).
    Return the name of the result."""
    mask = outer.constant(np.array(vocabulary.mask, np.int64), f"id_{vocabulary.mask}")
    return add_refusal(outer, outer.node("Equal", (ids, mask), "is_left"), ids, "every_position_is_revealed")


@dataclass(frozen=True)
class Reveal:
    """Adds to a graph the nodes that reveal tokens in a range of steps that begins with step `at`. `draws` is the
    tensor of all chances, in the outer graph."""

    outer: Builder
    inner: Builder
    numbers: StepNumbers
    plan: AnyPlan
    stretch: StepRange
    at: int
    vocabulary: Vocabulary
    draws: Draws

    def advance(self, ids: str, outputs: Sequence[str]) -> str:
        """Add the nodes that compute the ids [B, *shape] after the step from `ids`, those before it, and `outputs`, the
        logits [B, *shape, V] of each branch. Return the name of the result."""
        node, step, steps = self.inner.node, self.step, self.stretch.steps
        mask = self._int64(self.vocabulary.mask)
        is_open = node("Equal", (ids, mask), "is_open")
        begins_open = f"{self.outer.prefix}/{BEGINS_OPEN}"
        some, of_start = (
            self._restrict_mask(each, name) for each, name in ((is_open, "some"), (begins_open, "of_start"))
        )
        order = self._chance(1)
        logs = self._guide_log_probs(outputs)
        is_none = node("IsNaN", (node("Gather", (logs, self._int64(0)), "first_log", axis=-1),), "is_none")
        token = add_refusal(
            self.inner, node("And", (some, is_none), "is_unlikely"), self._token(logs), "logits_are_finite"
        )
        log = ""
        if step.threshold is not None or step.score == "drawn":
            place = node("Unsqueeze", (token, self._int64([-1])), "token_place")
            log = node("Squeeze", (node("GatherElements", (logs, place), "own_log", axis=-1), self._int64([-1])), "own")
        if step.chance is not None:
            shown = node("Less", (order, self.numbers.double([step.chance for step in steps])), "by_chance")
        else:
            shown = self._top_positions(ids, self._score(logs, log, order), some, of_start)
            if step.threshold is not None:
                threshold = self.numbers.double([step.threshold for step in steps])
                sure = node("Greater", (node("Exp", (log,), "own_share"), threshold), "is_sure")
                shown = node("Or", (shown, sure), "ranked_or_sure")
        after = node("Where", (node("And", (shown, some), "shown"), token, ids), "revealed")
        if any(step.again for step in steps):
            again = node("Less", (self._chance(2), self.numbers.double([step.again for step in steps])), "by_again")
            was_drawn = node("And", (begins_open, node("Not", (is_open,), "is_token")), "was_drawn")
            after = node("Where", (node("And", (again, was_drawn), "opens"), mask, after), "opened")
        return after

    @property
    def step(self) -> TokenStep:
        """The first step of the range. The other steps have the same rule with different numbers."""
        first: TokenStep = self.stretch.steps[0]
        return first

    def _restrict_mask(self, mask: str, name: str) -> str:
        """Restrict a mask [B, *shape] to the positions that the step may change."""
        length = self.plan.shape[-1]
        ends = [step.positions or (0, length) for step in self.stretch.steps]
        if all(end == (0, length) for end in ends):
            return mask
        places = self.inner.constant(np.arange(length), "positions")
        first, last = (self.numbers.integer(column) for column in zip(*ends, strict=True))
        tests = [
            self.inner.node(op, (places, end), f"{name}_{op}")
            for op, end in (("GreaterOrEqual", first), ("Less", last))
        ]
        return self.inner.node("And", (mask, self.inner.node("And", tests, f"{name}_block")), name)

    def _chance(self, kind: int) -> str:
        """Add a Gather of the uniform random numbers [B, *shape] of one kind that each step reads. Return its name, or
        "" if no step reads them."""
        wanted = [CHANCES * (self.at + number) + kind for number in range(len(self.stretch.steps))]
        if not any(each in chances_of(self.at + n, self.stretch.steps[n]) for n, each in enumerate(wanted)):
            return ""
        place = self.numbers.scalar(self.draws.places(np.array(wanted)))
        return self.inner.node("Gather", (self.draws.add_all_draws(self.outer), place), f"chance_{kind}", axis=0)

    def _guide_log_probs(self, outputs: Sequence[str]) -> str:
        """Add the nodes that compute log probabilities with guidance and the step's temperature. Return the name of the
        result."""
        node, steps = self.inner.node, self.stretch.steps
        logs = [
            self._log_softmax(node("Cast", (each,), f"logits_{b}", to=DOUBLE), f"logs_{b}")
            for b, each in enumerate(outputs)
        ]
        guided = logs[0]
        if len(logs) > 1:
            own = [dict(zip(step.branches, step.weights, strict=True)) for step in steps]
            row = [
                self.numbers.double([rules_of_step.get(branch, 0.0) for rules_of_step in own])
                for branch in self.stretch.branches
            ]
            guided = self._log_softmax(self.inner.combine(row, logs, "mixed"), "guided")
        heats = [step.temperature for step in steps]
        if {*heats} <= {0.0} or {*heats} == {1.0}:
            return guided
        return self._log_softmax(node("Div", (guided, self.numbers.double(heats)), "heated"), "heated_logs")

    def _log_softmax(self, logits: str, name: str) -> str:
        return self.inner.node("LogSoftmax", (self._set_mask_logit(logits, -math.inf, name),), name, axis=-1)

    def _set_mask_logit(self, rows: str, value: float, name: str) -> str:
        """Set the entry of the mask id in [B, *shape, V] to a value, if the network has a logit for the mask id."""
        if self.vocabulary.mask >= self.vocabulary.size:
            return rows
        is_mask = self.inner.constant(np.arange(self.vocabulary.size) == self.vocabulary.mask, "is_mask")
        return self.inner.node("Where", (is_mask, self._double(value), rows), f"{name}_of_tokens")

    def _token(self, logs: str) -> str:
        """Add the nodes that choose a token for each position: the most likely one at temperature 0, otherwise a random
        one by inverse CDF. Return the name of the result."""
        node = self.inner.node
        if self.step.temperature == 0:
            return node("ArgMax", (logs,), "token", axis=-1, keepdims=0)
        last = self._int64([-1])
        sums = node("CumSum", (node("Exp", (logs,), "share"), self._int64(-1)), "share_sums")
        chance = node("Unsqueeze", (self._chance(0), last), "chance_of_token")
        aim = node("Mul", (chance, node("Gather", (sums, last), "share_sum", axis=-1)), "aim")
        passed = node("Cast", (node("LessOrEqual", (sums, aim), "is_passed"),), "passed", to=INT64)
        return node("ReduceSum", (passed, last), "token", keepdims=0)

    def _score(self, logs: str, log: str, order: str) -> str:
        """Add the nodes that compute the score [B, *shape] of each position, which determines the order in which
        positions are revealed. Return the name of the result."""
        node, steps, last = self.inner.node, self.stretch.steps, self._int64([-1])
        if self.step.score == "random":
            return order
        if self.step.score == "drawn":
            score = log
        elif self.step.score == "probability":
            score = node("ReduceMax", (logs, last), "score", keepdims=0)
        elif self.step.score == "margin":
            two, _ = self.inner.multi_output_node("TopK", (logs, self._int64([2])), ("two", "two_ids"), axis=-1)
            shares = node("Exp", (two,), "two_shares")
            ends = [node("Gather", (shares, self._int64(k)), f"share_{k}", axis=-1) for k in (0, 1)]
            score = node("Sub", ends, "score")
        else:
            finite = self._set_mask_logit(logs, 0.0, "entropy")
            score = node(
                "ReduceSum",
                (node("Mul", (node("Exp", (logs,), "share_of"), finite), "terms"), last),
                "score",
                keepdims=0,
            )
        if len(self.plan.shape) > 1 and any(step.penalty for step in steps):
            books = np.arange(self.plan.shape[0], dtype=np.float64).reshape(-1, *[1] * (len(self.plan.shape) - 1))
            penalty = self.numbers.double([step.penalty for step in steps])
            off = node("Mul", (penalty, self.inner.constant(books, "codebooks")), "penalty")
            score = node("Sub", (score, off), "score_of_codebook")
        if any(step.noise for step in steps):
            inner = node("Neg", (node("Log", (order,), "order_log"),), "order_exponential")
            gumbel = node("Neg", (node("Log", (inner,), "order_double_log"),), "gumbel")
            scale = self.numbers.double([step.noise for step in steps])
            score = node("Add", (score, node("Mul", (scale, gumbel), "score_noise")), "score_with_noise")
        parts = node("Round", (node("Mul", (score, self._double(EVEN)), "score_parts"),), "score_whole_parts")
        return node("Div", (parts, self._double(EVEN)), "score_even")

    def _top_positions(self, ids: str, score: str, some: str, of_start: str) -> str:
        """Add a mask [B, *shape] of the positions with the highest scores, as many as the step reveals. Return its
        name."""
        node, split, one = self.inner.node, self.inner.multi_output_node, self._int64([1])
        size = math.prod(self.plan.shape)
        only = node("Where", (some, score, self._double(-math.inf)), "score_of_some")
        flat = node("Reshape", (only, self._int64([0, -1])), "score_flat")
        best, places = split("TopK", (flat, self._int64([size])), ("best", "best_places"), axis=1)
        every = self.inner.constant(np.arange(size)[None], "every_rank")
        ordered = node("Expand", (every, node("Shape", (places,), "places_shape")), "ranks_in_order")
        ranks = node("ScatterElements", (places, places, ordered), "ranks", axis=1)
        least = self._count(of_start)
        if self.step.bound is not None:
            bound = self.numbers.double([step.bound for step in self.stretch.steps])
            sums = node("CumSum", (node("Neg", (best,), "entropies"), self._int64(1)), "entropy_sums")
            within = node("Cast", (node("Less", (sums, bound), "is_within"),), "within", to=INT64)
            enough = node("ReduceSum", (within, one), "enough", keepdims=1)
            least = node("Max", (least, enough, one), "least")
        shown = node("Less", (ranks, least), "shown_flat")
        return node("Reshape", (shown, node("Shape", (ids,), "ids_shape")), "ranked")

    def _count(self, of_start: str) -> str:
        """Add the nodes that compute how many positions the step reveals at least, [B, 1], by the rule of
        `fewstep.runtime.sampling.tokens._counts`. Return the name of the result."""
        node, steps = self.inner.node, cast("tuple[TokenStep, ...]", self.plan.steps)
        totals = [sum(each.reveal for each in steps if each.positions == step.positions) for step in steps]
        left = [
            sum(each.reveal for each in steps[at:] if each.positions == step.positions) for at, step in enumerate(steps)
        ]
        rows = [(max(totals[at], 1), left[at], left[at] - step.reveal) for at, step in enumerate(steps)]
        total, before, after = zip(*rows[self.at : self.at + len(self.stretch.steps)], strict=True)
        flat = node(
            "Reshape", (node("Cast", (of_start,), "opened_ones", to=INT64), self._int64([0, -1])), "opened_flat"
        )
        opened = node("ReduceSum", (flat, self._int64([1])), "opened", keepdims=1)
        divisor = self.numbers.integer(total)
        shares = [
            node("Div", (node("Mul", (opened, self.numbers.integer(each)), f"{name}_times"), divisor), name)
            for name, each in (("left_before", before), ("left_after", after))
        ]
        return node("Sub", shares, "count")

    def _int64(self, value: int | list[int]) -> str:
        kind, numbers = ("whole", [value]) if isinstance(value, int) else ("wholes", value)
        return self.inner.constant(np.array(value, np.int64), f"{kind}_{'_'.join(map(str, numbers))}")

    def _double(self, value: float) -> str:
        return self.inner.constant(np.array(value), f"double_{value:g}")
