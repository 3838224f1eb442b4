"""Configuration files of other libraries are read here into schedules and plans."""

from fewstep.plans.configs.diffusers import plan_from_scheduler_config, schedule_from_scheduler_config
from fewstep.plans.configs.tokens import sampler_from_scheduler_config

__all__ = ["plan_from_scheduler_config", "sampler_from_scheduler_config", "schedule_from_scheduler_config"]
