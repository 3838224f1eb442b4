"""Light steps of a plan: which steps they are, what they read, and the result of a plan with them."""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.light_steps import use_light_steps
from fewstep.plans.plan import LIGHT, Plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail
from fewstep.runtime.sampling.execute import Array, execute, finish
from fewstep.runtime.sampling.slots import CarryingNetwork, Slots
from tests.refusals import refuses

FACTS = DenoiserFacts(ScheduleSpec("cosine"), "v", features="features")


def compile_for_facts(name: str, guidance: float | None = None) -> Plan:
    return compile_plan(name, FACTS, guidance)


def light_of(plan: Plan) -> list[int]:
    return [number for number, step in enumerate(plan.steps) if step.network == LIGHT]


@pytest.mark.parametrize(
    ("call", "light"),
    [
        ("every", [1, 3, 5, 7]),
        ("every(interval=3)", [1, 2, 4, 5, 7]),
        ("every(interval=3, first=2)", [2, 3, 5, 6]),
        ("every(interval=20)", [1, 2, 3, 4, 5, 6, 7]),
        ("every(interval=1)", []),
        ("light(at=[2, 3])", [2, 3]),
    ],
)
def test_a_name_chooses_the_light_steps(call: str, light: list[int]) -> None:
    plan = compile_for_facts(f"ddim:8@trailing+{call}")
    assert light_of(plan) == light
    assert [bool(step.carry_in) for step in plan.steps] == [step.network == LIGHT for step in plan.steps]


def test_features_are_held_if_the_full_step_before_the_last_lacks_a_branch() -> None:
    plan = compile_plan("ddim:8@trailing", FACTS, Cfg(2.0, (-1.0, 1.0)))
    first = [len(step.branches) for step in plan.steps].index(2)
    made = use_light_steps(plan, [first + 1], "features", linear=True)
    assert first > 0 and made.steps[first + 1].carry_in[0].row == (1.0, 0.0)


def test_each_evaluation_of_a_solver_counts_as_a_step() -> None:
    """Heun's method evaluates the network again at the end of each of its 4 steps but the last."""
    plan = compile_for_facts("heun:4@trailing+every")
    times = [step.time for step in plan.steps]
    assert light_of(plan) == [1, 3, 5] and [times[1], times[3], times[5]] == [times[2], times[4], times[6]]


def test_the_name_of_a_compiled_plan_has_its_light_steps_in_canonical_form() -> None:
    assert compile_for_facts("ddim:8 + every(linear=True, interval=2)").name == "ddim:8+every(linear=True)"


@pytest.mark.parametrize("linear", [False, True])
def test_a_plan_with_light_steps_is_read_from_its_file(linear: bool) -> None:
    plan = compile_for_facts(f"dpmpp_2m:8+every(linear={linear})", 2.0)
    assert decode(encode(plan)) == plan


def test_extrapolated_features_weigh_the_last_two_full_steps_by_their_distance_in_lambda() -> None:
    plan = compile_for_facts("ddim:8@trailing+light(at=[1, 3, 5], linear=True)")
    lams = [step.lam for step in plan.steps]
    rows = {number: plan.steps[number].carry_in[0].row for number in light_of(plan)}
    assert rows[1] == (1.0, 0.0)  # one full step has been
    share = (lams[5] - lams[4]) / (lams[4] - lams[2])
    assert rows[5] == pytest.approx((1 + share, -share)) and 0 < share < 1.5


def test_features_are_extrapolated_by_at_most_one_and_a_half_distances() -> None:
    plan = compile_for_facts("ddim:20@trailing+light(at=[7, 8, 9, 10, 11, 12, 13], linear=True)")
    assert plan.steps[13].carry_in[0].row == (2.5, -1.5)


def run_features(plan: Plan) -> tuple[list[float], list[float]]:
    """Return the features that light steps read and those that a full step would compute, for features equal to
    lambda.
    """
    read: list[float] = []

    def call(index, step, u, taken):
        read.extend(taken["features"].ravel() if taken else ())
        return [u for _ in step.branches], {"features": np.full((len(step.branches) * len(u), 1), step.lam, np.float32)}

    network = CarryingNetwork(call, Slots({"features": (None,) * plan.banks[0].slots}))
    finish(plan, execute(plan, network, lambda number: np.ones((1, 1), np.float32)))
    return read, [step.lam for step in plan.steps for _ in step.branches if step.network == LIGHT]


def test_extrapolation_is_exact_for_features_that_are_linear_in_lambda() -> None:
    read, expected = run_features(compile_for_facts("ddim:10@trailing+light(at=[4, 7, 9], linear=True)", 2.0))
    np.testing.assert_allclose(read, expected, rtol=1e-5)


def test_held_features_are_those_of_the_last_full_step() -> None:
    plan = compile_for_facts("ddim:10@trailing+light(at=[4, 5, 7])")
    assert run_features(plan)[0] == pytest.approx([plan.steps[full].lam for full in (3, 3, 6)])


def test_a_step_with_a_branch_that_the_last_full_step_lacks_stays_full() -> None:
    plan = compile_plan("ddim:8@trailing", FACTS, Cfg(2.0, (-1.0, 1.0)))
    two = [len(step.branches) == 2 for step in plan.steps]
    first = two.index(True)
    made = use_light_steps(plan, range(1, 8), "features")
    assert first > 0 and light_of(made) == [step for step in range(1, 8) if step != first]


@pytest.mark.parametrize("linear", [False, True])
def test_a_plan_to_which_a_program_adds_light_steps_is_compiled_again_from_its_name(linear: bool) -> None:
    made = use_light_steps(compile_for_facts("ddim:8@karras"), [5, 2, 5], "features", linear)
    assert compile_for_facts(made.name) == made


@pytest.mark.parametrize("step", [2.5, 0, 8])
def test_a_program_cannot_add_a_light_step_that_a_plan_does_not_have(step: float) -> None:
    with refuses(f"light step {step}"):
        use_light_steps(compile_for_facts("ddim:8"), [2, step], "features")  # type: ignore[list-item]


def test_the_tail_of_a_plan_begins_with_a_full_step() -> None:
    plan = compile_for_facts("ddim:8@trailing+every(interval=4)")
    assert light_of(tail(plan, 4)) == [1, 2, 3]
    with refuses(("slot 0 of 'features'", "empty")):
        tail(plan, 5)


def test_a_run_from_an_image_begins_with_a_full_step() -> None:
    plan = compile_plan("ddim:8@trailing+every(interval=4)", FACTS, strength=0.6)
    assert len(plan.steps) == 5 and light_of(plan) == [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("light(at=[0])", "cannot have the light step 0"),
        ("light(at=[8])", "its steps are 0 to 7"),
        ("light(at=[2.5])", "the step 2.5"),
        ("light", "needs at"),
        ("every(interval=0)", r"every\(interval=0"),
        ("evry", "unknown choice of light steps 'evry'"),
    ],
)
def test_light_steps_that_a_plan_cannot_have_are_refused(call: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        compile_for_facts(f"ddim:8@trailing+{call}")


def test_a_denoiser_without_a_light_network_refuses_light_steps() -> None:
    with refuses("no light network", "--cache"):
        compile_plan("ddim:8+every", DenoiserFacts(ScheduleSpec("cosine"), "v"))


def test_guidance_keeps_its_branches_in_light_steps() -> None:
    plan = compile_plan("ddim:4@trailing+every", FACTS, Cfg(3.0))
    assert {step.branches for step in plan.steps} == {("cond", "uncond")}


def test_a_light_network_that_reads_its_own_features_computes_what_the_full_one_does() -> None:
    """For features that do not depend on the step, light steps change nothing."""

    def call(index, step, u, taken):
        features = taken.get("features", np.full((len(step.branches) * len(u), 3), 0.25, np.float32))
        outputs: list[Array] = [np.tanh(u) * features[0, :3] for _ in step.branches]
        return outputs, {} if taken else {"features": features}

    samples = []
    for name in ("dpmpp_2m:8@trailing", "dpmpp_2m:8@trailing+every(interval=3, linear=True)"):
        plan = compile_for_facts(name, 2.0)
        slots = Slots({bank.name: (None,) * bank.slots for bank in plan.banks})
        samples.append(finish(plan, execute(plan, CarryingNetwork(call, slots), lambda _: np.ones((2, 3), np.float32))))
    np.testing.assert_allclose(samples[1], samples[0], rtol=1e-5)
