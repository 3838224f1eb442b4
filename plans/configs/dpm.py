"""Multistep and singlestep solvers in lambda: DPM-Solver, DPM-Solver++, DEIS, UniPC, SA-Solver.

Their grid is computed with one more point than there are steps, and the last point is dropped. They do not scale x, and
start at standard deviation 1. The network receives a timestep that is truncated to an integer, even for a sigma between
two timesteps.
"""

import numpy as np

from fewstep.plans.configs import tables
from fewstep.plans.configs.classes import OTHER_SIGMAS
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import (
    SigmaTable,
    check_ends,
    flow_sigmas,
    respace_sigmas,
    space_timesteps,
    stretch_to_terminal,
)
from fewstep.plans.configs.recipe import (
    ScheduleRequest,
    SchedulerRecipe,
    append_end,
    bind_solver,
    check_shift,
    dynamic_shift,
    flow_time,
    invert_solver,
    shaping_of,
    uses_lower_order_final,
    variance_preserving_time,
)
from fewstep.plans.configs.tables import Array
from fewstep.plans.schedule import Time
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.tracer import Solver


def multistep(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of DPMSolverMultistepScheduler."""
    _check_mu(config, request)
    return _recipe(config, request, spec, multistep_solver(config, request), last=_last_timestep(config, spec))


def multistep_solver(config: SchedulerConfig, request: ScheduleRequest) -> Solver:
    """Return the solver that computes what DPMSolverMultistepScheduler, or its EDM variant, computes with this
    config."""
    order = _order(config, "solver_order", 3)
    on_noise, is_stochastic = _algorithm(config)
    lower, steps = uses_lower_order_final(config, request), request.steps
    if config["euler_at_final"] and not lower and config["final_sigmas_type"] == "sigma_min":
        if order == 3 and steps > 2:
            raise config.field_error(
                "euler_at_final", "it lowers only the last of the third-order steps", "set lower_order_final"
            )
        lower = True
    if order == 1:
        return bind_solver(("dpm_1_sde" if on_noise else "ddpm") if is_stochastic else "ddim")
    if order == 3 and is_stochastic and on_noise:
        raise config.field_error("solver_order", "sde-dpmsolver does not have this order", "set 2")
    family = "dpm" if on_noise else "dpmpp"
    name = f"{family}_{order}m" + ("_sde" if is_stochastic else "")
    midpoint = config["solver_type"] != "heun"
    # diffusers has the wrong sign of the second difference
    wrong = order == 3 and is_stochastic and config.scheduler == "DPMSolverMultistepScheduler"
    return bind_solver(name, midpoint=midpoint, lower_order_final=lower or None, diffusers_sign=wrong or None)


def _algorithm(config: SchedulerConfig) -> tuple[bool, bool]:
    """Return whether a DPM-Solver class integrates the predicted noise, and whether it solves the SDE."""
    algorithm = config["algorithm_type"].replace("deis", "dpmsolver++")
    on_noise = not algorithm.endswith("++")
    if on_noise and config["final_sigmas_type"] == "zero":
        raise config.field_error("final_sigmas_type", f"algorithm_type {algorithm} diverges there", "set sigma_min")
    return on_noise, algorithm.startswith("sde")


def multistep_inverse(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of DPMSolverMultistepInverseScheduler, from the given "x" to the noise, on its grid of
    increasing sigmas."""
    if config["solver_order"] == 1:
        raise config.field_error("solver_order", "its first order is DDIM's", "use DDIMInverseScheduler")
    for field in ("use_flow_sigmas", *OTHER_SIGMAS):
        if config[field]:
            raise config.field_error(field, "with it, the scheduler may drop steps", "leave it out")
    table, last, is_trailing = (
        SigmaTable(tables.rhos(spec)),
        _last_timestep(config, spec),
        config["timestep_spacing"] == "trailing",
    )
    timesteps = space_timesteps(config, request.steps + (not is_trailing), whole=True, last=last)[not is_trailing :]
    if len(set(timesteps)) < len(timesteps):
        raise config.field_error("timestep_spacing", "two steps are at one timestep", "use fewer steps")
    times = [
        variance_preserving_time(float(t), float(rho))
        for t, rho in zip(timesteps[::-1], table.interpolate(timesteps)[::-1], strict=True)
    ]
    *_, end = append_end([*times, variance_preserving_time(float(last - 1), float(table.rhos[last - 1]))], -1)
    solver = invert_solver(multistep_solver(config.with_fields(final_sigmas_type="sigma_min"), request))
    return SchedulerRecipe([end, *times[::-1]], solver, shaping=shaping_of(config), heads=_heads(config))


def singlestep(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of DPMSolverSinglestepScheduler: blocks of its order, with shorter blocks at the end, always
    with the spacing `linspace`."""
    _check_mu(config, request)
    order = _order(config, "solver_order", 3)
    on_noise, is_stochastic = _algorithm(config)
    if order == 1:
        solver = bind_solver("ddpm" if is_stochastic else "ddim")
    else:
        lower = config["lower_order_final"] or request.steps % order != 0 or config["final_sigmas_type"] == "zero"
        family = "dpm_singlestep" if on_noise else "dpmpp_singlestep"
        midpoint = config["solver_type"] != "heun"
        wrong = order == 3 and is_stochastic and not midpoint  # the wrong sign of diffusers, as in multistep_solver
        eta = 1.0 if is_stochastic else None
        solver = bind_solver(
            family, order=order, midpoint=midpoint, lower_order_final=lower, eta=eta, diffusers_sign=wrong or None
        )
    even = config.with_fields(timestep_spacing="linspace")
    return _recipe(even, request, spec, solver, last=_last_timestep(config, spec), karras_whole=True)


def deis(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe that reproduces a config of DEISMultistepScheduler. It always ends at the sigma of timestep 0,
    or at the last sigma of its grid."""
    _check_mu(config, request)
    order = _order(config, "solver_order", 3)
    lower = uses_lower_order_final(config, request) or None
    solver = bind_solver("ddim") if order == 1 else bind_solver("deis_log_rho", order=order, lower_order_final=lower)
    return _recipe(config, request, spec, solver, ends="last", karras_whole=True)


def unipc(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe (solver, schedule and grid) that reproduces a config of UniPCMultistepScheduler. Raises
    UserError for a setting that is invalid or not supported."""
    if config["use_dynamic_shifting"] and "mu" not in request.arguments:
        raise config.field_error("use_dynamic_shifting", "it needs mu", 'give arguments={"mu": ...}')
    order = _order(config, "solver_order", 4)
    uncorrected = config["disable_corrector"]
    if not all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in uncorrected):
        raise config.field_error("disable_corrector", "it must be a list of steps, counted from 0", "correct the file")
    if config["shift_terminal"] is not None and not config["use_flow_sigmas"]:
        raise config.field_error("shift_terminal", "only flows have it", "leave it out, or set use_flow_sigmas")
    if config.fields.get("solver_p") is not None:
        raise config.field_error("solver_p", "plans have one solver", "leave it out")
    if not config["lower_order_final"] and config["final_sigmas_type"] == "zero" and order > 1:
        raise config.field_error("lower_order_final", "the step to sigma 0 diverges", "set it, or final_sigmas_type")
    if not config["predict_x0"] and config["prediction_type"] == "flow_prediction":
        raise config.field_error("predict_x0", "a velocity is not a noise prediction", "leave it out")
    repeats = any(config[sigma] for sigma in ("use_flow_sigmas", *OTHER_SIGMAS))  # with sigma_min, it is the last sigma
    lowers = config["lower_order_final"] or min(order, request.steps) < 3
    if repeats and not lowers and config["final_sigmas_type"] == "sigma_min":
        raise config.field_error("solver_order", "the last step has length 0 and no solution", "set lower_order_final")
    solver = bind_solver(
        "unipc",
        order=order,
        bh1=(config["solver_type"] == "bh1") or None,
        on_noise=(not config["predict_x0"]) or None,
        lower_order_final=config["lower_order_final"] or None,
        uncorrected=tuple(  # the last step has no corrector; diffusers also counts steps that a strength skips
            step - request.skipped for step in uncorrected if request.skipped <= step < request.steps - 1
        )
        or None,
    )
    if not config["predict_x0"]:  # diffusers then does not compute x0, which it would threshold
        config = config.with_fields(thresholding=False)
    return _recipe(config, request, spec, solver, ends="own", karras_whole=True)


def sa_solver(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of SASolverScheduler with its default tau: 1 at timesteps 200 .. 800, and 0 at others."""
    if config["tau_func"] is not None:
        raise config.field_error("tau_func", "plans cannot call a function", "leave it out")
    if config["algorithm_type"] != "data_prediction":
        raise config.field_error("algorithm_type", "the plan's sa_solver predicts the data", "set data_prediction")
    predictor, corrector = _order(config, "predictor_order", 4), _order(config, "corrector_order", 4)
    if corrector == 1:
        raise config.field_error("corrector_order", "a corrector needs two predictions or more", "set 2")
    solver = bind_solver(
        "sa_solver",
        predictor=predictor,
        corrector=corrector,
        tau=1.0,
        tau_from=200.0,
        tau_to=800.0,
        lower_order_final=bool(config["lower_order_final"]),
    )
    return _recipe(config, request, spec, solver, ends="last", karras_whole=True, last=_last_timestep(config, spec))


def _recipe(
    config: SchedulerConfig,
    request: ScheduleRequest,
    spec: ScheduleSpec,
    solver: Solver,
    *,
    ends: str = "table",
    karras_whole: bool | None = None,
    last: int | None = None,
) -> SchedulerRecipe:
    """Return the recipe (solver, schedule and grid) for the config of a scheduler of this family.

    ends: where spaced grids end with final_sigmas_type sigma_min (the only one of DEIS and SA-Solver): at the smallest
        sigma of the training timesteps ("table"), or at their own last sigma ("own", "last").
    karras_whole: whether to round the timesteps of Karras grids. None rounds them unless the betas are cosine.
    """
    fields = config.fields
    to_clean = ends != "last" and config["final_sigmas_type"] == "zero"
    if fields["use_flow_sigmas"]:
        if any(fields.get(name) for name in (*OTHER_SIGMAS, "use_lu_lambdas")):
            raise config.field_error("use_flow_sigmas", "diffusers mixes two schedules with other sigmas", "set one")
        times = _flow_times(config, request, to_clean, ends)
    else:
        table = SigmaTable(tables.rhos(spec))
        timesteps, rhos, end = _grid(config, request, table, ends, karras_whole, last)
        times = [
            variance_preserving_time(float(t), float(rho)) for t, rho in zip(np.trunc(timesteps), rhos, strict=True)
        ]
        times = append_end([*times, variance_preserving_time(0.0, 0.0 if to_clean else end)])
    return SchedulerRecipe(times, solver, start=1.0, shaping=shaping_of(config), heads=_heads(config))


def _heads(config: SchedulerConfig) -> int:
    """Return the number of outputs of the network: two if one of them is the variance, which these schedulers ignore,
    otherwise one."""
    return 2 if str(config.fields.get("variance_type")).startswith("learned") else 1


def _grid(
    config: SchedulerConfig,
    request: ScheduleRequest,
    table: SigmaTable,
    ends: str,
    karras_whole: bool | None,
    last: int | None,
) -> tuple[Array, Array, float]:
    """Return the network's timesteps, the values of sigma / alpha at these, and the final sigma, for grids that do not
    end at 0."""
    low, high = float(table.rhos[0]), float(table.rhos[-1])
    if config.fields.get("use_lu_lambdas") and not config["use_karras_sigmas"]:
        check_ends(config, "use_lu_lambdas", high, low)
        first, last = table.logs[-1], table.logs[0]
        rhos = np.exp(first + np.linspace(0, 1, request.steps) * (last - first))
        timesteps = table.timesteps(rhos)
        return (timesteps if config["beta_schedule"] == "squaredcos_cap_v2" else timesteps.round()), rhos, low
    other = respace_sigmas(config, high, low, request.steps)
    if other is None:
        given = request.timesteps
        timesteps = (
            space_timesteps(config, request.steps, extra=1, whole=True, last=last) if given is None else np.array(given)
        )
        return timesteps, table.interpolate(timesteps), low
    timesteps = table.timesteps(other)
    if karras_whole is None:
        karras_whole = config["beta_schedule"] != "squaredcos_cap_v2"
    if config["use_karras_sigmas"] and karras_whole:
        timesteps = timesteps.round()
    return timesteps, other, low if ends == "table" else float(other[-1])


def _flow_times(config: SchedulerConfig, request: ScheduleRequest, to_clean: bool, ends: str) -> list[Time]:
    T = config["num_train_timesteps"]
    if ends == "own":  # sigmas of UniPC, from 1 down, of which the first is slightly less than 1
        sigmas = np.linspace(1, 1 / T, request.steps + 1)[:-1]
        if config["use_dynamic_shifting"]:
            shift = dynamic_shift(config, request.arguments["mu"])
            sigmas = shift / (shift + (1 / sigmas - 1))
        else:
            shift = check_shift(config, "flow_shift", config["flow_shift"])
            sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        if config["shift_terminal"]:
            sigmas = stretch_to_terminal(config, sigmas)
        sigmas[0] -= 1e-6 * (abs(sigmas[0] - 1) < 1e-6)
    else:
        sigmas = flow_sigmas(config, request)
    if ends == "table" and not to_clean:
        raise config.field_error("final_sigmas_type", "a flow has no smallest sigma", "set zero")
    timesteps = np.trunc(sigmas * T)
    sigmas = sigmas.astype(np.float32).astype(np.float64)  # near 1 the rounding affects alpha = 1 - sigma
    times = [flow_time(float(t), float(sigma)) for t, sigma in zip(timesteps, sigmas, strict=True)]
    return append_end([*times, flow_time(0.0, 0.0 if to_clean else float(sigmas[-1]))])


def _check_mu(config: SchedulerConfig, request: ScheduleRequest) -> None:
    """Raise UserError for a mu that a class does not use. All classes here except UniPC shift by e^mu."""
    if "mu" not in request.arguments:
        return
    if not config["use_dynamic_shifting"]:
        raise config.field_error("use_dynamic_shifting", "mu is for a dynamic shift", "set it, or leave mu out")
    if config["time_shift_type"] != "exponential":
        raise config.field_error("time_shift_type", "the class shifts by e^mu", "set exponential")


def _last_timestep(config: SchedulerConfig, spec: ScheduleSpec) -> int:
    """Return one more than the noisiest timestep whose lambda is at least lambda_min_clipped."""
    if spec.kind == "flow":
        return int(config["num_train_timesteps"])
    with np.errstate(divide="ignore"):  # a first timestep without noise
        lams = -np.log(tables.rhos(spec))
    count = int(config["num_train_timesteps"])  # trained betas may be more, and the others are then unused
    if count > len(lams):
        why = f"timesteps are beyond the table of {len(lams)} betas"
        raise config.field_error("num_train_timesteps", why, f"set {len(lams)}")
    return count - int(np.searchsorted(lams[::-1], config["lambda_min_clipped"]))


def _order(config: SchedulerConfig, field: str, most: int) -> int:
    order = int(config[field])
    if not 1 <= order <= most:
        raise config.field_error(field, "the class does not support this value", f"set 1 to {most}")
    return order
