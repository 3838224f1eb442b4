"""One try, its outcome, and the count of outcomes by family."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError


@dataclass(frozen=True)
class Attempt:
    """A try. `run` raises AssertionError for a value that is not the right one. `may_refuse`: a refusal in one line is
    right too. `must_refuse`: it is the only right outcome."""

    what: str
    run: Callable[[], None]
    may_refuse: bool = False
    must_refuse: bool = False


def outcome_of(attempt: Attempt) -> tuple[str, str]:
    """Return the outcome of a try, and its reason: right, refused, needlessly refused, wrong, or crashed."""
    try:
        attempt.run()
    except UserError as error:
        is_right = attempt.must_refuse or attempt.may_refuse
        return ("refused" if is_right else "needlessly refused"), str(error)
    except AssertionError as error:
        return "wrong", " ".join(str(error).split())[:300]
    except Exception:
        return "crashed", traceback.format_exc(limit=-3)
    return ("wrong", "not refused") if attempt.must_refuse else ("right", "")


def count(family: str, attempts: Iterable[Attempt]) -> Counter[str]:
    """Run the tries of a family. Prints those whose outcome is not right."""
    outcomes = Counter[str]()
    for attempt in attempts:
        outcome, reason = outcome_of(attempt)
        outcomes[outcome] += 1
        if outcome != "right":
            print(f"{family}: {outcome}: {attempt.what}: {reason}", flush=True)
    print(f"{family}: {dict(outcomes)}", flush=True)
    return outcomes


def check_close(own: ArrayLike, right: ArrayLike, tolerance: float, what: str = "") -> None:
    """Raise AssertionError unless an array is the right one, within a share of the largest right value."""
    value, expected = np.asarray(own, np.float64), np.asarray(right, np.float64)
    assert value.shape == expected.shape, f"{what} shape {value.shape} for {expected.shape}"
    is_finite = np.isfinite(expected)
    assert np.array_equal(value[~is_finite], expected[~is_finite], equal_nan=True), f"{what} is finite in one only"
    value, expected = value[is_finite], expected[is_finite]
    error = np.abs(value - expected).max() / max(1e-12, np.abs(expected).max()) if value.size else 0.0
    assert error <= tolerance, f"{what} differs by {error:.3g} of the largest value"
