"""Sample with populations of several weighted particles per sample, and the functions that compute the weights."""

from fewstep.literature.populations.population import Population, evolve, population
from fewstep.literature.populations.weighting_hooks import Steering, guidance_corrector, trajectory_variance

__all__ = ["Population", "Steering", "evolve", "guidance_corrector", "population", "trajectory_variance"]
