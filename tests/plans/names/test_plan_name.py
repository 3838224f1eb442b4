import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.plans import grids, solvers
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import parameters
from fewstep.plans.names.plan_name import parse_plan_name, with_grid
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.gaussian import COSINE, denoising
from tests.refusals import refuses

V = denoising(COSINE, "v")


def test_a_plain_name_is_a_solver_and_a_number_of_steps_on_the_default_grid():
    parsed = parse_plan_name("dpmpp_2m:8")
    assert (parsed.solver, parsed.steps, parsed.grid) == (solvers.dpmpp_2m, 8, grids.trailing)
    assert parsed.text == "dpmpp_2m:8"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (" ddim ( eta = 0.50 ) : 010 ", "ddim(eta=0.5):10"),
        ("ddim(eta=1):4", "ddim(eta=1):4"),
        ("ddim(eta=0):4@trailing", "ddim:4"),
        ("ddim():4@trailing()", "ddim:4"),
        ("ddim(eta=1e-05):4", "ddim(eta=1e-05):4"),
        ("unipc_3:8", "unipc_3:8"),
        ("unipc(order=3):8", "unipc_3:8"),
        ("unipc(order=2, on_noise=False, bh1=True):8@trailing", "unipc_2(bh1=True):8"),
        ("dpmpp_singlestep(eta=1, order=3, diffusers_sign=True):6", "dpmpp_singlestep_3(diffusers_sign=True, eta=1):6"),
    ],
)
def test_names_are_kept_in_canonical_form(name, canonical):
    assert parse_plan_name(name).text == canonical
    assert parse_plan_name(canonical).text == canonical
    assert compile_plan(name, V).name == canonical


@pytest.mark.parametrize(
    ("name", "solver", "shown"),
    [
        ("noisy:4", "ddim(eta=1):4", "noisy:4"),
        ("noisy( eta = 0.50 ):4", "ddim(eta=0.5):4", "noisy(eta=0.5):4"),
        ("noisy(eta=0):4@edm", "ddim:4@karras(sigma_max=80, sigma_min=0.002)", "noisy(eta=0):4@edm"),
    ],
)
def test_a_plan_keeps_a_name_of_the_literature(monkeypatch, name, solver, shown):
    monkeypatch.setattr(solvers, "ALIASES", {"noisy": "ddim(eta=1)"}, raising=False)
    assert compile_plan(name, V).name == shown
    assert compile_plan(name, V).steps == compile_plan(shown, V).steps == compile_plan(solver, V).steps


@pytest.mark.parametrize("name", ["euler:4", "flow_heun:4", "euler:4@karras", "euler(eta=0.5):4", "euler_ancestral:4"])
@pytest.mark.parametrize(
    ("schedule", "grid"),
    [
        ("flow", "trailing"),
        ("flow", "arctan"),
        ("flow", "flow_shift(shift=3)"),
        ("cosine", "trailing"),
        ("cosine", "arctan"),
    ],
)
def test_the_name_of_a_compiled_plan_means_the_same_plan(name, grid, schedule):
    denoiser = DenoiserFacts(ScheduleSpec(schedule), "flow" if schedule == "flow" else "v", grid=grid)
    plan = compile_plan(name, denoiser)
    assert plan.name.startswith(name)
    assert with_grid(plan.name) in (plan.name, f"{plan.name}@trailing")
    assert compile_plan(with_grid(plan.name), denoiser).steps == plan.steps


def test_parameters_reach_the_solver():
    assert compile_plan("euler_ancestral:6", V).steps == compile_plan("ddim(eta=1):6", V).steps
    assert compile_plan("ddim(eta=0.5):6", V).steps != compile_plan("ddim:6", V).steps


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maskgt:8", "unknown solver 'maskgt'.*choose maskgit"),
        ("dpmpp_9m:8", "unknown solver 'dpmpp_9m'.*choose dpmpp_.*plan --list"),
        ("euler_a:8", "unknown solver 'euler_a' .*; write euler_ancestral:8; `fewstep plan --list`"),
        ("DPM++ 2M Karras:12", "unknown solver 'DPM.*; write dpmpp_2m:12@karras;"),
        ("dpmpp_2m_sde_gpu:6@exponential", "write dpmpp_2m_sde:6@exponential;"),
        ("EulerAncestralDiscreteScheduler", "write euler_ancestral:8;"),
        ("UniPC:8", "write unipc_2:8;"),
        ("res_multistep_cfg_pp:8", "unknown solver 'res_multistep_cfg_pp' .*; write res_2m:8;"),
        ("ER-SDE-Solver:8", "write er_sde:8;"),
        ("sample_gradient_estimation:8", "write gradient_estimation:8;"),
        ("cfgpp:8", "unknown solver 'cfgpp' in plan 'cfgpp:8'; `fewstep plan --list` shows all$"),
        ("fitted", "plan 'fitted' does not have a number of evaluations; write fitted:6$"),
        ("fited:5", "unknown solver 'fited' in plan 'fited:5'; choose fitted; `fewstep plan --list` shows all"),
        ("fitted:5", "plan 'fitted:5' is a fitted plan, which exists only in a bundle; name a solver$"),
        ("ddim:8@carrot", "unknown grid 'carrot'.*choose one of .*trailing"),
        ("ddim", "does not have a number of steps.*ddim:8"),
        ("ddim(eta=0.5)", r"does not have a number of steps.*ddim\(eta=0.5\):8"),
        ("ddim:-3", "does not have a number of steps"),
        ("ddim:٣", "does not have a number of steps"),
        ("ddim:" + "9" * 5000, "has 5005 characters"),
        ("ddim:" + "9" * 50, "does not have a number of steps"),
        ("ddim(theta=0.5):8", "ddim has no parameter 'theta'.*give one of eta"),
        ("s_pndm(eta=0.5):8", "s_pndm has no parameter 'eta'.*it takes none"),
        ("ddim(eta=True):8", r"ddim\(eta=...\) cannot be True.*give a number"),
        ("ddim(eta=1e999):8", r"ddim\(eta=...\) cannot be inf"),
        ("ddim(eta=[1, 2]):8", "cannot be"),
        ("ddim(0.5):8", "is not NAME or NAME"),
        ("ddim(eta='x'):8", "is not NAME or NAME"),
        ("ddim(eta=0.5, eta=0.6):8", "is not NAME or NAME"),
        ("ddim(**x):8", "is not NAME or NAME"),
        ("ddim(eta=__import__('os').getcwd()):8", "is not NAME or NAME"),
        ("ddim(eta=" + "(" * 900 + "1" + ")" * 900 + "):8", "is not NAME or NAME"),
        ("ddim(eta=" + "-" * 3000 + "1):8", "is not NAME or NAME"),
        ("", "is not NAME or NAME"),
        ("garbage.npz", "'garbage.npz' is not a plan: it is not NAME or NAME"),
        ("unipc:8", "write unipc_2:8;"),
        ("unipc(bh1=True):8", r"solver unipc needs order \(plan .*; choose one of unipc_1, unipc_2, unipc_3, unipc_4$"),
        ("deis_t:8", "solver deis_t needs order .*; choose one of deis_t_2, deis_t_3, deis_t_4$"),
        ("lms(order=5):8", r"lms\(order=...\) cannot be 5 \(plan .*; choose one of 2, 3, 4$"),
        ("unipc(order=2.5):8", r"unipc\(order=...\) cannot be 2.5 .*give an integer"),
        ("unipc(order=True):8", r"unipc\(order=...\) cannot be True .*give an integer"),
        ("unipc_3(order=2):8", "solver unipc_3 has no parameter 'order' .*give one of bh1, on_noise"),
        ("lms_3(order=2):8", "solver lms_3 has no parameter 'order' .*it takes none"),
        ("dpmpp_singlestep_2(diffusers_sign=True):8", "dpmpp_singlestep_2 has no parameter 'diffusers_sign'"),
        ("dpm(order=2):8", "unknown solver 'dpm'"),
        ("ddim:8@published(order=2)", "unknown grid 'published'"),
        ("published(order=2):8", "unknown solver 'published'"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name, message):
    with pytest.raises(UserError, match=message):
        parse_plan_name(name)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.text(max_size=40) | st.from_regex(r"ddim\([a-z0-9=., \[\]-]{0,20}\):[0-9]{0,3}(@[a-z()]{0,9})?", fullmatch=True)
)
def test_no_text_fails_otherwise_than_by_a_user_error(name):
    try:
        parsed = parse_plan_name(name)
    except UserError as error:
        assert "\n" not in str(error) or "\n" in name
    else:
        assert parse_plan_name(parsed.text).text == parsed.text


@given(st.floats(min_value=0, max_value=1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_number_in_a_name_keeps_all_its_digits(eta):
    parsed = parse_plan_name(f"ddim(eta={eta!r}):3")
    assert getattr(parsed.solver, "keywords", {"eta": 0.0})["eta"] == eta


@pytest.mark.parametrize("function", [getattr(m, name) for m in (solvers, grids) for name in m.__all__])
def test_every_parameter_has_a_default_a_name_can_leave_out(function):
    for parameter in parameters(function).values():
        assert parameter.default is not parameter.empty or function in (grids.custom, grids.table)


@pytest.mark.parametrize("name", ["ddim(eta=0x4or 1):2", "ddim(eta=1if 1else 0):2", "ddim:2@karras(rho=0x7or 1)"])
def test_a_number_that_runs_into_a_word_is_no_warning_of_python(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="is not NAME or NAME"):
            parse_plan_name(name)


def test_times_that_are_too_close_give_one_line() -> None:
    """deis interpolates between times, 1000 of which round to the same on a grid of 10 knots."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="coefficient is nan .*two times are too close"):
            compile_plan("deis_t_3:1000@ays_svd", DenoiserFacts(ScheduleSpec("linear"), "epsilon"))


def test_a_scheduler_without_steps_gets_a_number_and_not_another_solver() -> None:
    with refuses("'scheduler'", "scheduler:20"):
        parse_plan_name("scheduler")
