"""The sign of a right null value, from distances between predictions, and the share of the error that it adds."""

from typing import Any

import numpy as np
import pytest

from fewstep.measure.spec import reading_errors
from fewstep.measure.spec.null_values import (
    NullVerdict,
    _Added,
    _is_nearer_to_own,
    _pair_rows,
    _Predictions,
    check_nulls,
)
from fewstep.measure.spec.reading_errors import Network
from fewstep.measure.spec.spec_mistakes import SpecReading
from fewstep.plans.spec import ScheduleSpec

SHAPE = (1, 6, 6)
DIRECTIONS = np.random.default_rng(7).normal(size=(64, *SHAPE))  # what each of 64 texts means
TEXTS = {"text": np.eye(64, dtype=np.float32)}


@pytest.mark.parametrize(("noise", "is_found"), [(0.0, True), (3.0, False)])
def test_both_samples_of_a_pair_are_judged_together(noise: float, is_found: bool) -> None:
    """What one sample of a pair gains and the other loses is no error of their sum; `noise` of a pair is one."""
    partners = _pair_rows(16)
    own_side = np.where(np.arange(16) < partners, 2.0, -2.0)
    of_pair = noise * np.random.default_rng(0).normal(size=16)[np.minimum(np.arange(16), partners)]
    found = _Predictions(from_own=[np.zeros(16)], from_other=[0.6 + own_side + of_pair], apart=[np.ones(16)])
    assert _is_nearer_to_own(found, np.ones(16, bool), partners) is is_found


def test_rows_have_each_other_as_partners() -> None:
    for count in (1, 2, 15, 16):
        partners = _pair_rows(count)
        np.testing.assert_array_equal(partners[partners], np.arange(count))
        assert np.sum(partners == np.arange(count)) == count % 2


def of_texts(excess: float, null_is: int | None = None) -> tuple[Network, np.ndarray]:
    """A network of x0 that knows a sample by its text alone, and its 64 samples. Without a text, it predicts the mean
    of all, moved by an `excess` of what sampling from them would add, or the sample of one text."""
    data = DIRECTIONS.astype(np.float32)
    wrong = np.random.default_rng(8).choice([-1.0, 1.0], size=SHAPE) * DIRECTIONS.std(axis=0)

    def network(x: np.ndarray, times: np.ndarray, given: dict[str, Any]) -> np.ndarray:
        text = given["text"][: len(x)]
        nothing = DIRECTIONS.mean(axis=0) + excess**0.5 * wrong if null_is is None else DIRECTIONS[null_is]
        x0 = np.tensordot(text, DIRECTIONS, 1) + (1 - text.sum(axis=1))[:, None, None, None] * nothing
        return x0.astype(np.float32)

    return network, data


@pytest.mark.parametrize(
    ("excess", "said"),
    [
        (0.0, "a class near the mean of the data would denoise as they do"),
        (0.15, "they add too much error for right ones, and too little for a class"),
        (0.4, "with them the errors are 1.4 times those of a linear denoiser"),
    ],
)
def test_a_null_value_that_was_trained_little_is_in_doubt(
    excess: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without signal the mean of all has half of the error of another sample, exactly 0.5. An excess e adds e / 2."""
    monkeypatch.setattr(reading_errors, "LAMS", (-3.0, -2.9))
    verdict = verdict_on_text(*of_texts(excess))
    assert verdict.mistake == "" and said in verdict.unknown
    figure, error = (float(verdict.figures.split(word)[1].split()[0].rstrip(")")) for word in ("add ", "error "))
    assert figure == pytest.approx((1 + excess) / 2, abs=0.03) and error < 0.05


@pytest.mark.parametrize("text", [3, 40])
def test_a_null_value_that_is_a_text_is_refused_with_its_figure(text: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its squared distance to the others is their variance, and its own to their mean."""
    monkeypatch.setattr(reading_errors, "LAMS", (-3.0, -2.9))
    verdict = verdict_on_text(*of_texts(0.0, null_is=text))
    assert "null is another value" in verdict.mistake and verdict.unknown == ""
    distance, variance = np.mean((DIRECTIONS[text] - DIRECTIONS.mean(axis=0)) ** 2), DIRECTIONS.var(axis=0).mean()
    figure = float(verdict.figures.split("add ")[1].split()[0])
    assert figure == pytest.approx((variance + distance) / (2 * variance), abs=0.03)


def test_null_values_that_denoise_nothing_are_refused_whatever_they_add() -> None:
    """The mean of all at every time adds what right ones add, and is 7 times as far as a linear denoiser."""
    verdict = verdict_on_text(*of_texts(0.0))
    assert verdict.mistake.startswith("with its null values the errors are 7.1 times those of a linear denoiser")
    assert "null values add 0.5 (" in verdict.figures.replace("0.50", "0.5")


@pytest.mark.parametrize(
    ("share", "error", "is_far"), [(0.8, 0.25, True), (0.8, 0.35, False), (0.7, 0.05, False), (np.inf, 0.0, True)]
)
def test_far_null_values_add_much_error_for_certain(share: float, error: float, is_far: bool) -> None:
    assert _Added(share, error, cost=1.0).is_far is is_far


def verdict_on_text(network: Network, data: np.ndarray) -> NullVerdict:
    nulls, rows = {"text": np.zeros((64, 64), np.float32)}, np.arange(64)
    return check_nulls(network, SpecReading(ScheduleSpec("cosine"), "sample"), data, TEXTS, nulls, rows)
