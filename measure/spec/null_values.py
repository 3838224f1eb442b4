"""Check whether null values of conditions stand for no condition, or for a value of real data."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.spec.reading_errors import (
    RIGHT,
    SMALLEST,
    ErrorsAtTime,
    Network,
    add_noise,
    denoise,
    mean_squares,
    score_errors,
    select_rows,
)
from fewstep.measure.spec.spec_mistakes import SpecReading
from fewstep.runtime.arrays import Float32

LEAST_COST = 0.25  # share of the data's variance, summed over times; below it, null values are not refused
LEAST_COST_IN_DATA = 0.1  # the same for null values that samples of the data have
# The error that null values add, over that which the values of other samples add. Right ones predict the mean over all
# values, whose squared distance to them is half of that between two of them: at most IDEAL. A class adds 1 on average.
# A null value is far from right if it adds more than FAR, and more than IDEAL after a standard error is subtracted.
# Among right ones this held for none of exact denoisers in 36 and 256 dimensions, for at most 5 % in 1 and 4, and for
# none of 46 small networks whose conditions were dropped in training. On 16 other networks, which did not set the
# limits, right ones added 0.37 to 0.63 and wrong ones 0.52 to 1.7: 37 of 48 wrong ones were refused, and none was
# called right.
IDEAL, FAR = 0.5, 0.75
BROKEN = 2.0  # times the errors of a linear denoiser: refused in any case; right ones of these networks had 1.29
BORDERLINE = 0.55  # from here on, null values that samples of the data have are refused, and others in doubt
VAGUE = 0.25  # above this standard error, the share does not keep a null value from being called right
# Predictions with null values, along the line from those with another sample's values (-0.5) to those with the sample's
# own (0.5). In the mean over pairs a class is at 0: on analytic denoisers and two trained ones no class was above 0.08,
# or 0.8 standard errors. At the time where it is clearest, a right null value is above both limits.
NEARER, SIGNIFICANT = 0.05, 3.0
NEARER_OF_FEW, FEW = 0.25, 8  # the same for fewer pairs of samples, whose standard error says little
LEAST_PAIRS = 3
LEAST_DISTANCE = 0.002  # share of the largest distance at a time; predictions that differ less are not judged
ANOTHER = "null is another value, if the rest of the spec is right"
UNTESTED = "its null values are right"
TOO_MUCH = "they add too much error for right ones"


@dataclass(frozen=True)
class NullVerdict:
    """The verdict on null values, as text: `mistake` if they are values of real data, `unknown` if the check cannot
    tell. `figures` is what it rests on."""

    mistake: str = ""
    unknown: str = ""
    figures: str = ""


@dataclass(frozen=True)
class _Added:
    """The error that null values add to that with a sample's own values: `share`, as a fraction of what the values of
    other samples add, and `error`, the standard error of this fraction. `cost` is what the values of other samples add,
    summed over times, in variances of the data."""

    share: float
    error: float
    cost: float

    @property
    def is_far(self) -> bool:
        """Whether null values are clearly worse than right ones."""
        return self.share > FAR and self.share - self.error > IDEAL

    def __str__(self) -> str:
        if self.cost <= SMALLEST:
            return "the values of other samples add no error, to compare that of null values with"
        return (
            f"null values add {self.share:.2f} (standard error {self.error:.2f}) of the error that the values of other "
            f"samples add; right ones add at most {IDEAL:g}, and a class 1 on average"
        )


@dataclass(frozen=True)
class _Predictions:
    """Predictions at each time with a sample's own conditions, with null values, and with the values of another sample:
    their errors, and the squared distances [N] between them."""

    own: dict[float, ErrorsAtTime] = field(default_factory=dict)
    null: dict[float, ErrorsAtTime] = field(default_factory=dict)
    other: dict[float, ErrorsAtTime] = field(default_factory=dict)
    from_own: list[NDArray[np.float64]] = field(default_factory=list)  # to null
    from_other: list[NDArray[np.float64]] = field(default_factory=list)  # to null
    apart: list[NDArray[np.float64]] = field(default_factory=list)  # from own to other


def check_nulls(
    network: Network,
    stated: SpecReading,
    data: Float32,
    conditions: ConditionRecords,
    nulls: ConditionRecords,
    rows: NDArray[Any],
) -> NullVerdict:
    """Return whether null values stand for no condition.

    rows: the samples whose errors are measured. A right null value denoises as the mean over all values does: it raises
    the errors half as much as the values of other samples do. The less noise there is, the nearer its predictions are
    to those with the sample's own values, since x shows what the sample is. The predictions with a class stay as far
    from them as from those with the values of other samples. A class that resembles several others also gets nearer, so
    a null value that occurs in the file is never recognized by this: its samples are of that class, or unlabelled.
    """
    partners = _pair_rows(len(rows))
    others, expected = _exchange_conditions({name: conditions[name] for name in nulls}, rows, partners)
    own = select_rows(conditions, rows)
    null, other = ({**own, **select_rows(values, rows)} for values in (nulls, others))
    predictions = _predict(network, stated, data, rows, (own, null, other))
    added, score = _measure_added(predictions, partners, expected), score_errors(predictions.null)
    labelled = ~(_equal_rows(null, own) | _equal_rows(null, other))
    in_data = _describe_null_in_data(conditions, nulls)
    verdict = partial(NullVerdict, figures=str(added))
    if score > BROKEN or (score > RIGHT and added.is_far):
        return verdict(f"with its null values the errors are {score:.2g} times those of a linear denoiser: {ANOTHER}")
    if not in_data and _is_nearer_to_own(predictions, labelled, partners):
        is_right = added.share <= BORDERLINE or added.error > VAGUE
        return verdict() if is_right else verdict("", f"whether {UNTESTED}: {TOO_MUCH}")
    if in_data and added.share > BORDERLINE and added.cost > LEAST_COST_IN_DATA:
        return verdict(f"{in_data}, and it denoises the others worse: {ANOTHER}")
    if added.is_far and added.cost > LEAST_COST:
        return verdict(f"its null values denoise as a value of another sample does: {ANOTHER}")
    if in_data:
        return verdict("", f"whether {in_data} because they are unlabelled, or because it is a class")
    if score > RIGHT:
        what = f"with them the errors are {score:.2g} times those of a linear denoiser"
        return verdict("", f"whether {UNTESTED}: {what}")
    if added.cost <= LEAST_COST:
        return verdict("", f"whether {UNTESTED}, since the conditions hardly change the errors")
    if added.share > BORDERLINE:
        return verdict("", f"whether {UNTESTED}: {TOO_MUCH}, and too little for a class")
    return verdict("", f"whether {UNTESTED}: a class near the mean of the data would denoise as they do")


def _measure_added(predictions: _Predictions, partners: NDArray[np.intp], expected: float) -> _Added:
    """Return the error that null values add. Its standard error is that of the jackknife over pairs of samples (Efron
    1982).

    expected: a factor of the error that the values of partners add.
    """
    with np.errstate(all="ignore"):
        by_null, by_other = (
            sum(
                (values[lam].of_samples - prediction.of_samples for lam, prediction in predictions.own.items()),
                np.zeros(len(partners)),
            )
            for values in (predictions.null, predictions.other)
        )
        by_other = expected * by_other
        cost = float(by_other.mean())
        if cost <= SMALLEST:
            return _Added(np.inf if by_null.sum() > 0 else 0.0, 0.0, max(cost, 0.0))
        of_pair = [sorted({row, other}) for row, other in enumerate(partners) if row <= other]
        without = np.array([np.delete(by_null, pair).sum() / np.delete(by_other, pair).sum() for pair in of_pair])
        error = np.sqrt((len(without) - 1) * np.mean(np.square(without - without.mean())))
        return _Added(float(by_null.sum() / by_other.sum()), float(np.nan_to_num(error, nan=np.inf)), cost)


def _predict(
    network: Network,
    stated: SpecReading,
    data: Float32,
    rows: NDArray[Any],
    values: tuple[ConditionRecords, ConditionRecords, ConditionRecords],
) -> _Predictions:
    """Predict x0 of noised samples with their own conditions, with null values, and with the values of others."""
    predictions = _Predictions()
    for noised in add_noise(stated, data, rows):
        own, null, other = (denoise(network, stated, noised.x, noised.time, value) for value in values)
        for errors, predicted in ((predictions.own, own), (predictions.null, null), (predictions.other, other)):
            errors[noised.of_unit] = noised.errors(predicted)
        with np.errstate(over="ignore", invalid="ignore"):
            pairs = (
                (predictions.from_own, null - own),
                (predictions.from_other, null - other),
                (predictions.apart, own - other),
            )
            for distances, difference in pairs:
                distances.append(mean_squares(difference) / noised.power)
    return predictions


def _is_nearer_to_own(predictions: _Predictions, labelled: NDArray[np.bool_], partners: NDArray[np.intp]) -> bool:
    """Return whether, at some time, the predictions with null values are clearly nearer to those with the samples' own
    conditions than to those with the conditions of other samples.

    Both samples of a pair are judged together. Where the null value is a class that is more like one of two others,
    that adds as much for the one as it takes away for the other.
    """
    largest = max(float(distances.mean()) for distances in predictions.apart)
    for from_own, from_other, every in zip(
        predictions.from_own, predictions.from_other, predictions.apart, strict=True
    ):
        apart, nearer = every[labelled], 0.5 * (from_other - from_own)[labelled]
        pairs = np.count_nonzero(apart)
        if pairs < LEAST_PAIRS or every.mean() < LEAST_DISTANCE * largest:
            continue
        place = nearer.sum() / apart.sum()
        rest = np.where(labelled, 0.5 * (from_other - from_own) - place * every, 0.0)
        error = np.sqrt(0.5 * np.sum(np.square(rest + rest[partners]))) / apart.sum()  # each pair is there twice
        if place > max(NEARER_OF_FEW if pairs < FEW else NEARER, SIGNIFICANT * error):
            return True
    return False


def _equal_rows(one: ConditionRecords, other: ConditionRecords) -> NDArray[np.bool_]:
    """Return for each row whether all conditions have equal values."""
    equal = [np.all((array == other[name]).reshape(len(array), -1), axis=1) for name, array in one.items()]
    return np.asarray(np.all(equal, axis=0))


def _describe_null_in_data(conditions: ConditionRecords, nulls: ConditionRecords) -> str:
    """Return, as text, how many samples have the null value of a condition; "" if none has."""
    for name, null in nulls.items():
        values = conditions[name].reshape(len(null), -1)
        if count := int(np.all(values == null.reshape(len(null), -1), axis=1).sum()):
            number = f" {null.flat[0]:g}" if np.all(null == null.flat[0]) else ""
            return f"null{number} of {name!r} is the value of {count} of {len(null)} samples"
    return ""


def _pair_rows(count: int) -> NDArray[np.intp]:
    """Return the partner of each row in random pairs. With an odd count, one row is its own partner."""
    order, partners = np.random.default_rng(0).permutation(count), np.arange(count)
    one, other = order[: count // 2], order[count // 2 : count // 2 * 2]
    partners[one], partners[other] = other, one
    return partners


def _exchange_conditions(
    conditions: ConditionRecords, rows: NDArray[Any], partners: NDArray[np.intp]
) -> tuple[ConditionRecords, float]:
    """Return conditions in which these rows have the values of their partners, and a correction factor for exchanged
    rows that happen to be equal: the fraction of all pairs of rows with different values, divided by that fraction
    among the exchanged pairs. The factor is 0 if no exchanged pair differs."""
    values = [b"".join(np.ascontiguousarray(array[row]).tobytes() for array in conditions.values()) for row in rows]
    here = sum(values[row] != values[other] for row, other in enumerate(partners)) / len(values)
    every = sum(one != other for one in values for other in values) / len(values) ** 2
    exchanged = {name: array.copy() for name, array in conditions.items()}
    for name, array in conditions.items():
        exchanged[name][rows] = array[rows[partners]]
    return exchanged, 0.0 if here == 0 else every / here
