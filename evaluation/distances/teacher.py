"""The float32 teacher of a judgement: where the same noise goes in so many steps that more change nothing."""

from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.feeds import told_two_times
from fewstep.runtime.sampler import Sampler

STEPS = 200


def teacher_plan(sampler: Sampler, asked: str | None, guidance: Guidance | None) -> Plan:
    """The plan that was asked for; by default `dpmpp_2m` in 200 steps, or as many as there are timesteps, and `ctm` for
    a network that is told two times."""
    if asked is None:
        timesteps = NoiseSchedule(sampler.bundle.manifest.schedule).timesteps or STEPS
        solver = "ctm" if told_two_times(sampler.bundle, sampler.body) else "dpmpp_2m"
        asked = f"{solver}:{min(STEPS, timesteps)}"
    return sampler.compile(asked, guidance)
