"""Plans and schedules from the configuration files of other libraries."""

from fewstep.plans.configs.diffusers import plan_from_scheduler_config, schedule_from_scheduler_config

__all__ = ["plan_from_scheduler_config", "schedule_from_scheduler_config"]
