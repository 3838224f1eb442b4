"""The tries of an attacker: those of the quick families give their right values."""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from lab.tries.attempt import Attempt, check_close, outcome_of

QUICK = ("loops", "guidance", "numbers")


@pytest.mark.parametrize("family", QUICK)
def test_no_value_is_silently_wrong(family: str) -> None:
    attempts = import_module(f"lab.tries.{family}").attempts(np.random.default_rng(1), 40)
    outcomes = Counter(outcome_of(attempt)[0] for attempt in attempts)
    assert outcomes["right"] + outcomes["refused"] == 40 and outcomes["right"] > 8


@pytest.mark.parametrize("value", [(1.0, 3.0, np.nan), (1.0, np.nan, 2.0), (1.0, np.inf, np.nan)])
def test_numbers_next_to_one_that_is_not_finite_are_compared(value: tuple[float, ...]) -> None:
    check_close((1.0, 2.0, np.nan), (1.0, 2.0, np.nan), 1e-6)
    with pytest.raises(AssertionError):
        check_close(value, (1.0, 2.0, np.nan), 1e-6)


def refuse() -> None:
    raise UserError("what", "fix")


def fail() -> None:
    raise AssertionError("another value")


def crash() -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (Attempt("a", lambda: None), "right"),
        (Attempt("a", refuse), "needlessly refused"),
        (Attempt("a", refuse, may_refuse=True), "refused"),
        (Attempt("a", lambda: None, must_refuse=True), "wrong"),
        (Attempt("a", fail, may_refuse=True), "wrong"),
        (Attempt("a", crash, may_refuse=True), "crashed"),
    ],
)
def test_an_outcome_is_right_refused_wrong_or_crashed(attempt: Attempt, outcome: str) -> None:
    assert outcome_of(attempt)[0] == outcome
