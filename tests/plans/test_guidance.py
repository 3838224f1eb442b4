"""Every form of guidance against the formula of its paper, written out on arrays."""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Branches, Cfg, CfgPlusPlus, Pag, Residual, Steer, describe, to_text, weight_of
from fewstep.plans.names.guidance_text import from_text
from fewstep.plans.shaping import Rescale
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute
from tests.plans.execute_plan import sample
from tests.refusals import refuses

DENOISING = DenoiserFacts(ScheduleSpec("cosine"), "epsilon")
X = np.linspace(-1, 1, 6).reshape(2, 3)


def eps(branch: str, step, u):
    """Some noise prediction that differs by branch and time."""
    shift = {"cond": 0.3, "uncond": -0.2, "image": 0.1, "text": 0.6, "perturbed": -0.4}[branch]
    return np.tanh(u + shift) + step.time / 3000


def network(index, step, u):
    return [eps(branch, step, u) for branch in step.branches]


def one_branch(combined):
    """The conditional plan, with the guided output computed by hand."""
    return lambda index, step, u: [combined(index, step, u)]


def run(plan, net=network):
    return sample(plan, net, lambda draw: X, np.float64)


def test_weights_by_evaluation_end_guidance_and_its_branch():
    plan = compile_plan("ddim:5", DENOISING, Cfg((3.0, 2.0, 1.0)))
    assert [step.branches for step in plan.steps] == [("cond", "uncond")] * 2 + [("cond",)] * 3

    def by_hand(index, step, u):
        w = [3.0, 2.0, 1.0, 1.0, 1.0][index]
        return eps("uncond", step, u) + w * (eps("cond", step, u) - eps("uncond", step, u))

    expected = run(compile_plan("ddim:5", DENOISING), one_branch(by_hand))
    assert run(plan) == pytest.approx(expected, rel=1e-9)


def test_an_interval_of_lambda_guides_nowhere_else():
    plain = compile_plan("ddim:8", DENOISING)
    lams = [step.lam for step in plain.steps]
    plan = compile_plan("ddim:8", DENOISING, Cfg(4.0, interval=(lams[2], lams[5])))
    assert [len(step.branches) for step in plan.steps] == [1, 1, 2, 2, 2, 1, 1, 1]


def both(prediction, step, x, output):
    """Return x0 and the noise of a network's output."""
    if prediction == "epsilon":
        return (x - step.sigma * output) / step.alpha, output
    if prediction == "v":
        return step.alpha * x - step.sigma * output, step.sigma * x + step.alpha * output
    return x - step.sigma * output, x + step.alpha * output  # flow: alpha + sigma is 1


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize(("kind", "prediction"), [("cosine", "epsilon"), ("cosine", "v"), ("flow", "flow")])
def test_cfg_plus_plus_puts_the_unconditional_noise_back(kind, prediction, solver):
    """Chung et al. 2024, algorithm 2: x0 of the guided output, x = alpha x0 + sigma eps_uncond. Along dpmpp_2m the
    slope of x0 uses the previous guided x0, where the authors' code uses the unconditional one.
    """
    plan = compile_plan(f"{solver}:6", DenoiserFacts(ScheduleSpec(kind), prediction), CfgPlusPlus(0.6))
    x, before = X * plan.steps[0].sigma, None
    for step, after in zip(plan.steps, [*plan.steps[1:], None], strict=True):
        cond, uncond = eps("cond", step, x), eps("uncond", step, x)
        x0, _ = both(prediction, step, x, uncond + 0.6 * (cond - uncond))
        _, noise = both(prediction, step, x, uncond)
        alpha, sigma = (after.alpha, after.sigma) if after else (1.0, 0.0)
        slope = 0.0
        if solver == "dpmpp_2m" and before and after:
            h = after.lam - step.lam
            slope = (x0 - before[0]) / (step.lam - before[1]) * h / 2 * -np.expm1(-h)
        x = alpha * (x0 + slope) + sigma * noise
        before = x0, -np.inf if step.lam is None else step.lam
    assert run(plan) == pytest.approx(x, rel=1e-9)
    assert {len(step.branches) for step in compile_plan("ddim:3", DENOISING, CfgPlusPlus(1.0)).steps} == {2}


@pytest.mark.parametrize(
    ("weights", "guided"),
    [
        (
            {"cond": 7.5, "image": 1.5 - 7.5, "uncond": 1 - 1.5},
            lambda both, image, none: none + 1.5 * (image - none) + 7.5 * (both - image),
        ),
        (
            {"cond": 7.5 + 1.5, "image": 0.5 - 7.5, "text": 0.5 - 1.5},
            lambda both, image, text: (image + text) / 2 + 7.5 * (both - image) + 1.5 * (both - text),
        ),
    ],
    ids=["InstructPix2Pix, equation 3", "the code of PromptFix"],
)
def test_three_branches_with_their_own_weights(weights, guided):
    plan = compile_plan("dpmpp_2m:5", DENOISING, Branches(weights))
    assert plan.steps[0].branches == tuple(weights)
    by_hand = one_branch(lambda index, step, u: guided(*(eps(branch, step, u) for branch in weights)))
    assert run(plan) == pytest.approx(run(compile_plan("dpmpp_2m:5", DENOISING), by_hand), rel=1e-9)


FORMS = (2.5, Cfg((2.0, 1.0)), Cfg(2.0, (-1.0, 1.0)), CfgPlusPlus(0.5), Residual(1.4, 0.9, "onetime"))


@pytest.mark.parametrize("guidance", FORMS)
def test_every_form_survives_its_file(guidance):
    plan = compile_plan("dpmpp_2m:4", DENOISING, guidance)
    assert decode(encode(plan)) == plan


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        (Cfg(float("nan")), "not finite"),
        (Cfg(()), "has no weight"),
        (Cfg(2.0, (1.0, 1.0)), r"interval \(1.0, 1.0\)"),
        (Branches({"cond": 2.0}), "do not sum to 1"),
        (Branches({"cond": (1.0,), "edit": ()}), "has a branch without a weight"),
        ("2", "guidance '2' is not a finite number"),
        (True, "guidance True is not a finite number"),
        ((2, 1), r"not a finite number; give Cfg\(\(2, 1\)\) of fewstep.plans.guidance for a weight for each"),
        (Cfg("2"), r"expected `float \| array`, got `str` - at `\$.weight`"),
        (Cfg(2.0, (1.0, 2.0, 3.0)), "of length 2, got 3"),
        (Branches(["cond"]), "expected `object`, got `array`"),
        (Cfg(object()), "is not a number"),
        (CfgPlusPlus(-0.5), "weight -0.5, which is below 0"),
    ],
)
def test_what_is_no_guidance_is_named(guidance, message):
    with pytest.raises(UserError, match=message):
        compile_plan("ddim:4", DENOISING, guidance)


def test_a_denoiser_without_a_null_condition_takes_no_unconditional_branch():
    unguided = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=False)
    for guidance in (2.0, CfgPlusPlus(0.5), Branches({"cond": 2.0, "uncond": -1.0})):
        with pytest.raises(UserError, match="needs an unconditional branch"):
            compile_plan("ddim:4", unguided, guidance)
    perturbed = compile_plan("ddim:4", unguided, Branches({"cond": 3.0, "perturbed": -2.0}))
    assert perturbed.steps[0].branches == ("cond", "perturbed")


def test_a_preview_is_the_guided_prediction():
    plan = compile_plan("ddim:3", DENOISING, 2.0)
    for state in execute(plan, network, lambda draw: X, np.float64):
        guided = 2 * state.outputs[0] - state.outputs[1]
        assert state.x0 == pytest.approx((state.u - state.step.sigma * guided) / state.step.alpha)


def test_guidance_in_words():
    assert [describe(g) for g in (None, Cfg(2.0))] == ["none", "2"]
    assert describe(CfgPlusPlus(0.5)) == "cfg++:0.5"


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (2, Cfg(2.0)),
        (Cfg(2), Cfg(2.0)),
        (Cfg([2, 1]), Cfg((2.0, 1.0))),
        (Cfg(np.float32([2, 1])), Cfg((2.0, 1.0))),
        (Cfg(2.0, [np.float32(-1), 1]), Cfg(2.0, (-1.0, 1.0))),
    ],
)
def test_numbers_and_lists_of_any_kind_are_the_same_guidance(given, same):
    plan = compile_plan("ddim:4", DENOISING, given)
    assert plan == compile_plan("ddim:4", DENOISING, same) and decode(encode(plan)) == plan
    assert weight_of(Cfg(2)) == 2 and describe(Cfg(2)) == "2"


def test_rescaling_needs_a_conditional_branch():
    with refuses("Rescale needs the branch 'cond'"):
        compile_plan("ddim:4", DENOISING, Branches({"image": 2.0, "perturbed": -1.0}), Rescale(0.7))


LINEAR = DenoiserFacts(ScheduleSpec("scaled-linear"), "epsilon", guided=True)
FRAME = np.linspace(-0.5, 0.8, 6).reshape(2, 3)


def noises(number):
    return np.random.default_rng(number).standard_normal((2, 3))


def by_the_stock_recurrence(plan, kind, g, delta, sigma_data=0.5, timestep_scaling=10.0):
    """StreamDiffusion's pipeline on one frame: x and the stock noise n move from slot to slot. The fixed noise z_j
    is that of the plan's own draws.
    """
    slots = [(step.alpha, step.sigma, timestep_scaling * step.time) for step in plan.steps]
    z = [noises(plan.start_draws[0]), *(noises(step.draws[0]) for step in plan.steps[:-1])]
    a, b, _ = slots[0]
    x = a * FRAME + b * z[0]
    n = z[0] if kind == "self" else eps("uncond", plan.steps[0], x)
    for j, (a, b, u) in enumerate(slots):
        c_skip, c_out = sigma_data**2 / (u**2 + sigma_data**2), u / np.sqrt(u**2 + sigma_data**2)
        e = delta * n + g * (eps("cond", plan.steps[j], x) - delta * n)
        denoised = c_out * (x - b * e) / a + c_skip * x
        if j + 1 == len(slots):
            return denoised
        after_a, after_b, _ = slots[j + 1]
        n = z[j + 1] + after_a / after_b * (c_out * (b * n - b * e) / a + c_skip * b * n)
        x = after_a * denoised + after_b * z[j + 1]


@pytest.mark.parametrize(("given", "delta"), [({}, 1.0), ({"delta": 0.8}, 0.8)])
@pytest.mark.parametrize("kind", ["self", "onetime"])
def test_residual_guidance_is_the_recurrence_of_streamdiffusion(kind, given, delta):
    """Its stored noise is the noise that remains on the frame. The two differ by c_out + alpha c_skip - 1, which at
    such small times is in the fourth digit.
    """
    plan = compile_plan("lcm:7", LINEAR, Residual(1.4, kind=kind, **given), strength=0.6)
    assert len(plan.steps) == 4 and plan.rows == 2
    assert [step.branches for step in plan.steps[1:]] == [("cond",)] * 3
    assert plan.steps[0].branches == (("cond",) if kind == "self" else ("cond", "uncond"))
    made = sample(plan, network, noises, np.float64, {"image": FRAME})
    np.testing.assert_allclose(made, by_the_stock_recurrence(plan, kind, 1.4, delta), atol=1e-6)


@pytest.mark.parametrize("name", ["ddim:5", "dpmpp_2m:5", "heun:3", "unipc_3:6", "ddpm:4", "pndm:6", "tcd:4"])
@pytest.mark.parametrize("facts", [LINEAR, DenoiserFacts(ScheduleSpec("flow"), "flow", guided=True)], ids=str)
def test_residual_guidance_is_for_every_solver(name, facts):
    """The noise that remains on the frame, in every evaluation, converted to the network's prediction."""
    if name == "tcd:4" and facts.schedule.kind == "flow":
        return  # its times are no timesteps
    plan = compile_plan(name, facts, Residual(1.7), strength=0.8)

    def by_hand(index, step, u):
        left = (u - step.alpha * FRAME) / step.sigma
        other = left if facts.prediction == "epsilon" else left - FRAME
        return 1.7 * eps("cond", step, u) - 0.7 * other

    expected = sample(
        compile_plan(name, facts, strength=0.8), one_branch(by_hand), noises, np.float64, {"image": FRAME}
    )
    np.testing.assert_allclose(sample(plan, network, noises, np.float64, {"image": FRAME}), expected, atol=1e-9)


def test_residual_guidance_from_noise_is_away_from_the_mean_image():
    """Without an image the reference is 0, and x0 is the conditional one times the weight."""
    made = run(compile_plan("ddim:4", LINEAR, Residual(1.5)))
    expected = run(compile_plan("ddim:4", LINEAR), one_branch(
        lambda i, step, u: (u - step.alpha * 1.5 * (u - step.sigma * eps("cond", step, u)) / step.alpha) / step.sigma
    ))  # fmt: skip
    np.testing.assert_allclose(made, expected, atol=1e-9)


def test_residual_guidance_is_refused_where_it_has_no_meaning():
    pure = DenoiserFacts(ScheduleSpec("scaled-linear", zero_terminal_snr=True), "v", guided=True)
    assert compile_plan("ddim:4", pure, Residual(1.4)).steps
    cases = [
        (pure, Residual(1.4, 0.5), "delta below 1 does not work from pure noise"),
        (
            DenoiserFacts(ScheduleSpec("cosine"), "v", guided=False),
            Residual(1.4, kind="onetime"),
            "unconditional branch",
        ),
        (DenoiserFacts(ScheduleSpec("rddm"), "residual", heads=2, towards="y"), Residual(1.4), "several outputs"),
        (DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"), Residual(1.4), "restores 'y'"),
        (LINEAR, Residual(float("inf")), "not finite"),
    ]
    for facts, guidance, line in cases:
        with pytest.raises(UserError, match=line):
            compile_plan("ddim:4", facts, guidance)


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_pag_adds_to_cfg_what_leads_away_from_perturbed_attention(weight):
    """Ahn et al. 2024, which diffusers' pipelines add with a weight."""
    plan = compile_plan("ddim:5", DENOISING, Pag(3.0, weight))
    assert plan.steps[0].branches == (("cond", "perturbed") if weight == 1 else ("cond", "uncond", "perturbed"))
    assert decode(encode(plan)) == plan

    def by_hand(index, step, u):
        cond, uncond, perturbed = (eps(branch, step, u) for branch in ("cond", "uncond", "perturbed"))
        return uncond + weight * (cond - uncond) + 3.0 * (cond - perturbed)

    expected = run(compile_plan("ddim:5", DENOISING), one_branch(by_hand))
    assert run(plan) == pytest.approx(expected, rel=1e-9)


def test_pag_needs_perturbed_attention():
    with pytest.raises(UserError) as refused:
        compile_plan("ddim:5", DenoiserFacts(ScheduleSpec("cosine"), "epsilon", perturbed=False), Pag(2.0))
    assert refused.value.what == "guidance pag:2 needs perturbed attention, which this network lacks"
    assert "--change pag:middle" in refused.value.fix
    unconditional = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=False)
    assert len(compile_plan("ddim:5", unconditional, Pag(2.0)).steps[0].branches) == 2
    with pytest.raises(UserError, match="needs an unconditional branch"):
        compile_plan("ddim:5", unconditional, Pag(2.0, 3.0))


@pytest.mark.parametrize(
    ("text", "form"),
    [("2", Cfg(2.0)), ("pag:3", Pag(3.0)), ("2.5+pag:0.5", Pag(0.5, 2.5)), ("0.1+pag:2", Pag(2.0, 0.1))]
    + [("pag:0.12345678", Pag(0.12345678)), ("steer:1234567.5", Steer(1234567.5))]
    + [("steer:1", Steer()), ("2+pag:3+steer:0.5", Steer(0.5, guidance=Pag(3.0, 2.0)))]
    + [("cfg++:0.6", CfgPlusPlus(0.6)), ("4,3", Cfg((4.0, 3.0))), ("2,1,1.5", Cfg((2.0, 1.0, 1.5)))]
    + [("steer:2,0", Steer((2.0, 0.0))), ("4,3+steer:1", Steer(1.0, guidance=Cfg((4.0, 3.0))))],
)
def test_a_text_names_a_guidance(text, form):
    read = from_text(text)
    assert read == (form.weight if text == "2" else form)
    assert to_text(form) == describe(form) == text


@pytest.mark.parametrize("text", ["pag", "pag:", "2+cfg:3", "strong", "", "pag:2+3", "4,", ",3", "pag:3,2"])
def test_another_text_is_refused(text):
    with refuses("not a number", "2, pag:3"):
        from_text(text)


def test_refused_guidance_names_what_encoded_prompts_need():
    denoiser = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=False, without_null=("text",))
    with refuses("needs an unconditional branch", ("--null text=VALUE", "--null NAME=@FILE")):
        compile_plan("ddim:4", denoiser, 6.0)


def test_refused_guidance_of_a_distilled_network_names_its_condition():
    denoiser = DenoiserFacts(ScheduleSpec("flow"), "flow", guided=False, without_null=("class", "weight"))
    fixes = "give the weight as the condition: -c weight=VALUE, if it is of guidance, or export with --null class=VALUE"
    with refuses("needs an unconditional branch", fixes):  # a weight may be another one, such as a person's
        compile_plan("ddim:4", denoiser, 2.0)
    with refuses("needs an unconditional branch", "give the weight as the condition: -c guidance=VALUE"):
        compile_plan("ddim:4", DenoiserFacts(denoiser.schedule, "flow", guided=False, without_null=("guidance",)), 2.0)


def test_perturbed_attention_has_one_weight_of_cfg():
    with refuses(("'4,3+pag:2'", "several weights with pag:"), "2+pag:3"):
        from_text("4,3+pag:2")


@pytest.mark.parametrize("text", ["cfg++:", "cfg++:0.6+pag:3", "cfg++:strong"])
def test_a_text_of_cfg_plus_plus_without_one_weight_is_refused(text):
    with refuses("not a number", "cfg++:0.6"):
        from_text(text)
