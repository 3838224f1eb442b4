"""Solvers as plain arithmetic on symbolic states: `solver(trace, times) -> sample`, traced into plans.

`__all__` is what a plan's name may start with ("dpmpp_2m:8"); `ALIASES` are names of the literature for the same
arithmetic ("euler:8" is "ddim:8").
"""

from fewstep.plans.solvers.bdia import bdia, bdia_inverse
from fewstep.plans.solvers.consistency import consistency, ctm, lcm, renoise, tcd
from fewstep.plans.solvers.dc_solver import dc_solver
from fewstep.plans.solvers.ddim import ddim, ddpm
from fewstep.plans.solvers.ddim_inverse import ddim_inverse
from fewstep.plans.solvers.deis import deis_log_rho_2, deis_log_rho_3, deis_t_2, deis_t_3, deis_t_4
from fewstep.plans.solvers.dpm import dpm_2, dpm_3
from fewstep.plans.solvers.dpm_multistep import (
    dpm_1_sde,
    dpm_2m,
    dpm_2m_sde,
    dpm_3m,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_exact,
    dpmpp_3m_sde,
)
from fewstep.plans.solvers.dpm_singlestep import (
    dpm_singlestep_2,
    dpm_singlestep_3,
    dpmpp_singlestep_2,
    dpmpp_singlestep_3,
)
from fewstep.plans.solvers.dpmpp import dpmpp_2s, dpmpp_3s, dpmpp_sde
from fewstep.plans.solvers.edict import edict, edict_inverse
from fewstep.plans.solvers.edm import edm_euler, edm_heun
from fewstep.plans.solvers.heun import heun
from fewstep.plans.solvers.lms import lms_2, lms_3, lms_4
from fewstep.plans.solvers.momentum import ghvb, hb
from fewstep.plans.solvers.pndm import f_pndm, ipndm, pndm, s_pndm
from fewstep.plans.solvers.rddm import rddm
from fewstep.plans.solvers.rectified_flow import flow_ancestral, rfpp
from fewstep.plans.solvers.resshift import resshift
from fewstep.plans.solvers.rk4 import rk4
from fewstep.plans.solvers.sa_solver import sa_solver
from fewstep.plans.solvers.score_sde import score_sde_pc
from fewstep.plans.solvers.sgmse import sgmse
from fewstep.plans.solvers.unipc import unipc_1, unipc_2, unipc_3, unipc_4

__all__ = [
    "bdia",
    "bdia_inverse",
    "consistency",
    "ctm",
    "dc_solver",
    "ddim",
    "ddim_inverse",
    "ddpm",
    "deis_log_rho_2",
    "deis_log_rho_3",
    "deis_t_2",
    "deis_t_3",
    "deis_t_4",
    "dpm_1_sde",
    "dpm_2",
    "dpm_2m",
    "dpm_2m_sde",
    "dpm_3",
    "dpm_3m",
    "dpm_singlestep_2",
    "dpm_singlestep_3",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3m_exact",
    "dpmpp_3m_sde",
    "dpmpp_3s",
    "dpmpp_sde",
    "dpmpp_singlestep_2",
    "dpmpp_singlestep_3",
    "edict",
    "edict_inverse",
    "edm_euler",
    "edm_heun",
    "f_pndm",
    "flow_ancestral",
    "ghvb",
    "hb",
    "heun",
    "ipndm",
    "lcm",
    "lms_2",
    "lms_3",
    "lms_4",
    "pndm",
    "rddm",
    "renoise",
    "resshift",
    "rfpp",
    "rk4",
    "s_pndm",
    "sa_solver",
    "score_sde_pc",
    "sgmse",
    "tcd",
    "unipc_1",
    "unipc_2",
    "unipc_3",
    "unipc_4",
]

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
    "sb_ode": "ddim",
    "sb_sde": "resshift",
    "unipc_2_bh1": "unipc_2(bh1=True)",
}
