"""Plans of numbers and plans of tokens: both are a table of steps, and say what they were compiled for."""

from fewstep.plans.plan import Plan, Step
from fewstep.plans.tokens import TokenPlan, TokenStep

AnyStep = Step | TokenStep
AnyPlan = Plan | TokenPlan
