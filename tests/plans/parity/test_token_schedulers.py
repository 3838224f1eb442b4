"""Schedulers of tokens, compared with diffusers' own: how many positions each step reveals, and which."""

import numpy as np
import pytest
import torch

from fewstep.plans.compile_tokens import compile_tokens
from fewstep.plans.configs.tokens import sampler_from_scheduler_config
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.tokens import execute_tokens

diffusers = pytest.importorskip("diffusers")
FACTS, MASK = DenoiserFacts(ScheduleSpec("flow"), "logits"), 8
LENGTHS = (7, 49, 392)


def plan_of(scheduler, steps, count):
    config = {"_class_name": type(scheduler).__name__, **scheduler.config}
    return compile_tokens(sampler_from_scheduler_config(config, steps), FACTS, (count,), MASK)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_amused(count, kind):
    """In 3, 6, 9 and 12 steps, where 392 cos(pi/3) is 195 in its float32."""
    for steps in range(1, 14):
        scheduler = diffusers.AmusedScheduler(mask_token_id=MASK, masking_schedule=kind)
        scheduler.set_timesteps(steps)
        x, left = torch.full((1, count), MASK), [count]
        for t in scheduler.timesteps:
            logits = torch.randn(1, count, MASK, generator=torch.Generator().manual_seed(int(t)))
            x = scheduler.step(logits, t, x, generator=torch.Generator().manual_seed(int(t))).prev_sample
            left.append(int((x == MASK).sum()))
        plan = plan_of(scheduler, steps, count)
        assert [step.reveal for step in plan.steps] == [a - b for a, b in zip(left, left[1:], strict=False) if a > b]
        temperatures = dict(zip(range(steps), scheduler.temperatures.tolist(), strict=True))
        if len(plan.steps) == steps:
            assert [step.noise for step in plan.steps] == pytest.approx([*temperatures.values()], abs=1e-6)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("steps", [3, 7, 12])
def test_block_refinement(count, size, steps):
    """Every step of all blocks, on logits that depend on the open positions: the same tokens at the same places."""
    scheduler = diffusers.BlockRefinementScheduler(block_length=size, threshold=0.5)
    plan = plan_of(scheduler, steps, count)
    base = np.random.default_rng(0).normal(size=(1, count, MASK + 1)).astype(np.float32) * 2

    def network(ids):
        logits = base + 0.5 * np.roll(base, 1, 1) * (ids == MASK)[..., None]
        logits[..., MASK] = -80.0  # which the scheduler does not leave out
        return logits

    states = iter(execute_tokens(plan, lambda index, step, ids: network(ids)[..., :MASK], [0], MASK))
    scheduler.set_timesteps(min(steps, count))
    x, evaluations = np.full((1, count), MASK), 0
    for first in range(0, count, size):
        block = slice(first, first + size)
        for t in range(min(steps, count)):
            if not (x[:, block] == MASK).any():
                break
            logits, sample = torch.from_numpy(network(x)[:, block]), torch.from_numpy(x[:, block])
            x[:, block] = scheduler.step(logits, t, sample, mask_token_id=MASK).prev_sample.numpy()
            evaluations += 1
            assert (next(state for state in states if state.is_evaluated).ids == x).all()
    assert not any(state.is_evaluated for state in states) and evaluations >= -(-count // size)
