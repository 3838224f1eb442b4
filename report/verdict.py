"""Warnings: int8 bodies that cost much, win nothing or do not compare; what a distance says."""

from collections.abc import Iterator

from fewstep.measure.results import Distance, Quality, Results, TokenQuality
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.measure.rollouts.output_differences import (
    CONDITION,
    GUIDANCE,
    describe_difference,
    is_lost,
    worst_difference,
)
from fewstep.report.judgement import MOST_CHANGED
from fewstep.runtime.bundle.manifest import Difference, TokenAgreement


def list_warnings(results: Results) -> Iterator[str]:
    """One sentence for each; none where int8 is near float32 and faster, and all bodies were calibrated alike."""
    yield from results.unlike
    yield from filter(
        None, (describe_low_quality(each.body, each.against_float.nearness, each.tokens) for each in results.qualities)
    )
    for quality in results.qualities:
        for kind, steps in differences_of(quality).items():
            if (difference := worst_difference(steps)) is not None and is_lost(difference):
                yield f"{quality.body} loses the {kind}: {describe_difference(difference)}."
    in_float = [quality.body for quality in results.qualities if results.int8_share(quality.body) == 0]
    for body in in_float:
        yield f"{body} is float32 at every step of {results.plan}: nothing of it is int8, and its speed is float32's."
    for race in results.races:
        first, ratios = race.timings[0].name, {each.name: each.ratio for each in race.timings}
        for name, ratio in ratios.items():
            if ratio < 1 and name not in in_float:
                yield f"{name} is slower than {first} here ({ratio:.2f}x, {race.batch} rows)."


def differences_of(quality: Quality) -> dict[str, list[Difference | None]]:
    """The differences of a body at each step, by what they are in words."""
    return {
        GUIDANCE: [step.guidance for step in quality.steps],
        CONDITION: [step.condition for step in quality.steps],
    }


def describe_low_quality(body: str, near: Nearness, tokens: TokenQuality | TokenAgreement | None) -> str | None:
    """The sentence for a body whose samples differ visibly from float32's, or whose tokens differ in many places; None
    near it."""
    if tokens is None:  # a NaN is no quality either
        where = "look at the samples before deploying it"
        return None if near.is_enough else f"{body} is only {near.describe('float32')}: {where}."
    share = 100 * tokens.disagreement
    where = "compare its runs before deploying it"
    return None if share <= MOST_CHANGED else f"{body} changes {share:.1f} % of the likeliest tokens: {where}."


def describe_distances(results: Results) -> Iterator[str]:
    """One sentence for each body and set of references."""
    for body in results.qualities:
        for distance in body.distances:
            yield f"{body.body} against {distance.reference}: {describe_distance(distance)}."


def describe_distance(fd: Distance) -> str:
    """The difference between int8 and float32 in words. A smaller distance is no improvement, only a change."""
    figures = f"({fd.difference:+.3g} [{fd.low:+.3g}, {fd.high:+.3g}], floor {fd.noise_floor:.3g})"
    way = "further away" if fd.difference > 0 else "closer, which is a change and no improvement"
    if fd.detectable:
        return f"the distribution changed: {way} {figures}"
    if fd.low <= 0 <= fd.high:
        return f"no detectable change {figures}"
    return f"inside the noise floor, though pairs of one seed show it: {way} {figures}"
