import math
import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.plans.any_plan import regroup
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode
from fewstep.plans.plan import group_of
from fewstep.plans.shaping import Clip
from fewstep.plans.symbol import Lin
from fewstep.runtime.sampling.execute import execute
from tests.plans.execute_plan import sample
from tests.plans.gaussian import COSINE, FLOW, denoising
from tests.refusals import refuses

V = denoising(COSINE, "v")


def test_guidance_of_one_drops_the_unconditional_branch():
    assert compile_plan("ddim:4", V, guidance=1.0).steps[0].branches == ("cond",)
    assert compile_plan("ddim:4", V, guidance=0.0).steps[0].branches == ("uncond",)


def test_clip_bounds_the_prediction_that_the_update_uses():
    plan = compile_plan("ddim:1", denoising(COSINE, "sample"), shaping=Clip(-0.5, 0.5))
    result = sample(plan, lambda i, step, u: [10 * u], lambda k: np.linspace(-1, 1, 5), np.float64)
    assert result == pytest.approx([-0.5, -0.5, 0, 0.5, 0.5], abs=1e-12)


def test_a_run_keeps_no_state_but_the_last():
    outputs, alive = [], []

    def network(index, step, u):
        output = np.tanh(u)
        alive.append(sum(reference() is not None for reference in outputs))
        outputs.append(weakref.ref(output))
        return [output]

    sample(compile_plan("dpmpp_2m:50", V), network, lambda k: np.ones(2, np.float32))
    assert max(alive) <= 2


def test_states_show_the_predicted_sample():
    plan = compile_plan("ddim:3", denoising(COSINE, "sample"))
    states = list(execute(plan, lambda i, step, u: [np.full_like(u, i)], lambda k: np.ones(2)))
    assert [state.x0.tolist() for state in states] == [[0, 0], [1, 1], [2, 2]]
    assert states[0].u.dtype == np.float32


def test_a_sample_is_bitwise_the_same_in_any_batch():
    plan = compile_plan("dpmpp_2m:8", V, guidance=2.0)
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)

    def network(index, step, u):
        return [np.tanh(u), np.float32(0.5) * u]

    together = sample(plan, network, lambda k: x)
    alone = [sample(plan, network, lambda k, i=i: x[i : i + 1])[0] for i in range(16)]
    assert np.array_equal(together, np.stack(alone))


def test_groups_are_intervals_of_lambda():
    plan = compile_plan("ddim:8", V)
    lams = [step.lam for step in plan.steps]
    edges = [(a + b) / 2 for a, b in pairwise(lams)]
    assert [step.group for step in regroup(plan, edges).steps] == list(range(8))
    assert [step.group for step in compile_plan("ddim:8", V, groups=edges).steps] == list(range(8))
    assert {step.group for step in regroup(plan, ()).steps} == {0}


def test_a_flow_starts_at_pure_noise():
    step = compile_plan("dpmpp_2m:4", denoising(FLOW, "flow")).steps[0]
    assert step.lam is None
    assert step.time == 1000.0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_decode_fail_otherwise_than_by_a_user_error(data):
    with pytest.raises(UserError):
        decode(data)


def test_a_flow_has_no_timesteps_to_run_out_of_but_a_plan_has_an_end():
    assert len(compile_plan("ddim:1500", denoising(FLOW, "flow")).steps) == 1500
    with refuses("100000000 steps"):
        compile_plan("ddim:100000000", denoising(FLOW, "flow"))


def test_a_lin_has_no_value():
    lin = Lin({0: 1.0})
    for comparison in (lambda: lin == lin, lambda: lin < lin, lambda: bool(lin), lambda: float(lin)):
        with pytest.raises(TypeError, match="has no value"):
            comparison()
    with pytest.raises(TypeError, match="not linear"):
        lin * lin
    assert (np.float64(2.0) * lin).terms == {0: 2.0}


def test_values_of_a_list_are_summed():
    """`sum` begins with 0. Another number is not a linear combination."""
    assert sum([Lin({0: 1.0}), Lin({0: 2.0, 1: 1.0})]).terms == {0: 3.0, 1: 1.0}
    with pytest.raises(TypeError):
        1.0 + Lin({0: 1.0})


def test_a_coefficient_that_diverges_is_an_error():
    with pytest.raises(UserError, match="lambda diverges"):
        Lin({0: 1.0}) * math.inf


def test_a_lambda_at_an_edge_is_in_the_group_after_it() -> None:
    assert [group_of(lam, (-0.5, 1.0)) for lam in (None, -0.6, -0.5, 0.9, 1.0, 7.0)] == [0, 0, 1, 1, 2, 2]
