"""A grid returns the times of a plan, `grid(schedule, steps, *, parameters) -> times`, from noisy to clean.

`__all__` lists the grid names of plans ("dpmpp_2m:8@karras"). `ALIASES` are other names in use.
"""

from fewstep.plans.grids.angles import arctan
from fewstep.plans.grids.flows import dynamic_shift, flow_shift, sway
from fewstep.plans.grids.sigmas import beta, exponential, karras, uniform_lambda
from fewstep.plans.grids.tables import ays_sd, ays_sdxl, ays_svd, custom, table
from fewstep.plans.grids.timesteps import lcm, leading, linspace, quadratic, trailing

__all__ = [
    "arctan",
    "ays_sd",
    "ays_sdxl",
    "ays_svd",
    "beta",
    "custom",
    "dynamic_shift",
    "exponential",
    "flow_shift",
    "karras",
    "lcm",
    "leading",
    "linspace",
    "quadratic",
    "sway",
    "table",
    "trailing",
    "uniform_lambda",
]

ALIASES = {
    "edm": "karras(rho=7, sigma_min=0.002, sigma_max=80)",  # Karras et al. 2022, table 1
    "polyexponential": "exponential",
}
