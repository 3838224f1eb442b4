"""The guidance of a pipeline's call, as export describes it."""

from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.pipelines.relations.networks import RecordedNetworks
from fewstep.pipelines.usual_guidance import describe_guidance
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan

UNCOND_FIRST = SimpleNamespace(conditional=1, unconditional=0)


def network(*weights: float) -> Any:
    """Return a network whose pipeline has these weights of the conditional branch in its steps."""
    rows = tuple((1 - weight, weight) for weight in weights)
    found = SimpleNamespace(branches=2, combination=SimpleNamespace(weights=rows, change=None))
    return SimpleNamespace(found=found, arguments=UNCOND_FIRST)


def plan(steps: int) -> Any:
    """Return a plan that begins at lambda -infinity and goes on from -1.5 in steps of 0.5."""
    lams = [None, *(0.5 * number - 2.0 for number in range(1, steps))]
    return SimpleNamespace(steps=[SimpleNamespace(lam=lam) for lam in lams])


def no_plan(steps: int) -> Plan:
    raise UserError(f"{steps} steps were not recorded", "give 8")


def test_a_weight_of_each_network_is_that_of_its_steps() -> None:
    modules = RecordedNetworks({"transformer": network(4.0, 4.0), "transformer_2": network(3.0)}, until=-1.2)
    described = "the default guidance of its pipeline is 4 in the steps of transformer and 3 in those of transformer_2"
    examples = "for scheduler:4 --guidance 4,4,3 and for scheduler:8 --guidance 4,4,3"
    assert describe_guidance(modules, plan) == f"{described}: {examples}"
    assert describe_guidance(modules, no_plan) == described


@pytest.mark.parametrize(("until", "options"), [(9.0, "4,4,4,4 and"), (-2.0, "4,3 and")])
def test_the_weights_follow_the_boundary(until: float, options: str) -> None:
    modules = RecordedNetworks({"transformer": network(4.0), "transformer_2": network(3.0)}, until=until)
    assert f"for scheduler:4 --guidance {options}" in describe_guidance(modules, plan)


def test_networks_with_one_weight_have_one_number() -> None:
    modules = RecordedNetworks({"transformer": network(4.0), "transformer_2": network(4.0, 4.0)}, until=-1.2)
    assert describe_guidance(modules, plan) == "the default guidance of its pipeline is --guidance 4"


def test_weights_that_change_within_a_network_are_said_to_change() -> None:
    modules = RecordedNetworks({"transformer": network(4.0, 2.0), "transformer_2": network(3.0)}, until=-1.2)
    assert describe_guidance(modules, plan).endswith("it begins with -3 of uncond, 4 of cond")
