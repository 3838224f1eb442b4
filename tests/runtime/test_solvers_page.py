"""docs/samplers.md holds the tables that the code makes, and says of them what they show."""

import re

import pytest
from mixture import NARROW, WIDE
from samplers_page import PAGE, between, listed, measured

from fewstep.runtime import solvers
from fewstep.runtime.solvers.listing import PAPER_AND_ORDER, listing

NUMBER = re.compile(r"\d\.\d{3}")


def on_page(name):
    (found,) = between(name).findall(PAGE.read_text())
    return found


def test_every_solver_is_listed_with_paper_and_order():
    assert set(PAPER_AND_ORDER) == {getattr(solvers, name) for name in solvers.__all__}
    assert [each.name for each in listing()] == solvers.__all__


def test_the_page_lists_the_solvers():
    assert on_page("solvers") == listed()


@pytest.mark.parametrize(("name", "mixture"), [("wide", WIDE), ("narrow", NARROW)])
def test_the_pages_measurements_are_those_of_this_code(name, mixture):
    page, now = on_page(name), measured(mixture)
    assert NUMBER.sub("", page) == NUMBER.sub("", now)
    was = [float(value) for value in NUMBER.findall(page)]
    assert was == pytest.approx([float(value) for value in NUMBER.findall(now)], abs=0.0011)


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_no_sampler_with_more_than_one_evaluation_a_step_is_best_at_equal_evaluations(name):
    rows = {
        line.split("`")[1]: [float(value) for value in NUMBER.findall(line)] for line in on_page(name).split("\n")[2:]
    }
    single = {each.name for each in listing() if each.evaluations == 1}
    for column in zip(*([(error, solver) for error in errors] for solver, errors in rows.items())):
        assert min(column)[1] in single
