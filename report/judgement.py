"""The verdict on an int8 body, with its reason: good to ship, look at it, or not usable.

It compares int8 with float32 along the same plan, by the mean over seeds and by the 5th percentile, so that single bad
samples count. There are limits for the PSNR and for the signal-to-error ratio (`nearness`):

- good to ship: the mean reaches 40 dB and 30 dB, above which few people see a difference, and the 5th percentile is at
  most 5 dB below these limits; for tokens, at most 3 % of the most likely tokens differ;
- not usable: the mean is below 25 dB or 15 dB, or int8 loses the direction of guidance;
- samples that are louder than the peak of PSNR have a higher ratio than PSNR, and it is compared with both limits;
- not int8: no operation is in int8, so that the samples are those of float32;
- look at it: everything between, and everything judged on random conditions or with samples beyond usual data.
"""

from collections.abc import Sequence

from fewstep.measure.results import TokenQuality
from fewstep.measure.rollouts.conditions_file import fixed_note, random_note
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR, NEAR_PSNR, NEAR_SNR, Nearness
from fewstep.runtime.bundle.manifest import TokenAgreement

GOOD, LOOK, UNUSABLE, IN_FLOAT = "Good to ship", "Look at it", "Not usable", "Not int8"
SPREAD = 5.0  # dB from the limits of the mean to those of the 5th percentile
MOST_CHANGED = 3.0  # % of the most likely tokens at float32's states


def judgement(
    near: Nearness,
    p5: float,
    tokens: TokenQuality | TokenAgreement | None = None,
    random_conditions: Sequence[str] = (),
    fixed_conditions: Sequence[str] = (),
    loses_guidance: bool = False,
    body: str = "int8",
    beyond: float | None = None,
    float_reason: str | None = None,
) -> str:
    """Return the verdict and its reason, as in "Good to ship: int8 has 54.5 dB PSNR against float32, 5th percentile
    53.2 dB".

    near: int8's samples against float32's. p5: the 5th percentile of their PSNR in dB. random_conditions: names of
    conditions with random values. fixed_conditions: names of those that have one value in all samples.
    loses_guidance: whether int8 loses the direction of guidance at a step. beyond: the largest magnitude in the
    samples, if it is beyond the range of usual data (`nearness.beyond_data`). float_reason: why no operation is in int8
    (`float_body.float_reason`); None if some are.
    """
    if float_reason is not None:
        return f"{IN_FLOAT}: {float_reason}"
    figures = f"{body} {_figures(near, p5, tokens)}"
    if loses_guidance:
        return f"{UNUSABLE}: {figures}, and loses the direction of guidance"
    word, shortfall = _word(near, p5, tokens)
    figures += shortfall
    if beyond is not None:
        fix = "a solver with --clip LIMIT keeps them in yours"
        figures += f"; samples reach {beyond:.3g}, beyond the range of usual data ({fix})"
    if word != UNUSABLE and (note := random_note(random_conditions)) is not None:
        word, figures = LOOK, f"{figures}, judged {note}"
    elif word != UNUSABLE and beyond is not None:
        word = LOOK
    fixed = fixed_note(fixed_conditions)
    return f"{word}: {figures}" if fixed is None else f"{word}: {figures}; judged {fixed}"


def _word(near: Nearness, p5: float, tokens: TokenQuality | TokenAgreement | None) -> tuple[str, str]:
    """Return the verdict in words, and a clause about the limit that is not reached, such as ", where good to ship
    needs 40 dB"; "" if all are reached."""
    if tokens is not None:
        is_good = 100 * tokens.disagreement <= MOST_CHANGED
        return (GOOD, "") if is_good else (LOOK, f", where {GOOD.lower()} allows {MOST_CHANGED:g} %")
    if not near.is_enough:  # also for NaN
        return UNUSABLE, _shortfall(near, LEAST_PSNR, LEAST_SNR, "a usable body needs")
    lowest = Nearness(p5, None if near.snr is None else near.snr - (near.psnr - p5))
    good = f"{GOOD.lower()} needs"
    if not near.is_near:
        return LOOK, _shortfall(near, NEAR_PSNR, NEAR_SNR, good)
    if not lowest.reaches(NEAR_PSNR - SPREAD, NEAR_SNR - SPREAD):
        return LOOK, f"{_shortfall(lowest, NEAR_PSNR - SPREAD, NEAR_SNR - SPREAD, good)} at the 5th percentile"
    return GOOD, "" if near.psnr >= NEAR_PSNR else _describe_loud(near)


def _shortfall(near: Nearness, psnr: float, snr: float, needs: str) -> str:
    """Return a clause about the limit in dB that a body does not reach: that of the PSNR or, if the PSNR suffices, that
    of the signal-to-noise ratio."""
    if near.snr is not None and near.snr > near.psnr:
        return f"{_describe_loud(near)}, where {needs} {psnr:g} dB"
    if near.psnr < psnr <= round(near.psnr, 1):  # the figure, rounded, is the limit
        return f", just below the {psnr:g} dB that {needs}"
    if near.snr is None or not near.psnr >= psnr:
        return f", where {needs} {psnr:g} dB"
    return f"; its signal is {near.snr:.1f} dB above the error, where {needs} {snr:g} dB"


def _describe_loud(near: Nearness) -> str:
    """Return the signal-to-noise ratio as text. It is reported instead of PSNR if samples exceed the peak that PSNR
    assumes."""
    return f"; its signal, louder than the peak of PSNR, is {near.snr:.1f} dB above the error"


def _figures(near: Nearness, p5: float, tokens: TokenQuality | TokenAgreement | None) -> str:
    if tokens is not None:
        return f"changes {100 * tokens.disagreement:.1f} % of the most likely tokens"
    return f"has {near.psnr:.1f} dB PSNR against float32, 5th percentile {p5:.1f} dB"
