"""Samplers as plain arithmetic on symbolic states: `solver(sampler, times) -> sample`, traced into plans.

`__all__` is what a plan's name may start with ("dpmpp_2m:8").
"""

from fewstep.runtime.solvers.ddim import ddim, ddpm
from fewstep.runtime.solvers.dpmpp import dpmpp_2m
from fewstep.runtime.solvers.heun import heun

__all__ = ["ddim", "ddpm", "dpmpp_2m", "heun"]
