"""The verdict on a body: its word, by the limits of docs/quantization.md, and its reason."""

import pytest

from fewstep.measure.results import TokenQuality
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.report.judgement import judgement
from fewstep.runtime.bundle.figures import Figure, JudgeScore, ReferenceCheck

LOUD = "; its signal, louder than the peak of PSNR, is"
BOTH = ", and the 5th percentile is too low as well"
SIGNAL = "; the signal decides, "


@pytest.mark.parametrize(
    ("psnr", "snr", "p5", "word", "why"),
    [
        (40.0, 30.0, 35.0, "Good to ship", ""),
        (40.0, 30.0, 34.9, "Look at it", "; the 5th percentile decides: good to ship needs 35 dB"),
        (39.9, 35.0, 39.0, "Look at it", "; the mean decides: good to ship needs 40 dB"),
        (45.0, 29.9, 44.0, "Look at it", f"{SIGNAL}29.9 dB above the error in the mean: good to ship needs 30 dB"),
        (40.0, None, 36.0, "Good to ship", ""),
        (25.0, 15.0, 10.0, "Look at it", f"; the mean decides: good to ship needs 40 dB{BOTH}"),
        (24.9, 20.0, 24.0, "Not usable", "; the mean decides: a usable body needs 25 dB"),
        (40.0, 14.9, 40.0, "Not usable", f"{SIGNAL}14.9 dB above the error in the mean: a usable body needs 15 dB"),
        (float("nan"), 20.0, 24.0, "Not usable", "; the mean decides: a usable body needs 25 dB"),
        (-20.0, 45.0, -22.0, "Good to ship", "; its signal, louder than the peak of PSNR, is 45.0 dB above the error"),
        (39.99, 30.0, 39.0, "Look at it", "; the mean decides, just below the 40 dB that good to ship needs"),
        (
            9.9,
            27.9,
            9.0,
            "Look at it",
            f"{LOUD} 27.9 dB above the error, which decides: good to ship needs 40 dB{BOTH}",
        ),
        (9.9, 24.9, 9.0, "Not usable", f"{LOUD} 24.9 dB above the error, which decides: a usable body needs 25 dB"),
    ],
)
def test_the_word_and_its_reason_follow_from_the_mean_and_the_fifth_percentile(
    psnr: float, snr: float | None, p5: float, word: str, why: str
) -> None:
    figures = f"{psnr:.1f} dB PSNR against float32, 5th percentile {p5:.1f} dB"
    assert judgement(Nearness(psnr, snr), p5) == f"{word}: int8 has {figures}{why}"


def test_bodies_are_not_compared_with_samples_that_are_not_usable() -> None:
    """A figure such as 200 dB would say nothing."""
    figure = Figure("spread", 0.0, 1e-6, False, "all its values are equal")
    near = Nearness(200.0, None)
    said = "Not usable: float32 itself: all its values are equal"
    assert judgement(near, 200.0, reference=ReferenceCheck((figure,))) == said
    tried = ReferenceCheck((figure,), "ddim:4")
    assert judgement(near, 200.0, reference=tried) == f"{said}; the samples of --plan ddim:4 are usable"
    assert judgement(near, 200.0, reference=tried, loses_guidance=True).startswith(said)


@pytest.mark.parametrize(
    ("of_mean", "of_p5", "word", "why"),
    [
        ((40.0, 44.0), (35.0, 42.0), "Good to ship", ""),
        ((39.9, 44.1), (35.0, 42.0), "Look at it", "; the mean on other seeds decides: good to ship needs 40 dB"),
        (
            (40.0, 44.0),
            (34.9, 42.0),
            "Look at it",
            "; the 5th percentile on other seeds decides: good to ship needs 35 dB",
        ),
    ],
)
def test_good_to_ship_holds_at_the_low_ends_of_the_ranges(
    of_mean: tuple[float, float], of_p5: tuple[float, float], word: str, why: str
) -> None:
    said = judgement(Nearness(42.0, 34.0), 38.0, ranges=(of_mean, of_p5))
    figures = f"42.0 dB PSNR ({of_mean[0]:.1f} to {of_mean[1]:.1f}) against float32, 5th percentile 38.0 dB"
    assert said.startswith(f"{word}: int8 has {figures} ({of_p5[0]:.1f} to 42.0)")
    assert said.endswith(f"42.0){why}")


def test_the_ratio_of_signal_to_error_moves_with_the_mean() -> None:
    """30.5 dB at the mean are 29.5 dB at the low end."""
    said = judgement(Nearness(45.0, 30.5), 44.0, ranges=((44.0, 46.0), (43.0, 45.0)))
    assert said.startswith("Look at it") and "29.5 dB above the error in the mean on other seeds" in said


def test_the_number_of_seeds_is_said() -> None:
    said = judgement(Nearness(38.1, 34.0), 37.0, seeds=16)
    figures = "38.1 dB PSNR against float32, the mean of 16 seeds, 5th percentile 37.0 dB"
    assert said == f"Look at it: int8 has {figures}; the mean decides: good to ship needs 40 dB"


def test_equal_samples_have_no_figure_in_decibels() -> None:
    check = ReferenceCheck((Figure("spread", 0.9, 1e-6, False, "all its values are equal"),))
    said = "Good to ship: int8 has the samples of float32, bit for bit"
    assert judgement(Nearness(200.0, 190.0), 200.0, reference=check) == said


@pytest.mark.parametrize(("value", "is_most", "is_kept"), [(1.0, True, True), (1.0, False, True), (1.1, True, False)])
def test_a_figure_keeps_its_limit_up_to_equality(value: float, is_most: bool, is_kept: bool) -> None:
    assert Figure("size", value, 1.0, is_most, "").is_kept == is_kept
    assert not Figure("size", float("nan"), 1.0, is_most, "").is_kept


def test_a_body_without_int8_is_never_good_to_ship() -> None:
    said = judgement(Nearness(200.0, 190.0), 200.0, float_reason="no operation is in int8")
    assert said == "Not int8: no operation is in int8"


def test_a_verdict_names_conditions_that_have_one_value() -> None:
    said = judgement(Nearness(54.5, 44.0), 53.2, fixed_conditions=("class", "speed"))
    assert said.startswith("Good to ship: int8 has 54.5 dB PSNR")
    assert said.endswith("; judged at one value of class, speed only: give others with --conditions FILE")


def test_random_and_fixed_conditions_are_named_one_after_the_other() -> None:
    said = judgement(Nearness(54.5, 44.0), 53.2, random_conditions=("mask",), fixed_conditions=("class",))
    notes = "judged on random values of mask: give --conditions FILE; judged at one value of class only: give others"
    assert said.startswith("Look at it: ") and said.endswith(f", {notes} with --conditions FILE")


def test_what_was_judged_on_random_conditions_is_never_good_to_ship() -> None:
    near, names = Nearness(54.5, 44.0), ("mask", "masked")
    assert judgement(near, 53.2) == "Good to ship: int8 has 54.5 dB PSNR against float32, 5th percentile 53.2 dB"
    said = "Look at it: b has 54.5 dB PSNR against float32, 5th percentile 53.2 dB, judged on random values of mask, "
    assert judgement(near, 53.2, random_conditions=names, body="b") == f"{said}masked: give --conditions FILE"
    assert judgement(Nearness(20.0, 10.0), 19.0, random_conditions=names).startswith("Not usable: int8 has 20.0 dB")


def test_samples_beyond_usual_data_are_never_good_to_ship() -> None:
    figures = "int8 has 54.5 dB PSNR against float32, 5th percentile 53.2 dB"
    fix = "a solver with --clip LIMIT, the largest number in your data, keeps them there"
    far = f"samples reach 37.4, beyond the range of usual data ({fix})"
    assert judgement(Nearness(54.5, 44.0), 53.2, beyond=37.4) == f"Look at it: {figures}; {far}"
    said = judgement(Nearness(54.5, 44.0), 53.2, random_conditions=("mask",), beyond=37.4)
    assert said == f"Look at it: {figures}; {far}, judged on random values of mask: give --conditions FILE"
    assert judgement(Nearness(20.0, 10.0), 19.0, beyond=37.4).startswith("Not usable: int8 has 20.0 dB")


def test_without_its_guidance_a_body_is_not_usable() -> None:
    said = (
        "Not usable: int8 has 54.5 dB PSNR against float32, 5th percentile 53.2 dB, and loses the direction of guidance"
    )
    assert judgement(Nearness(54.5, 44.0), 53.2, loses_guidance=True) == said


@pytest.mark.parametrize(("share", "word"), [(0.03, "Good to ship"), (0.031, "Look at it")])
def test_tokens_are_judged_by_those_that_change(share: float, word: str) -> None:
    said = judgement(Nearness(3.0), 1.0, TokenQuality(share, 0.6, ()))
    why = "" if word == "Good to ship" else ": good to ship allows 3 %"
    assert said == f"{word}: int8 changes {100 * share:.1f} % of the most likely tokens{why}"


def judged(
    score: float, limit: float = 0.9, float32: float = 1.0, score_range: tuple[float, float] | None = None
) -> JudgeScore:
    figures = (
        Figure("j", value, limit, False, f"scores {value:g} by j, less than {limit:g}") for value in (score, float32)
    )
    return JudgeScore(*figures, "", 64, score_range)


FAR = "has 24.0 dB PSNR against float32, 5th percentile 20.0 dB"


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (judged(0.9), f"Good to ship: int8 scores 0.9 by j, at least its limit 0.9; it {FAR}"),
        (
            judged(0.95, score_range=(0.91, 0.99)),
            f"Good to ship: int8 scores 0.95 (0.91 to 0.99) by j, at least its limit 0.9; it {FAR}",
        ),
        (
            judged(0.95, score_range=(0.89, 1.0)),
            "Look at it: int8 scores 0.95 (0.89 to 1) by j, at least its limit 0.9; on other seeds the score may be "
            f"less than the limit; it {FAR}",
        ),
        (judged(0.8), f"Not usable: int8 scores 0.8 by j, less than 0.9; it {FAR}"),
        (
            judged(0.8, float32=0.85),
            "Not usable: int8 scores 0.8 by j, less than 0.9, but float32 itself scores 0.85 by j, less than 0.9; it "
            f"{FAR}",
        ),
    ],
)
def test_a_judge_decides_instead_of_the_psnr_which_is_still_said(score: JudgeScore, said: str) -> None:
    near = Nearness(24.0, 14.0)
    assert judgement(near, 20.0, judged=score) == said
    assert judgement(near, 20.0).startswith("Not usable")
    assert judgement(Nearness(60.0, 50.0), 58.0, judged=judged(0.8)).startswith("Not usable")


def test_a_judge_does_not_see_samples_that_are_not_usable_or_a_lost_guidance() -> None:
    near, figure = Nearness(24.0, 14.0), Figure("spread", 0.0, 1e-6, False, "all its values are equal")
    said = judgement(near, 20.0, judged=judged(0.95), reference=ReferenceCheck((figure,)))
    assert said == "Not usable: float32 itself: all its values are equal"
    said = judgement(near, 20.0, judged=judged(0.95), loses_guidance=True)
    assert said.startswith("Look at it: ") and said.endswith("and loses the direction of guidance")
    assert judgement(near, 20.0, judged=judged(0.95), random_conditions=("text",)).startswith("Look at it: ")


@pytest.mark.parametrize(
    ("pictures", "word"), [(45.0, "Good to ship"), (38.0, "Look at it"), (20.0, "Not usable"), (None, "Good to ship")]
)
def test_pictures_count_as_their_latents_do(pictures: float | None, word: str) -> None:
    said = judgement(Nearness(54.5, 44.0), 53.2, pictures=pictures)
    assert said.startswith(f"{word}: int8 has {54.5 if pictures is None else pictures:.1f} dB PSNR against float32")
    assert ("54.5 dB, 5th percentile 53.2 dB in its latents" in said) == (pictures is not None)
    assert judgement(Nearness(30.0, 20.0), 29.0, pictures=45.0).startswith("Look at it")  # of the latents
    assert ("; the mean of its pictures decides: " in said) == (pictures is not None and pictures < 40)
