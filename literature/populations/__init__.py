"""Populations of several particles per sample, which are weighted during sampling, and the hooks that weight them."""

from fewstep.literature.populations.population import Population, evolve, population
from fewstep.literature.populations.weighting_hooks import Steering, guidance_corrector, trajectory_variance

__all__ = ["Population", "Steering", "evolve", "guidance_corrector", "population", "trajectory_variance"]
