"""Epsilon scaling (Ning, Li, Su, Salah, Ertugrul 2024, arXiv 2308.15321)."""

from collections.abc import Sequence

import msgspec
import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row, Step
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import Time
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.transforms.start_checks import noise_levels


def scale_noise(plan: Plan, denoiser: DenoiserFacts, scales: float | Sequence[float]) -> Plan:
    """Return the plan with the predicted noise divided by a scale at each evaluation.

    On its own samples a denoiser predicts noise with a norm that is slightly too large, and each step adds to the
    error. The authors measure the norm relative to that in training, and divide by it (1.002 to 1.03, constant or
    growing).

    Args:
        scales: one number, or one for each evaluation.
    """
    if denoiser.towards is not None and plan.prediction not in ("epsilon", "score"):  # the scaled output has y in it
        raise UserError(
            f"noise cannot be scaled for a denoiser that restores {denoiser.towards!r} and predicts {plan.prediction}",
            "scale the noise of one that predicts epsilon or score",
        )
    each = [float(scales)] * len(plan.steps) if isinstance(scales, int | float) else [float(c) for c in scales]
    if len(each) != len(plan.steps) or not all(c > 0 for c in each):
        raise UserError(
            f"{len(each)} noise scales, the smallest {min(each, default=0):g}, for {len(plan.steps)} evaluations",
            "give one positive number for each evaluation, or one for all",
        )
    steps = zip(plan.steps, noise_levels(plan), each, strict=True)
    return msgspec.structs.replace(plan, steps=tuple(_scale_step(plan, *step, denoiser) for step in steps))


def _scale_step(plan: Plan, step: Step, time: Time, c: float, denoiser: DenoiserFacts) -> Step:
    """Return the step in which output o of each branch is replaced by o / c + extra . S, so that x0 corresponds to the
    scaled noise."""
    K, count = plan.rows, len(step.branches)
    outputs = range(K, K + count)
    if step.heads > 1 or any(term.column in outputs for term in step.terms):
        raise UserError(
            f"plan {plan.name!r} uses several outputs of the network, or tensors as their coefficients",
            "give a plan whose steps use one output, with numbers as its coefficients",
        )
    a, b = x0_coefficients(plan.prediction, time, denoiser.schedule)
    x = np.array(step.input) / input_scale(plan.prediction, time, denoiser.schedule)
    extra = (1 - 1 / c) * (1 / time.alpha - a) / b * x if time.alpha else 0.0 * x

    def scale_row(row: Row) -> Row:
        numbers = np.array(row)
        numbers[:K] += numbers[K : K + count].sum() * extra
        numbers[K : K + count] /= c
        return tuple(float(number) for number in numbers)

    return msgspec.structs.replace(
        step,
        shaping_of=tuple(scale_row(row) for row in step.shaping_of),
        x0=scale_row(step.x0),
        update=tuple(scale_row(row) for row in step.update),
    )
