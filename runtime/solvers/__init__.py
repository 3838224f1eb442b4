"""Samplers as plain arithmetic on symbolic states: `solver(sampler, times) -> sample`, traced into plans.

`__all__` is what a plan's name may start with ("dpmpp_2m:8").
"""

from fewstep.runtime.solvers.ddim import ddim, ddpm
from fewstep.runtime.solvers.deis import deis_log_rho_2, deis_log_rho_3, deis_t_2, deis_t_3, deis_t_4
from fewstep.runtime.solvers.dpm import dpm_2, dpm_3
from fewstep.runtime.solvers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_3m, dpmpp_3m_exact
from fewstep.runtime.solvers.heun import heun
from fewstep.runtime.solvers.ipndm import ipndm
from fewstep.runtime.solvers.lms import lms_2, lms_3, lms_4
from fewstep.runtime.solvers.unipc import unipc_1, unipc_2, unipc_2_bh1, unipc_3

__all__ = [
    "ddim",
    "ddpm",
    "deis_log_rho_2",
    "deis_log_rho_3",
    "deis_t_2",
    "deis_t_3",
    "deis_t_4",
    "dpm_2",
    "dpm_3",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3m_exact",
    "heun",
    "ipndm",
    "lms_2",
    "lms_3",
    "lms_4",
    "unipc_1",
    "unipc_2",
    "unipc_2_bh1",
    "unipc_3",
]
