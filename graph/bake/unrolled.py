"""The steps of a plan one after the other, for inference engines that have no Loop. Their weights are shared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fewstep.graph.bake.ahead import Ahead
from fewstep.graph.bake.aligned import align
from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.carried import CarriedBank
from fewstep.graph.bake.draws import Draws
from fewstep.graph.bake.hold import Held
from fewstep.graph.bake.loop import Network, lay_step
from fewstep.graph.bake.numbers import OwnNumbers
from fewstep.graph.builder import Builder
from fewstep.plans.plan import Plan
from fewstep.plans.spec import Vocabulary
from fewstep.plans.tokens import TokenPlan


def lay_unrolled(
    outer: Builder,
    batch: RunBatch,
    plan: Plan | TokenPlan,
    networks: Sequence[Network],
    network_of: Callable[[Any], int],
    aheads: Mapping[str, Ahead],
    draws: Draws,
    held: Held | None,
    state: Sequence[str],
    banks: Sequence[CarriedBank] = (),
    vocabulary: Vocabulary | None = None,
) -> list[str]:
    """Add all steps; returns the names of the state behind the last. `state`: K tensors [B, ...]."""
    rows = list(state)
    steps: tuple[Any, ...] = plan.steps
    for at, step in enumerate(steps):
        inner, stretch = Builder(f"step_{at}"), align(plan, [step])
        assert stretch is not None, "a step is aligned with itself"
        network, ahead = networks[network_of(step)], aheads[step.network]
        numbers, taken = OwnNumbers(inner), (draws, held, rows, banks, vocabulary)
        rows, made = lay_step(outer, inner, numbers, batch, plan, stretch, at, network, ahead, *taken)
        for bank in banks:
            if bank.writes[at]:
                name = bank.returned.name
                bank.parts.append(bank.apart(inner, made[name], len(step.branches), name))
        outer.add(inner)
    return rows
