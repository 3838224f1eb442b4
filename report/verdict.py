"""Warnings for int8 bodies that lose much quality, are not faster, or cannot be compared; texts for distances."""

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
from fewstep.runtime.bundle.figures import JudgeScore
from fewstep.runtime.bundle.manifest import Difference, TokenAgreement


def list_warnings(results: Results) -> Iterator[str]:
    """Yield the warnings. There are none if int8 is close to float32 and faster, and if all bodies were calibrated in
    the same way."""
    yield from results.unlike
    for quality in results.qualities:
        low = describe_low_quality(quality.body, quality.against_float.nearness, quality.tokens, quality.judged)
        yield from [] if low is None else [low]
    for quality in results.qualities:
        for kind, steps in differences_of(quality).items():
            if (difference := worst_difference(steps)) is not None and is_lost(difference):
                yield f"{quality.body} loses the {kind}: {describe_difference(difference)}."
    in_float = [quality.body for quality in results.qualities if results.int8_share(quality.body) == 0]
    for body in in_float:
        yield f"{body} runs in float32 at every step of {results.plan}: no operation is int8, so it is not faster."
    for race in results.races:
        first, ratios = race.timings[0].name, {timing.name: timing.ratio for timing in race.timings}
        for name, ratio in ratios.items():
            if ratio < 1 and name not in in_float:
                yield f"A step of {name} is slower than that of {first} here ({ratio:.2f}x at batch {race.batch})."


def differences_of(quality: Quality) -> dict[str, list[Difference | None]]:
    """Return, under the names GUIDANCE and CONDITION, how well a body preserves the effect of guidance and of a
    condition at each step. None at steps where this was not measured."""
    return {
        GUIDANCE: [step.guidance for step in quality.steps],
        CONDITION: [step.condition for step in quality.steps],
    }


def describe_low_quality(
    body: str, near: Nearness, tokens: TokenQuality | TokenAgreement | None, judged: JudgeScore | None = None
) -> str | None:
    """Return a sentence for a body whose samples miss the limit of the user's judge or, without one, whose samples or
    tokens differ visibly from float32's; None otherwise."""
    if judged is not None:
        return None if judged.problem is None else f"{body} {judged.problem}."
    if tokens is None:  # is_enough is False for NaN
        remedy = "look at the samples before deploying it"
        return None if near.is_enough else f"{body} is only {near.describe('float32')}: {remedy}."
    share = 100 * tokens.disagreement
    remedy = "compare its samples before deploying it"
    return None if share <= MOST_CHANGED else f"{body} changes {share:.1f} % of the most likely tokens: {remedy}."


def describe_distances(results: Results) -> Iterator[str]:
    """Yield one sentence about the distance of each body from each set of references."""
    for body in results.qualities:
        for distance in body.distances:
            yield f"{body.body} against {distance.reference}: {describe_distance(distance)}."


def describe_distance(fd: Distance) -> str:
    """Describe how int8's distance to the references differs from float32's. A smaller distance is called a change, not
    an improvement, since int8 is to reproduce float32."""
    figures = f"({fd.difference:+.3g} [{fd.low:+.3g}, {fd.high:+.3g}], noise floor {fd.noise_floor:.3g})"
    way = "further away" if fd.difference > 0 else "closer, which is a change but no improvement"
    if fd.detectable:
        return f"the distribution changed: {way} {figures}"
    if fd.low <= 0 <= fd.high:
        return f"no detectable change {figures}"
    return f"within the noise floor, but detectable between paired seeds: {way} {figures}"
