"""The parts of a baked run that depend on its sample space. `space_builder` returns the builder of a space.

`ContinuousBuilder` adds rows of floats as in `runtime.sampling.execute`, `TokenBuilder` ids as in
`runtime.sampling.tokens`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fewstep.graph.bake.draws import CHANCES, DRAWS, NOISE, Draws, draws_of
from fewstep.graph.bake.metadata import TOKENS, BakedPort
from fewstep.graph.bake.reveal import Reveal, add_chance_check, align_token_steps, begin_tokens, finish_tokens
from fewstep.graph.bake.step_alignment import StepRange, align
from fewstep.graph.bake.step_numbers import StepNumbers
from fewstep.graph.builder import Builder
from fewstep.plans.any_plan import AnyPlan, check_compiled, check_tokens
from fewstep.plans.plan import Plan
from fewstep.plans.tokens.plan import IDS
from fewstep.runtime.kinds.sample_space import SampleSpace, Vocabulary
from fewstep.runtime.sampling.tokens import chances_of

Shape = tuple[int | str, ...]


class StepBuilder(Protocol):
    """The interface of a builder of the graph that a Loop runs for a range of steps (`loop.py`)."""

    inner: Builder
    numbers: StepNumbers
    stretch: StepRange
    at: int

    def outputs(self, u: str) -> list[str]:
        """Evaluate the network on u; return one output per branch and head."""

    def advance(self, plan: Plan, rows: Sequence[str]) -> list[str]:
        """Add the rows of floats after the step."""


class SpaceBuilder(Protocol):
    """What `assemble` needs to build the states of a sample space and the steps of its plans."""

    def find_draws(self, plan: AnyPlan, held: Sequence[int]) -> Draws:
        """Return the noise arrays (draws) that a plan reads, including those for the known part of a sample, `held`."""

    def ports(self, draws: Draws, sample: Shape) -> list[BakedPort]:
        """Return the inputs from which a sample starts, except given tensors."""

    def begin(self, outer: Builder, plan: AnyPlan, draws: Draws, tensors: Mapping[str, str]) -> tuple[list[str], Draws]:
        """Add the nodes that compute the state before the first step. Return the names of its tensors, and the draws
        for later nodes to read. In a token plan these are the outputs of the nodes that check the draws."""

    def align(self, plan: AnyPlan, steps: Sequence[Any]) -> StepRange | None:
        """Return the steps as a range that one Loop can run, or None if they differ too much. A single step is always
        such a range."""

    def advance(self, step: StepBuilder, outer: Builder, plan: AnyPlan, draws: Draws, rows: Sequence[str]) -> list[str]:
        """Add the state after the steps of a range."""

    def finish(self, outer: Builder, plan: AnyPlan, state: Sequence[str]) -> str:
        """Add the nodes that compute the sample from the state after the last step. Return its name."""


class ContinuousBuilder:
    """Builds the parts of a baked graph that are specific to continuous samples."""

    def find_draws(self, plan: AnyPlan, held: Sequence[int]) -> Draws:
        return draws_of(check_compiled(plan), held)

    def ports(self, draws: Draws, sample: Shape) -> list[BakedPort]:
        ports = [BakedPort(NOISE, NOISE, sample, "float32")] if draws.has_noise else []
        return [*ports, *_draws_ports(draws, DRAWS, sample, "float32")]

    def begin(self, outer: Builder, plan: AnyPlan, draws: Draws, tensors: Mapping[str, str]) -> tuple[list[str], Draws]:
        """Add the nodes that compute the initial state, as `runtime.sampling.execute.begin` does. Return the names of
        its rows, and the draws."""
        plan = check_compiled(plan)
        columns = [tensors[name] for name in plan.given]
        columns += [draws.add_draw(outer, number) for number in plan.start_draws]
        state = [outer.combine(row, columns, f"start_{k}") for k, row in enumerate(plan.start)]
        for i, term in enumerate(plan.start_terms):
            tensor = outer.tensor(plan.tensors[term.tensor], term.tensor)
            if term.column is not None:
                tensor = outer.node("Mul", (tensor, columns[term.column]), f"start_tensor_{i}")
            state[term.row] = outer.node("Add", (state[term.row], tensor), f"start_{term.row}_with_tensor_{i}")
        return state, draws

    def align(self, plan: AnyPlan, steps: Sequence[Any]) -> StepRange | None:
        return align(check_compiled(plan), steps)

    def advance(self, step: StepBuilder, outer: Builder, plan: AnyPlan, draws: Draws, rows: Sequence[str]) -> list[str]:
        return step.advance(check_compiled(plan), rows)

    def finish(self, outer: Builder, plan: AnyPlan, state: Sequence[str]) -> str:
        return outer.combine(check_compiled(plan).output, state, "sample")


@dataclass(frozen=True)
class TokenBuilder:
    """Builds the parts of a baked graph that are specific to tokens. Runs begin without noise, and known tokens are an
    input."""

    vocabulary: Vocabulary

    def find_draws(self, plan: AnyPlan, held: Sequence[int]) -> Draws:
        steps = enumerate(check_tokens(plan).steps)
        return Draws(False, tuple(number for at, step in steps for number in chances_of(at, step)), False)

    def ports(self, draws: Draws, sample: Shape) -> list[BakedPort]:
        return [BakedPort(IDS, TOKENS, sample, "int64"), *_draws_ports(draws, CHANCES, sample, "float64")]

    def begin(self, outer: Builder, plan: AnyPlan, draws: Draws, tensors: Mapping[str, str]) -> tuple[list[str], Draws]:
        if draws.later:
            draws = replace(draws, rest=add_chance_check(outer, draws.rest))
        return [begin_tokens(outer, self.vocabulary, tensors[IDS])], draws

    def align(self, plan: AnyPlan, steps: Sequence[Any]) -> StepRange | None:
        return align_token_steps(steps)

    def advance(self, step: StepBuilder, outer: Builder, plan: AnyPlan, draws: Draws, rows: Sequence[str]) -> list[str]:
        reveal = Reveal(outer, step.inner, step.numbers, plan, step.stretch, step.at, self.vocabulary, draws)
        return [reveal.advance(rows[0], step.outputs(rows[0]))]

    def finish(self, outer: Builder, plan: AnyPlan, state: Sequence[str]) -> str:
        return finish_tokens(outer, self.vocabulary, *state)


def _draws_ports(draws: Draws, meaning: str, sample: Shape, dtype: str) -> list[BakedPort]:
    """Return the input of the baked graph that takes all draws after draw 0, as a list; an empty list if no step reads
    such a draw. It has the same name for continuous samples and for tokens."""
    return [BakedPort(DRAWS, meaning, (len(draws.later), *sample), dtype)] if draws.later else []


def space_builder(space: SampleSpace) -> SpaceBuilder:
    """Return the builder of a sample space."""
    return TokenBuilder(space) if isinstance(space, Vocabulary) else ContinuousBuilder()
