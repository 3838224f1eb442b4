"""How far the tokens of int8 bodies agree with float32's, over held-out seeds: in batches, which anyone may answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import BATCH
from fewstep.measure.results import EndQuality, TokenQuality, TokenStepQuality, end_quality
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.held_out import held_out_conditions
from fewstep.measure.rollouts.token_course import open_token_course
from fewstep.measure.sampling_job import FLOAT, Bodies, Sampling
from fewstep.plans.tokens import TokenPlan
from fewstep.runtime.bundle.token_agreement import TokenAgreement
from fewstep.runtime.feeds import branch_values
from fewstep.runtime.progress import SILENT, Progress

LOGITS_HELD = 2**26  # numbers of a run's logits in memory, of each body


@dataclass(frozen=True)
class TokenBatch:
    """A body's agreement with float32 on some seeds, and the quality [seeds] in dB, along a plan in the body's range
    groups. `rows` are conditions of one's own."""

    body: str
    plan: TokenPlan
    seeds: range
    rows: ConditionRecords | None

    def answer(self, bodies: Bodies) -> tuple[TokenAgreement, NDArray[np.float64]]:
        course = open_token_course(bodies(FLOAT), self.plan, self.seeds, self.rows)
        body, count = bodies(self.body), len(self.seeds)
        taken = body.bundle.manifest.conditions
        values = branch_values(taken, held_out_conditions(taken, self.seeds, self.rows), None, count, body.nulls)
        run = course.run_by(body.token_network(self.plan, count, values))
        return course.agreement(run), course.quality(run)


def judge_tokens(
    sampling: Sampling,
    plans: Mapping[str, tuple[TokenPlan, int]],
    rows: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> dict[str, tuple[EndQuality, TokenQuality]]:
    """Each body's quality along its plan, on so many held-out seeds from 0 on. No plan leaves evaluations out
    (`measure.rollouts.token_course.check_counts`)."""
    judged = {}
    for name, (plan, seeds) in plans.items():
        numbers = len(plan.steps) * max(len(step.branches) for step in plan.steps) * prod(plan.shape) * plan.vocabulary
        at_once = max(1, min(BATCH, LOGITS_HELD // numbers))
        parts = [range(start, min(start + at_once, seeds)) for start in range(0, seeds, at_once)]
        answers = []
        for part, answer in zip(parts, sampling.answers(TokenBatch(name, plan, each, rows) for each in parts)):
            answers.append(answer)
            progress(f"judging {name}", part.stop, seeds)
        decibels = np.concatenate([each for _, each in answers])
        agreed = _mean([each for each, _ in answers], [len(part) / seeds for part in parts])
        steps = tuple(
            TokenStepQuality(index, step.lam, step.group, *own)
            for index, (step, own) in enumerate(zip(plan.steps, agreed.steps, strict=True))
        )
        quality = end_quality(decibels, None, f"float32, {plan.name}")
        judged[name] = quality, TokenQuality(agreed.disagreement, agreed.same, steps)
    return judged


def _mean(parts: list[TokenAgreement], weights: list[float]) -> TokenAgreement:
    """The mean over batches: every sample has as many open positions at a step."""

    def mean(values: Any) -> Any:
        return np.average(np.array(values), axis=0, weights=weights)

    steps = tuple((float(differ), float(nats)) for differ, nats in mean([part.steps for part in parts]))
    same, differ = (float(mean([getattr(part, name) for part in parts])) for name in ("same", "disagreement"))
    return TokenAgreement(differ, same, steps)
