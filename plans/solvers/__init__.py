"""Solvers are plain arithmetic on symbolic states, `solver(trace, times) -> sample`, traced into plans.

`__all__` lists the solver names of plans ("dpmpp_2m:8"). `ALIASES` maps further names of the literature to solvers with
the same arithmetic ("euler:8" is "ddim:8"). Each order of a family has a separate name: "unipc_2:8" is `unipc` with
order 2.

A new solver needs only a file: this package finds it by its decorator (docs/developing.md, "Add a solver").
"""

from importlib import import_module
from pkgutil import iter_modules

from fewstep.plans.publication import find_published, solvers_by_name

_published = {
    name: member
    for module in iter_modules(__path__, f"{__name__}.")
    for name, member in find_published(vars(import_module(module.name))).items()
}
_solvers = solvers_by_name(_published)
globals().update(_published | _solvers)  # the functions, and the orders of families, which have no function by name
__all__ = sorted(_solvers)

ALIASES = {
    "deis_rho_2": "lms_2",
    "deis_rho_3": "lms_3",
    "deis_rho_4": "lms_4",
    "dpm_1": "ddim",
    "dpm_2_ancestral": "dpm_2(eta=1)",
    "dpmpp_1": "ddim",
    "dpmpp_1_sde": "ddpm",
    "dpmpp_2s_ancestral": "dpmpp_2s(eta=1)",
    "edm_stochastic": "edm_heun(s_churn=40, s_tmin=0.05, s_tmax=50, s_noise=1.003)",
    "euler": "ddim",
    "euler_ancestral": "ddim(eta=1)",
    "euler_ancestral_rf": "flow_ancestral",
    "flow_euler": "ddim",
    "flow_heun": "heun",
    "flow_sde": "renoise",
    "ipndm_v_2": "lms_2",
    "ipndm_v_3": "lms_3",
    "ipndm_v_4": "lms_4",
    "kdpm_2": "dpm_2",
    "one_step": "ddim",
    "plms": "pndm",
    "res_2m": "dpmpp_2m(midpoint=False)",
    "sb_ode": "ddim",
    "sb_sde": "resshift",
    "unipc_2_bh1": "unipc_2(bh1=True)",
}
