"""Guidance x shape x start x hold together: each plan of DDIM against the recurrence written out on arrays."""

from itertools import product

import numpy as np
import pytest

from fewstep.plans import prediction, shaping
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import COND, UNCOND, Branches, CfgPlusPlus, Guidance, as_guidance, branch_weights
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time
from fewstep.plans.shaping import Clip, Rescale, Shaping, Threshold
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from fewstep.runtime.sampling.execute import Hold
from tests.plans.execute_plan import sample

Array = np.ndarray
NOISE, Y, IMAGE, KNOWN = np.random.default_rng(0).standard_normal((4, 3, 2, 4, 4))
MASK = (np.random.default_rng(1).random(NOISE.shape) > 0.5).astype(float)
SHIFT = {COND: 0.3, UNCOND: -0.2, "third": 0.1}

GUIDANCE: list[float | Guidance | None] = [
    None,
    2.0,
    CfgPlusPlus(0.6),
    Branches({COND: 2.0, "third": -1.5, UNCOND: 0.5}),
]
SHAPES: list[Shaping | None] = [None, Clip(-0.5, 0.5), Threshold(0.8), Rescale(0.7)]
STARTS = ["noise", "image", "towards y"]


def output(branch: str, time: float, u: Array, head: int = 0) -> Array:
    return np.tanh(u + SHIFT[branch] + head) + time / 3000


def network(index: int, step, u: Array) -> list[Array]:
    return [output(branch, step.time, u, head) for branch in step.branches for head in range(step.heads)]


def by_hand(plan: Plan, denoiser: DenoiserFacts, start: str, kind: Shaping | None, hold: Hold | None) -> Array:
    """x_t -> x0 and the remaining noise -> x_s, evaluation by evaluation."""
    times = [Time(step.time, step.alpha, step.sigma) for step in plan.steps]
    base = {"noise": np.zeros_like(NOISE), "image": IMAGE, "towards y": Y}[start]
    x = times[0].alpha * base + times[0].sigma * NOISE  # towards y: this is x - (1 - alpha) y
    for i, t in enumerate(times):
        if hold is not None:
            x = MASK * (t.alpha * KNOWN + t.sigma * NOISE) + (1 - MASK) * x
        seen = x + (1 - t.alpha) * Y if start == "towards y" else x
        u = prediction.input_scale(denoiser.prediction, t, denoiser.schedule) * seen
        outputs = {branch: output(branch, t.network, u) for branch in SHIFT}
        guided = sum(weight * outputs[branch] for branch, weight in branch_weights(plan.guidance, i, t.lam).items())
        if isinstance(kind, Rescale) and plan.guidance is not None:
            guided = shaping.apply(kind, [guided, outputs[COND]])
        a, b = prediction.x0_coefficients(denoiser.prediction, t, denoiser.schedule)
        x0 = a * x + b * guided
        if kind is not None and not isinstance(kind, Rescale):
            x0 = shaping.apply(kind, [x0])
        implied = a * x + b * outputs[UNCOND] if isinstance(plan.guidance, CfgPlusPlus) else x0
        eps = (x - t.alpha * implied) / t.sigma
        alpha, sigma = (times[i + 1].alpha, times[i + 1].sigma) if i + 1 < len(times) else (1.0, 0.0)
        x = alpha * x0 + sigma * eps
    return x if hold is None else np.where(MASK == 1, KNOWN, x)


@pytest.mark.parametrize(
    ("kind", "predicts"), [("cosine", "v"), ("linear", "epsilon"), ("flow", "flow"), ("edm", "edm")]
)
@pytest.mark.parametrize("guidance", GUIDANCE, ids=str)
def test_what_is_combined_is_the_recurrence(kind: str, predicts: Prediction, guidance: float | Guidance | None) -> None:
    spec = ScheduleSpec(kind)  # type: ignore[arg-type]
    for bound, start, held, heads in product(SHAPES, STARTS, (False, True), (1, 2)):
        if start == "towards y" and held:
            continue  # refused
        denoiser = DenoiserFacts(spec, predicts, heads=heads, towards="y" if start == "towards y" else None)
        plan = compile_plan("ddim:4", denoiser, guidance, bound, strength=0.5 if start == "image" else None)
        assert decode(encode(plan)) == plan and plan.guidance == as_guidance(guidance)
        hold = Hold(KNOWN, MASK) if held else None
        made = sample(plan, network, lambda draw: NOISE, np.float64, {"y": Y, "image": IMAGE}, hold)
        expected = by_hand(plan, denoiser, start, bound, hold)
        assert np.abs(made - expected).max() < 1e-8 * max(1.0, np.abs(expected).max()), (bound, start, held, heads)
