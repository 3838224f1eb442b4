"""The published facts of solvers, and their names in plans."""

import inspect
from functools import partial

import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan
from fewstep.plans.names.call_syntax import parameters
from fewstep.plans.names.plan_name import parse_plan_name
from fewstep.plans.publication import Published, facts_of, find_published, orders_of, solvers_by_name
from tests.plans.gaussian import COSINE, denoising

FAMILIES = {name: member for name, member in vars(solvers).items() if orders_of(member)}
MEMBERS = [(name, order) for name, family in FAMILIES.items() for order in orders_of(family)]


def test_the_orders_of_a_family_that_bundles_may_name():
    known = {
        "deis_log_rho": (2, 3),
        "deis_t": (2, 3, 4),
        "dpm_singlestep": (2, 3),
        "dpmpp_singlestep": (2, 3),
        "lms": (2, 3, 4),
        "unipc": (1, 2, 3, 4),
    }
    assert known.items() <= {name: orders_of(family) for name, family in FAMILIES.items()}.items()
    assert not {*FAMILIES} & {*solvers.__all__}  # without its order a family is no plan


@pytest.mark.parametrize(("family", "order"), MEMBERS)
def test_an_order_of_a_family_is_a_plan_name_of_its_own(family, order):
    """Both forms are one plan, of the family's function with that order, and the short one is its name."""
    named, called = parse_plan_name(f"{family}_{order}:8"), parse_plan_name(f"{family}(order={order}):8")
    assert named == called and named.text == f"{family}_{order}:8"
    assert named.solver is getattr(solvers, f"{family}_{order}")
    assert (named.solver.func, named.solver.keywords) == (FAMILIES[family], {"order": order})
    plan = compile_plan(f"{family}(order={order}):8", denoising(COSINE, "v"))
    assert plan == compile_plan(f"{family}_{order}:8", denoising(COSINE, "v")) and plan.name == f"{family}_{order}:8"
    assert len({step.update for step in plan.steps}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_no_order_by_default(family):
    order = inspect.signature(FAMILIES[family]).parameters["order"]
    assert order.kind is order.KEYWORD_ONLY and order.default is order.empty


def test_an_order_may_lack_a_parameter_of_its_family():
    second, third = (set(parameters(getattr(solvers, f"dpmpp_singlestep_{order}"))) for order in (2, 3))
    assert second == {"eta", "midpoint", "lower_order_final"}
    assert third == second | {"diffusers_sign"}


def test_facts_are_those_of_the_solver_whatever_its_parameters():
    assert facts_of(parse_plan_name("unipc(order=3, bh1=True):8").solver) == Published(
        "Zhao et al. 2023, arXiv 2302.04867", order=4, rows=4
    )
    assert facts_of(partial(solvers.ghvb, order=4)) == facts_of(solvers.ghvb)
    assert facts_of(solvers.rddm).made_for.heads == 2


def test_a_solver_is_named_by_its_decorator():
    @Published("Someone 2030", order=None, rows=1)
    def mine(trace, times):
        return trace.start()

    found = find_published({"mine": mine, "other": len, "module": inspect})
    assert solvers_by_name(found) == found == {"mine": mine}
