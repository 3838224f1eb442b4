"""Compare the graphs of a token denoiser with float32, at the states of the float32 run and by separate runs.

One different token changes all that follow, so a separate run says little about a body's error. Therefore logits are
compared at the states of the float32 run: the fraction of masked positions whose most likely token differs, and the KL
divergence of the probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import GROUP, varies_per_call
from fewstep.measure.rollouts.end_quality import EndQuality, end_quality
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.tokens.plan import TokenPlan
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import TokenAgreement
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.feeds import tensor_name
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.step_call import GraphCall, StepCall, dispatch_by_group
from fewstep.runtime.sampling.token_execution import vocabulary_of
from fewstep.runtime.sampling.tokens import (
    Ids,
    TokenNetwork,
    TokenState,
    execute_tokens,
    finish_tokens,
    guide_log_probs,
)

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class TokenOutputs:
    """The outputs of graphs: their logits at each of float32's states, and the tokens of their own run."""

    logits: tuple[Logits, ...]
    ids: Ids


@dataclass(frozen=True)
class RecordedTokenRun:
    """A float32 run along a token plan with range groups, made by `record_token_run`.

    seeds: the seeds of its samples.
    mask: the id of a masked position.
    feeds: the inputs of a body except x at each step.
    ports: the names of the body's input x and of its output.
    float_states: the states of the float32 run at each step.
    reference: the logits of float32 at these states, and its final tokens.
    """

    plan: TokenPlan
    seeds: Sequence[int]
    mask: int
    feeds: tuple[Arrays, ...]
    ports: tuple[str, str]
    float_states: tuple[TokenState, ...]
    reference: TokenOutputs

    @property
    def groups(self) -> int:
        return 1 + max(step.group for step in self.plan.steps)

    def run(self, graphs: Sequence[LoadedGraph]) -> TokenOutputs:
        """Run the graphs of a body, one per range group, at the recorded states and along a separate run."""
        return self.run_network(StepCall(dispatch_by_group(graphs, *self.ports), self.feeds.__getitem__).logits)

    def run_network(self, network: TokenNetwork) -> TokenOutputs:
        """Run another network, such as an int8 body, at the recorded states and along a separate run. Return its logits
        and its final tokens."""
        logits = tuple(network(state.index, state.step, state.u) for state in self.float_states)
        return TokenOutputs(logits, finish_tokens(self.plan, execute_tokens(self.plan, network, self.seeds, self.mask)))

    def decibels(self, run: TokenOutputs) -> NDArray[np.float64]:
        """Return, for each sample, the ratio of the variance of float32's log-probabilities to their squared error, in
        dB."""
        signal, error = np.zeros((2, len(self.seeds)))
        for state, exact, other in self._pairs(run):
            of_sample = np.nonzero(state.u == self.mask)[0]
            centred = exact - exact.mean(1, keepdims=True)
            np.add.at(signal, of_sample, np.square(centred).sum(1))
            np.add.at(error, of_sample, np.square(other - exact).sum(1))
        with np.errstate(divide="ignore"):
            decibels: NDArray[np.float64] = np.minimum(10 * np.log10(signal / error), CEILING)
        return decibels

    def quality(self, run: TokenOutputs) -> EndQuality:
        """Return the quality of a run's logits."""
        return end_quality(self.decibels(run), f"float32, {self.plan.name}")

    def agreement(self, run: TokenOutputs) -> TokenAgreement:
        """Return the agreement of the graphs with float32, at each step and at the end."""
        steps, opened, changed = [], 0, 0.0
        for _, exact, other in self._pairs(run):
            differ = float((exact.argmax(1) != other.argmax(1)).mean())
            divergence = float((np.exp(exact) * (exact - other)).sum(1).mean())
            steps.append((round(differ, 5), round(divergence, 6)))
            opened, changed = opened + len(exact), changed + differ * len(exact)
        same = float((run.ids == self.reference.ids).mean())
        return TokenAgreement(round(changed / opened, 5), round(same, 4), tuple(steps))

    def _pairs(self, run: TokenOutputs) -> list[tuple[TokenState, NDArray[np.float64], NDArray[np.float64]]]:
        """Return float32's states, each with the log-probabilities [M, V] of float32 and of the graphs at masked
        positions."""
        return [
            (state, self._logs(state, exact), self._logs(state, other))
            for state, exact, other in zip(self.float_states, self.reference.logits, run.logits, strict=True)
        ]

    def _logs(self, state: TokenState, logits: Logits) -> NDArray[np.float64]:
        branches = logits.reshape(len(state.step.branches), *state.u.shape, -1).astype(np.float64)
        logs = guide_log_probs(state.step, branches[:, state.u == self.mask], self.mask)
        return np.delete(logs, self.mask, 1) if self.mask < logs.shape[1] else logs


def check_counts(plan: AnyPlan, fix: str) -> None:
    """Raise UserError for a plan whose samples may need different numbers of evaluations."""
    if not plan.is_counted:
        what = f"plan {plan.name!r} may skip evaluations, but all trajectories need the same number of them"
        raise UserError(what, fix)


def record_token_run(
    sampler: Sampler,
    plan: TokenPlan,
    batch: SeedBatch,
    progress: Progress = SILENT,
) -> RecordedTokenRun:
    """Record the float32 run of some seeds along a token plan, whose steps are already assigned to range groups."""
    ports = (tensor_name(sampler.body.graph, "x"), tensor_name(sampler.body.graph, "output"))
    fixed_feeds, logits, states = list[Arrays](), list[Logits](), list[TokenState]()

    def keep_call(index: int, call: GraphCall) -> None:
        fixed = {name: value for name, value in call.feeds.items() if name != ports[0] and not varies_per_call(name)}
        fixed_feeds.append(fixed | {GROUP: np.array([plan.steps[index].group], np.int64)})
        logits.append(call.output)

    run: Any = replace(sampler, on_call=keep_call).steps(plan, batch.seeds, batch.conditions, plan.guidance)
    for state in run:
        states.append(msgspec.structs.replace(state, step=plan.steps[state.index]))
        progress("steps of float32", len(states), len(plan.steps))
    float_run = TokenOutputs(tuple(logits), states[-1].ids)
    mask = vocabulary_of(sampler.bundle.manifest).mask
    return RecordedTokenRun(plan, batch.seeds, mask, tuple(fixed_feeds), ports, tuple(states), float_run)
