"""Nothing grows unseen: rooms, verbs, tests, pages and the root stay within tests/budgets.toml."""

import ast
import copy

import pytest

from tests import budgets
from tests.packages import ONE_PROCESS, needed_at_import

SLACK = 0.02  # of a budget that nobody has lowered yet


@pytest.fixture(scope="module")
def figures() -> budgets.Figures:
    return budgets.figures()


@ONE_PROCESS
def test_every_figure_is_within_its_budget(figures: budgets.Figures) -> None:
    limits = budgets.budgets()
    assert {part: own.keys() for part, own in limits.items()} == {part: own.keys() for part, own in figures.items()}
    over = {
        f"{part}.{name}": f"{figure} of {limits[part][name]}"
        for part, own in figures.items()
        for name, figure in own.items()
        if figure > limits[part][name]
    }
    assert over == {}, "shorten it, or raise the budget in a commit of its own that names the capability"


@ONE_PROCESS
def test_budgets_follow_what_became_smaller(figures: budgets.Figures) -> None:
    loose = {
        f"{part}.{name}": f"{figures[part][name]} of {limit}"
        for part, own in budgets.budgets().items()
        for name, limit in own.items()
        if limit > (1 + SLACK) * figures[part][name] + 10
    }
    assert loose == {}, "python -m tests.budgets"


def test_a_budget_is_never_raised_by_the_command() -> None:
    former = {"rooms": {"plans": 10, "gone": 5}}
    now = {"rooms": {"plans": 12, "graph": 7}}
    assert budgets.lowered(copy.deepcopy(former), now) == {"rooms": {"plans": 10, "graph": 7}}
    assert budgets.lowered(former, {"rooms": {"plans": 8}}) == {"rooms": {"plans": 8}}


def test_a_verb_stands_on_what_it_imports_and_on_their_packages() -> None:
    sources = {
        "fewstep.a": "",
        "fewstep.a.verb": "from fewstep.b import c\ndef later():\n    from fewstep.b import d",
        "fewstep.b": "",
        "fewstep.b.c": "from fewstep.a import verb",
        "fewstep.b.d": "",
    }
    imports = needed_at_import({name: ast.parse(text) for name, text in sources.items()})
    assert budgets.stands_on("fewstep.a.verb", imports) == {"fewstep.a", "fewstep.a.verb", "fewstep.b", "fewstep.b.c"}
