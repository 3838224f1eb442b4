"""The verdict on an int8 body, with its reason: good to ship, look at it, or not usable.

It compares int8 with float32 along the same plan, by the mean over seeds and by the 5th percentile, so that single bad
samples count. There are limits for the PSNR and for the signal-to-error ratio (`nearness`):

- good to ship: the mean reaches 40 dB and 30 dB, above which few people see a difference, and the 5th percentile is at
  most 5 dB below these limits, both also at the low ends of their ranges on other seeds (`quality_range`); for tokens,
  at most 3 % of the most likely tokens differ;
- not usable: float32's own samples are not (`reference_check`), the mean is below 25 dB or 15 dB, or int8 loses the
  direction of guidance;
- samples that are louder than the peak of PSNR have a higher ratio than PSNR, and it is compared with both limits;
- not int8: no operation is in int8, so that the samples are those of float32;
- look at it: everything between, and everything judged on random conditions or with samples beyond usual data.

If the user gave a judge (`fewstep.measure.judges`), its limit decides instead of all limits of PSNR: good to ship if
the score reaches it, also at the low end of its range on other seeds, not usable if it does not. A body that loses the
direction of guidance is then looked at. The PSNR is still reported.

If a call ends with a decoder, its pictures count as its latents do.
"""

from collections.abc import Sequence

from fewstep.measure.results import TokenQuality
from fewstep.measure.rollouts.conditions_file import fixed_note, random_note
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, NEAR_PSNR, NEAR_SNR, Nearness
from fewstep.measure.rollouts.quality_range import Range
from fewstep.runtime.bundle.figures import JudgeScore, ReferenceCheck
from fewstep.runtime.bundle.manifest import TokenAgreement

Tokens = TokenQuality | TokenAgreement | None
GOOD, LOOK, UNUSABLE, IN_FLOAT = "Good to ship", "Look at it", "Not usable", "Not int8"
SPREAD = 5.0  # dB from the limits of the mean to those of the 5th percentile
MOST_CHANGED = 3.0  # % of the most likely tokens at float32's states


def judgement(
    near: Nearness,
    p5: float,
    tokens: Tokens = None,
    random_conditions: Sequence[str] = (),
    fixed_conditions: Sequence[str] = (),
    loses_guidance: bool = False,
    body: str = "int8",
    beyond: float | None = None,
    float_reason: str | None = None,
    reference: ReferenceCheck | None = None,
    ranges: tuple[Range | None, Range | None] = (None, None),
    judged: JudgeScore | None = None,
    pictures: float | None = None,
    seeds: int | None = None,
) -> str:
    """Return the verdict and its reason, as in "Look at it: int8 has 38.1 dB PSNR against float32, the mean of 16
    seeds, 5th percentile 37.0 dB; the mean decides: good to ship needs 40 dB".

    near: int8's samples against float32's. p5: the 5th percentile of their PSNR in dB. random_conditions: names of
    conditions with random values. fixed_conditions: names of those that have one value in all samples.
    loses_guidance: whether int8 loses the direction of guidance at a step. beyond: the largest magnitude in the
    samples, if it is beyond the range of usual data (`nearness.beyond_data`). float_reason: why no operation is in int8
    (`float_body.float_reason`); None if some are. reference: the check of float32's samples, without which a distance
    from them says nothing. ranges: those of the mean and of the 5th percentile on other seeds, whose low ends good to
    ship has to reach; None for few seeds. judged: the score by the user's judge; None without one. pictures: the mean
    PSNR of the pictures that the decoder of the body makes of its latents, which a call returns; None if it returns the
    samples. The verdict is the worse one of latents and pictures. seeds: the number of samples; None leaves it out.
    """
    if float_reason is not None:
        return f"{IN_FLOAT}: {float_reason}"
    unusable = None if reference is None else reference.problem
    measured = _figures(near, p5, tokens, ranges, pictures, seeds)
    said = measured if judged is None else judged.text
    figures = f"{body} {said}" if unusable is None else unusable
    if loses_guidance and unusable is None and judged is None:
        return f"{UNUSABLE}: {figures}, and loses the direction of guidance"
    if unusable is not None:
        word, shortfall = UNUSABLE, ""
    elif judged is not None:
        word, shortfall = _word_of_score(judged)
        shortfall += f"; it {measured}"
        if loses_guidance:
            word, shortfall = LOOK if word == GOOD else word, f"{shortfall}, and loses the direction of guidance"
    else:
        verdicts = [_word(near, p5, tokens, ranges)]
        if pictures is not None:
            of_pictures, limit = _word(Nearness(pictures), pictures, None, (None, None))
            verdicts.append((of_pictures, limit.replace("the mean", "the mean of its pictures")))
        word, shortfall = max(verdicts, key=lambda verdict: (GOOD, LOOK, UNUSABLE).index(verdict[0]))
    figures += shortfall
    if beyond is not None:
        fix = "a solver with --clip LIMIT, the largest number in your data, keeps them there"
        figures += f"; samples reach {beyond:.3g}, beyond the range of usual data ({fix})"
    if word != UNUSABLE and (note := random_note(random_conditions)) is not None:
        word, figures = LOOK, f"{figures}, judged {note}"
    elif word != UNUSABLE and beyond is not None:
        word = LOOK
    fixed = fixed_note(fixed_conditions)
    return f"{word}: {figures}" if fixed is None else f"{word}: {figures}; judged {fixed}"


def _word(near: Nearness, p5: float, tokens: Tokens, ranges: tuple[Range | None, Range | None]) -> tuple[str, str]:
    """Return the verdict in words, and a clause that names the figure that decides and its limit, such as "; the mean
    decides: good to ship needs 40 dB"; "" if all limits are reached."""
    if tokens is not None:
        is_good = 100 * tokens.disagreement <= MOST_CHANGED
        return (GOOD, "") if is_good else (LOOK, f": {GOOD.lower()} allows {MOST_CHANGED:g} %")
    if not near.is_enough:  # also for NaN
        return UNUSABLE, _shortfall("the mean", near, LEAST_PSNR, LEAST_SNR, "a usable body needs")
    lowest = _move(near, p5)
    good = f"{GOOD.lower()} needs"
    is_even = lowest.reaches(NEAR_PSNR - SPREAD, NEAR_SNR - SPREAD)
    if not near.is_near:
        also = "" if is_even else ", and the 5th percentile is too low as well"
        return LOOK, _shortfall("the mean", near, NEAR_PSNR, NEAR_SNR, good) + also
    if not is_even:
        return LOOK, _shortfall("the 5th percentile", lowest, NEAR_PSNR - SPREAD, NEAR_SNR - SPREAD, good)
    of_mean, of_p5 = (None if ends is None else _move(near, ends[0]) for ends in ranges)
    if of_mean is not None and not of_mean.is_near:
        return LOOK, _shortfall("the mean on other seeds", of_mean, NEAR_PSNR, NEAR_SNR, good)
    if of_p5 is not None and not of_p5.reaches(NEAR_PSNR - SPREAD, NEAR_SNR - SPREAD):
        return LOOK, _shortfall("the 5th percentile on other seeds", of_p5, NEAR_PSNR - SPREAD, NEAR_SNR - SPREAD, good)
    return GOOD, "" if near.psnr >= NEAR_PSNR else f"; {_describe_loud(near)}"


def _word_of_score(judged: JudgeScore) -> tuple[str, str]:
    """Return the verdict by a judge in words, and a clause about other seeds, on which it may miss its limit."""
    if judged.problem is not None:
        return UNUSABLE, ""
    return (GOOD, "") if judged.is_certain else (LOOK, "; on other seeds the score may be less than the limit")


def _move(near: Nearness, psnr: float) -> Nearness:
    """Return the figures of samples with another PSNR. Their ratio of signal to error changes by the same amount."""
    return Nearness(psnr, None if near.snr is None else near.snr - (near.psnr - psnr))


def _shortfall(which: str, near: Nearness, psnr: float, snr: float, needs: str) -> str:
    """Return a clause about the limit in dB that a figure does not reach: that of the PSNR or, if the PSNR suffices,
    that of the signal-to-noise ratio. which: "the mean" or "the 5th percentile"."""
    if near.snr is not None and near.snr > near.psnr:
        return f"; {_describe_loud(near)}, which decides: {needs} {psnr:g} dB"
    if near.psnr < psnr <= round(near.psnr, 1):  # the figure, rounded, is the limit
        return f"; {which} decides, just below the {psnr:g} dB that {needs}"
    if near.snr is None or not near.psnr >= psnr:
        return f"; {which} decides: {needs} {psnr:g} dB"
    return f"; the signal decides, {near.snr:.1f} dB above the error in {which}: {needs} {snr:g} dB"


def _describe_loud(near: Nearness) -> str:
    """Return the signal-to-noise ratio as text. It is reported instead of PSNR if samples exceed the peak that PSNR
    assumes."""
    return f"its signal, louder than the peak of PSNR, is {near.snr:.1f} dB above the error"


def _figures(
    near: Nearness,
    p5: float,
    tokens: Tokens,
    ranges: tuple[Range | None, Range | None],
    pictures: float | None,
    seeds: int | None,
) -> str:
    if tokens is not None:
        return f"changes {100 * tokens.disagreement:.1f} % of the most likely tokens"
    if p5 >= CEILING and (pictures is None or pictures >= CEILING):
        return "has the samples of float32, bit for bit"
    mean, percentile = ("" if ends is None else f" ({ends[0]:.1f} to {ends[1]:.1f})" for ends in ranges)
    of_seeds = "" if seeds is None else f", the mean of {seeds} seed{'s' * (seeds != 1)}"
    if pictures is not None:
        of_latents = f"{near.psnr:.1f} dB{mean}{of_seeds}, 5th percentile {p5:.1f} dB{percentile}"
        return f"has {pictures:.1f} dB PSNR against float32 in its pictures, and {of_latents} in its latents"
    return f"has {near.psnr:.1f} dB PSNR{mean} against float32{of_seeds}, 5th percentile {p5:.1f} dB{percentile}"
