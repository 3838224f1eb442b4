"""The choice of a deployment by the limits that the user gives: a time, a quality, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10

import numpy as np

from fewstep.measure.cost import max_branches
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, clip_hint, leaves_range
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployments import pareto_front
from fewstep.report.choosing.saved_choice import Deployment, SavedChoice, describe_deployment, today
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.finite_checks import clip_option

LEAST_WORTH = 10.0  # dB, of PSNR and of signal to error, below which a limit is not worth suggesting


@dataclass(frozen=True)
class Budget:
    """The limits of a choice, as the user gave them and as numbers: milliseconds of a call, and dB of its samples. None
    means no limit. judge: the name of the user's judge, whose limit every deployment must reach; None without one.
    companions: by body, the milliseconds of the text encoder and the decoder, which count in the time of a call.
    memory: the limit of memory, as the user gave it. Every deployment that is compared fits it."""

    within: str | None
    at_least: str | None
    milliseconds: float | None
    decibels: float | None
    judge: str | None = None
    companions: Mapping[str, float] = field(default_factory=dict)
    memory: str | None = None

    @property
    def text(self) -> str:
        """The limits as text, such as "within 20ms and good enough for edges.py:sharpness"."""
        usual = f"{LEAST_PSNR:g}dB in PSNR or signal to error, and {LEAST_SNR:g}dB signal to error"
        is_bounded = (self.within, self.memory) != (None, None)
        has_default = self.at_least is None and is_bounded and self.judge is None
        return " and ".join(
            [f"within {self.within}"] * (self.within is not None)
            + [f"in {self.memory} of memory"] * (self.memory is not None)
            + [f"at least {usual if has_default else self.at_least}"] * (has_default or self.at_least is not None)
            + [f"good enough for {self.judge}"] * (self.judge is not None)
        )

    def call_time(self, row: Deployment) -> float:
        """Return the milliseconds of a call from the prompt to the output: those of sampling and of the companions."""
        return row.milliseconds + self.companions.get(row.body, 0.0)

    def describe(self, body: str) -> str:
        """Return the limits as text, with the part of the time that is not left for sampling with a body."""
        if (milliseconds := self.companions.get(body)) is None:
            return self.text
        return f"{self.text}, with {milliseconds:.3g} ms for encoding and decoding"

    def is_good(self, row: Deployment) -> bool:
        """Return whether the quality of a deployment is sufficient: by the judge and by the dB that the user asked for
        or, without both, by the minimum quality."""
        if row.judged is not None:
            is_judged = row.judged.score.is_kept
            return is_judged and (self.decibels is None or row.psnr >= self.decibels)
        return row.quality.nearness.is_enough if self.decibels is None else row.psnr >= self.decibels


def _suggest_limits(
    bundle: Bundle, budget: Budget, plan: Plan, good: Sequence[Deployment], fast: Sequence[Deployment]
) -> str:
    """Return advice for the case that no deployment meets both limits. `good` are the deployments of sufficient
    quality, and `fast` those that are fast enough; both are sorted by time.

    A limit is suggested only if a deployment meets it, and its samples resemble the teacher's.
    """
    limits = [f"--within {_round_up(budget.call_time(good[0]))}ms"] if good else []
    best = fast[-1] if fast else None
    if best is not None and best.judged is not None:
        if (problem := best.judged.problem) is not None:
            limits.append(f"a judge with a lower limit, since the best of that time {problem}")
    elif best is not None and best.psnr >= LEAST_WORTH and best.quality.nearness.reaches(LEAST_WORTH, LEAST_WORTH):
        limits.append(f"--at-least {floor(best.psnr)}dB")
    if limits:
        return f"give {' or '.join(limits)}, or try more plans (--plan)"
    if best is not None and leaves_range(best.quality.nearness, bundle.manifest, shaping_of(plan) is not None):
        return (
            f"{clip_hint(bundle.manifest)}: fewstep calibrate {quote_path(bundle.path)} {clip_option(bundle.manifest)}"
        )
    if budget.within is not None:  # plans that take far longer were not tried
        quality = budget.at_least or f"{LEAST_PSNR:g}dB"
        return f"give --at-least {quality} without --within, which chooses the fastest deployment of this quality"
    return "try plans of more steps (--plan SOLVER:STEPS), and look at the samples of float32 first"


def _round_up(milliseconds: float) -> str:
    """Return a time as text with three significant digits, rounded up so that it is a limit that is met."""
    step = 10.0 ** (floor(log10(milliseconds)) - 2)
    return f"{ceil(milliseconds / step) * step:.6g}"


def choose_by_budget(bundle: Bundle, budget: Budget, batch: int, plan: Plan, rows: Sequence[Deployment]) -> SavedChoice:
    """Return the best deployment within the time, or the fastest one of the requested quality. Its quality is at least
    the minimum quality, unless the user requested less or gave a judge.

    With a judge and a limit in dB, one that has fewer dB than the limit may have a higher score than the one that is
    chosen.
    """
    within = np.inf if budget.milliseconds is None else budget.milliseconds
    on_front = pareto_front(rows, budget.call_time)
    good = pareto_front([row for row in rows if budget.is_good(row)], budget.call_time)
    in_time = [row for row in good if budget.call_time(row) <= within]
    if not in_time:
        fast = [row for row in on_front if budget.call_time(row) <= within]
        if good:
            nearest, words = good[0], "the fastest of this quality"
        elif fast:
            nearest, words = fast[-1], "the best quality"
        else:
            nearest, words = on_front[0], "the fastest"
        fix = _suggest_limits(bundle, budget, plan, good, fast)
        what = f"no deployment samples {bundle.path} {budget.describe(nearest.body)}"
        raise UserError(f"{what}: {words} is {describe_deployment(nearest)}", fix)
    winner = in_time[0] if budget.within is None else in_time[-1]
    others = (row for row in reversed(on_front) if row != winner and row.rank < winner.rank)
    family = tuple(
        row.plan
        for row in (winner, *others)
        if (row.body, row.engine.backend) == (winner.body, winner.engine.backend)
        and budget.call_time(row) <= budget.call_time(winner)
    )
    day = today()
    rows_of_x = batch * max_branches(plan)
    asked = budget.describe(winner.body)
    return SavedChoice(
        bundle.manifest.name,
        asked,
        day,
        rows_of_x,
        plan.guidance,
        shaping_of(plan),
        winner,
        family,
        memory=budget.memory,
    )
