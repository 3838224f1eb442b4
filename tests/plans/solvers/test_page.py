"""docs/samplers.md holds the tables that the code makes, and says of them what they show."""

import math
import re

import pytest

from fewstep.plans.listing import solver_listings
from fewstep.plans.lookup import names_of
from tests.plans.mixture import NARROW, WIDE
from tests.plans.samplers_page import PAGE, between, listed, measured, named, noisy

NUMBER = re.compile(r"\d\.\d{3}")


def on_page(name):
    (found,) = between(name).findall(PAGE.read_text())
    return found


def test_every_solver_is_listed_with_its_paper():
    assert [each.name for each in solver_listings()] == names_of("solver")
    assert all(each.paper for each in solver_listings())


def test_the_page_lists_the_solvers():
    assert on_page("solvers") == listed()
    assert on_page("names") == named()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"), [("wide", lambda: measured(WIDE)), ("narrow", lambda: measured(NARROW)), ("noisy", noisy)]
)
def test_the_pages_measurements_are_those_of_this_code(name, make):
    page, now = on_page(name), make()
    assert NUMBER.sub("", page) == NUMBER.sub("", now)
    was = [float(value) for value in NUMBER.findall(page)]
    assert was == pytest.approx([float(value) for value in NUMBER.findall(now)], abs=0.0011)


def cells(name):
    """The numbers of a table, by solver; inf where it diverges."""
    lines = (line.split("|") for line in on_page(name).split("\n")[2:])
    return {
        line[1].strip("` "): [float(cell) if NUMBER.search(cell) else math.inf for cell in line[2:-1]] for line in lines
    }


def test_the_pages_advice_is_what_its_tables_show():
    """Columns: linear, cosine, flow, each with 4, 8 and 20 evaluations."""
    wide, narrow, noisy_ones = cells("wide"), cells("narrow"), cells("noisy")
    for table in (wide, narrow):
        best = [min(column) for column in zip(*table.values())]
        assert all(table["ipndm"][i] <= 2 * best[i] for i in (0, 3, 6))
    best = [min(column) for column in zip(*narrow.values())]
    assert all(narrow["dpmpp_2m"][i] <= 1.41 * best[i] for i in (1, 4, 7))
    for i in (1, 2, 4, 5, 7, 8):
        assert wide["ipndm"][i] < wide["dpmpp_2m"][i] and wide["lms_4"][i] < 1.1 * wide["dpmpp_2m"][i]
    assert narrow["ddim"][2] == best[2]
    assert all(narrow["ipndm"][i] < narrow["dpmpp_2m"][i] for i in (5, 8))
    for i in (1, 2, 4, 5, 7, 8):
        assert abs(noisy_ones["dpmpp_2m_sde"][i]) < abs(noisy_ones["ddpm"][i])
    assert all(abs(noisy_ones["ddim"][i]) < abs(noisy_ones["ddpm"][i]) for i in range(9))
    assert math.inf in noisy_ones["dpm_2m_sde"][:6] and math.inf in noisy_ones["dpm_1_sde"][:6]


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_no_sampler_with_more_than_one_evaluation_a_step_is_best_at_equal_evaluations(name):
    rows = cells(name)
    single = {each.name for each in solver_listings() if each.evaluations == 1}
    for column in zip(*([(error, solver) for error in errors] for solver, errors in rows.items())):
        assert min(column)[1] in single
