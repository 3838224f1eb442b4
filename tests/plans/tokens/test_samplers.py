"""Token plans by name: their counts equal those of the released code, at several lengths and steps."""

import math

import msgspec
import numpy as np
import pytest

from fewstep.plans.compile_tokens import compile_tokens
from fewstep.plans.configs.tokens import sampler_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg, CfgPlusPlus
from fewstep.plans.plan import group_of
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.tokens import samplers as token_samplers
from fewstep.plans.tokens.plan import TokenPlan, TokenStep, decode_tokens, token_plan_problem
from tests.refusals import refuses

FACTS = DenoiserFacts(ScheduleSpec("flow"), "logits")
LENGTHS = (7, 49, 392)


def counts(name, shape):
    return [step.reveal for step in compile_tokens(name, FACTS, shape, 8).steps]


def shown(opened):
    """Return the positions that each step reveals, from the numbers that stay open; steps that reveal none are left
    out.
    """
    return [a - b for a, b in zip(opened, opened[1:], strict=False) if a > b]


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("steps", [1, 5, 8, 12])
def test_counts_are_those_of_the_released_code(count, steps):
    llada = np.full(steps, count // steps)
    llada[: count % steps] += 1
    assert counts(f"llada:{steps}", (count,)) == [each for each in llada if each]

    t = np.linspace(1, 1e-3, steps + 1)
    dream = [count]
    for i in range(steps):
        dream.append(dream[-1] - (int(dream[-1] * (1 - t[i + 1] / t[i])) if i < steps - 1 else dream[-1]))
    assert counts(f"dream_entropy:{steps}", (count,)) == shown(dream)

    u = np.linspace(0, 1, steps + 1)
    t, left = 0.1 * u / (1 + (0.1 - 1) * u), [count]
    for i in range(steps):
        left.append(left[-1] - (left[-1] if i == steps - 1 else min(math.ceil(count * (t[i + 1] - t[i])), left[-1])))
    assert counts(f"omnivoice:{steps}", (1, count)) == shown(left)

    chances = [step.chance for step in compile_tokens(f"mdlm:{steps}", FACTS, (count,), 8).steps]
    t = np.linspace(1, 0, steps + 1)
    np.testing.assert_allclose(chances, (t[:-1] - t[1:]) / t[:-1], rtol=1e-12)
    assert sum(counts(f"first_hitting:{steps}", (count,))) == count


def test_schedulers_of_tokens_that_cannot_be_are_one_line():
    block = {"_class_name": "BlockRefinementScheduler"}
    for config, said in (
        ({**block, "editing_threshold": 0.5}, "editing_threshold 0.5.*keeps the tokens.*set null"),
        ({**block, "block_length": 0}, "block_length 0"),
        (
            {"_class_name": "AmusedScheduler", "masking_schedule": "square"},
            "masking_schedule 'square' .* one of cosine",
        ),
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler is not a token scheduler; choose one of AmusedScheduler"),
    ):
        with pytest.raises(UserError, match=said):
            compile_tokens(sampler_from_scheduler_config(config, 4), FACTS, (8,), 8)
    with refuses("0 steps", "1 or more"):
        sampler_from_scheduler_config(block, 0)


def test_maskgit_has_a_temperature_of_tokens_and_noise_that_falls():
    steps = compile_tokens("maskgit(noise=4, temperature=0.8):5", FACTS, (49,), 8).steps
    assert [(step.noise, step.temperature) for step in steps] == [(noise, 0.8) for noise in (4, 3, 2, 1, 0)]


def test_blocks_have_even_steps_and_their_own_positions():
    plan = compile_tokens("block_dynamic(size=32, threshold=0.8):24", FACTS, (2, 49), 8)
    assert [step.positions for step in plan.steps] == [(0, 32)] * 12 + [(32, 49)] * 12
    assert sum(step.reveal for step in plan.steps[:12]) == 64
    assert {step.threshold for step in plan.steps} == {0.8}
    with pytest.raises(UserError, match="7 steps over 2 blocks"):
        compile_tokens("block_dynamic:7", FACTS, (64,), 8)


def test_shares_of_remdm_are_those_of_ancestral_sampling():
    share = 1.0
    for number, step in enumerate(compile_tokens("remdm(cap=0.2):10", FACTS, (100,), 8).steps, 1):
        share = share * (1 - step.chance) + (1 - share) * step.again
        assert share == pytest.approx(1 - number / 10, abs=1e-12)


def test_lambda_is_of_the_masked_share_and_gives_groups():
    plan = compile_tokens("first_hitting:4", FACTS, (8,), 8, groups=(0.5,))
    assert plan.steps[0].lam is None
    assert plan.steps[2].lam == pytest.approx(0.0)
    assert plan.steps[3].lam == pytest.approx(math.log(3))
    assert [step.group for step in plan.steps] == [group_of(step.lam, (0.5,)) for step in plan.steps] == [0, 0, 0, 1]
    assert [step.time for step in plan.steps] == pytest.approx([1000, 750, 500, 250])


def test_guidance_is_weights_of_branches():
    plan = compile_tokens("maskgit:4", FACTS, (8,), 8, Cfg((3.0, 1.0)))
    assert [(step.branches, step.weights) for step in plan.steps[:2]] == [
        (("cond", "uncond"), (3.0, -2.0)),
        (("cond",), (1.0,)),
    ]
    with pytest.raises(UserError, match="a token plan cannot use guidance"):
        compile_tokens("maskgit:4", FACTS, (8,), 8, CfgPlusPlus(0.5))


def test_plans_are_written_and_read_and_damage_is_one_line():
    for name in token_samplers.__all__:
        plan = compile_tokens(f"{name}:8", FACTS, (2, 16), 8, 2.0)
        assert decode_tokens(msgspec.json.encode(plan)) == plan
    for change, said in (
        ({"reveal": 0}, "reveals nothing"),
        ({"chance": 1.5}, "a chance or a threshold"),
        ({"chance": -0.5}, "a chance or a threshold"),
        ({"reveal": 17}, "reveal 17 of 16 positions"),
        ({"weights": (0.5,)}, "do not sum to 1"),
        ({"bound": 1.0}, "has a bound of entropies"),
        ({"positions": (3, 40)}, "positions 3 to 40"),
        ({"weights": (1.0, 2.0)}, "branches"),
        ({"temperature": math.inf}, "not finite"),
    ):
        damaged = TokenPlan(1, "own", "0", 8, (16,), None, (TokenStep(**{"reveal": 16, **change}),))
        assert said in (token_plan_problem(damaged) or "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dpmpp_2m:8", "is for continuous samples.*use .*maskgit:8"),
        ("maskgi:8", "unknown sampler 'maskgi'.*maskgit"),
        ("maskgit:0", "has no steps"),
        ("maskgit", "number of steps"),
        ("maskgit(heat=2):8", "no parameter 'heat'.*noise, temperature, linear"),
        ("maskgit:8@karras", "token plans have none; write it as maskgit:8"),
        ("omnivoice(shift=0):8", "omnivoice.shift=0.*above 0"),
        ("omnivoice(shift=-2):8", "omnivoice.shift=-2"),
        ("likeliest(temperature=-1):8", "a temperature.* below 0"),
        ("maskgit(temperature=1e-320):8", "a temperature of .* between 0 and 1e-30"),
        ("maskgit(noise=-1):8", "a temperature, a noise.* below 0"),
        ("block_dynamic(threshold=2):8", "a threshold outside 0 to 1"),
        ("remdm(cap=2):2", "remdm.cap=2.*from 0 to 1"),
        ("llada(size=0):8", "blocks cannot have 0 positions"),
        ("maskgit:100000000", "100000000 steps are too many for a plan; use at most 10000"),
    ],
)
def test_wrong_names_are_one_line(name, said):
    with pytest.raises(UserError, match=said):
        compile_tokens(name, FACTS, (8,), 8)
