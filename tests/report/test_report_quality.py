"""The sections on single samples and on their distribution: their contents, and the bodies that they show."""

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.verbs.measure import verb
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Distance, Quality, StepQuality, TokenQuality, encode
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.tally import PairedSamples
from fewstep.measure.teacher import NO_TEACHER, TeacherCheck
from fewstep.plans import file as plan_file
from fewstep.plans.compile import compile_plan
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.shaping import Clip
from fewstep.report import report as report_module
from fewstep.report.advice import advice
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.report.sections.distribution import distribution_section, read_evaluation
from fewstep.report.sections.quality import quality_section
from fewstep.report.verdict import describe_distance, describe_distances, describe_low_quality
from fewstep.runtime.bundle.manifest import Difference, FittedPlan, TokenAgreement
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.progress import SILENT
from fewstep.runtime.sampling.request import denoiser_facts
from tests.bundles import change_bundle, with_body
from tests.described_cpu import describe_cpu
from tests.report.extractors import write_extractor
from tests.report.judged_bundle import make_bundle

BODY = "int8-cpu-x86"
IMAGES = np.random.default_rng(0).normal(size=(12, 3, 16, 16)) / 3
DISTANCE = Distance("float32, p, other seeds", 200, 200, 1.5, 1.25, 0.25, -0.1, 0.6, 1.25, False)
replace = msgspec.structs.replace


def write_report(bundle, *output, **changes):
    """Write a report of few seeds, and return its page."""
    few = {"seeds": 2, "forced_seeds": 1, "teacher_seeds": 1, "simulated_seeds": 1, "batches": (1,), "rounds": 1}
    measured = report(ReportOptions(bundle, *output, teacher="ddim:6", turn_seconds=0.01, **few, **changes))
    page = next(iter(output), bundle / "report" / "index.html")
    return measured, page.read_text().replace("&#x27;", "'")


def store(bundle, content):
    """Store this as the bundle's evaluation."""
    change_bundle(bundle, {"report/measured-0.json": content}, evaluation="report/measured-0.json")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    bundle = make_bundle(folder / "tiny")
    features = write_extractor(folder / "mine.onnx", np.random.default_rng(1).normal(size=(64, 3)))
    options = MeasureOptions(
        bundle,
        ("psnr", "fd"),
        seeds=4,
        samples=100,
        features=str(features),
        teacher="ddim:6",
        teacher_seeds=1,
        resamples=20,
    )
    return bundle, measure(options)


def compare_pairs(samples: np.ndarray, references: np.ndarray, name: str) -> EndQuality:
    pairs = PairedSamples()
    pairs.add(samples, references)
    return pairs.quality(name)


class Results:
    """The results of a report that the section reads."""

    plan, teacher, teacher_check, further_teacher = "p:8", "p:200", TeacherCheck("p:200", 50.0, 30.0, 4), None

    def __init__(self, samples):
        own = compare_pairs(samples, IMAGES, "float32, p:8")
        self.qualities, self.calls = (Quality(BODY, "cpu-x86", "onnxruntime", own, own, (), 0),), ()
        self.float_against_teacher = own


def test_single_samples_have_ssim_spectrum_and_channels():
    shifted = IMAGES + np.array([0, 0.25, 0])[:, None, None]
    results = Results(shifted)
    text = quality_section(results).markup
    ssim = results.qualities[0].against_float.ssim
    assert f'value="{ssim.mean!r}"' in text and f'value="{ssim.p5!r}"' in text and 0 < ssim.worst < 1
    assert "Compared with twice as many steps, the teacher p:200 has 50.0 dB, and the judged plan 30.0 dB" in text
    assert "Channel by channel" in text and "int8-cpu-x86, channel 1" in text and ">0.2500<" in text
    assert "Frequencies at which int8" in text


def test_samples_that_have_no_ssim_show_a_dash_and_one_note():
    results = Results(IMAGES)
    end = replace(results.float_against_teacher, ssim=None)
    results.float_against_teacher = end
    results.qualities = (replace(results.qualities[0], against_float=end, against_teacher=end),)
    text = quality_section(results).markup
    assert text.count("\N{EN DASH}") == 6 and text.count("No SSIM: it compares images of at least 11 pixels") == 1
    assert "No SSIM" not in quality_section(Results(IMAGES)).markup
    assert "No SSIM" not in quality_section(results, is_image=False).markup


def test_a_distilled_denoiser_has_one_reference_and_ssim():
    results = Results(IMAGES)
    results.teacher = results.teacher_check = results.float_against_teacher = None
    results.qualities = (replace(results.qualities[0], against_teacher=None),)
    text = quality_section(results).markup
    assert "No SSIM" not in text and "float32 teacher" not in text and NO_TEACHER in text


def test_one_channel_needs_no_table_of_channels():
    results = Results(IMAGES)
    one = compare_pairs(IMAGES[:, :1], IMAGES[:, :1], "r")
    results.qualities = (replace(results.qualities[0], against_float=one),)
    assert "Channel by channel" not in quality_section(results).markup


def test_the_distribution_shows_every_figure_and_says_what_it_amounts_to(evaluation):
    _, results = evaluation
    text = distribution_section(results).markup
    (distance,) = results.qualities[0].distances
    for value in (distance.frechet, distance.frechet_float, distance.low, distance.high):
        assert f'value="{value!r}"' in text
    assert "FD(mine)" in text and "FID" not in text and describe_distance(distance) in text.replace("&#x27;", "'")


@pytest.mark.slow
def test_the_next_report_shows_it_with_its_plan_also_elsewhere_along_another(evaluation, tmp_path):
    bundle, results = evaluation
    for output, changes in ((), {}), ((tmp_path / "page.html",), {"plan": "ddim:3"}):
        _, text = write_report(bundle, *output, **changes)
        assert 'id="distribution"' in text and repr(results.qualities[0].distances[0].frechet) in text
        assert "sets of samples, here along" in text and "dpmpp_2m:4, " in text


@pytest.mark.slow
def test_an_evaluation_that_is_damaged_is_left_out_and_said(evaluation, tmp_path):
    bundle = Path(shutil.copytree(evaluation[0], tmp_path / "bundle"))
    file = bundle / str(open_bundle(bundle).manifest.evaluation)
    file.write_bytes(file.read_bytes()[:-9])
    measured, text = write_report(bundle)
    (note,) = (each for each in measured.notes if "Not shown" in each)
    assert note.startswith("Not shown: the bundle's evaluation, because file report/") and "is damaged" in note
    assert 'id="distribution"' not in text and "is damaged" in text


def test_an_evaluation_with_figures_of_before_is_left_out_with_a_warning(evaluation, tmp_path, caplog):
    bundle = Path(shutil.copytree(evaluation[0], tmp_path / "bundle"))
    before = json.loads(encode(evaluation[1]))
    before["qualities"][0]["distances"][0] |= {"kernel": 0.1, "kernel_float": 0.1}
    store(bundle, json.dumps(before).encode())
    assert read_evaluation(open_bundle(bundle)) is None
    (warning,) = caplog.messages
    assert "cannot be read" in warning and "`kernel`" in warning and "repeat it with fewstep measure" in warning


@pytest.mark.slow
def test_an_evaluation_made_while_the_report_measured_is_shown(evaluation, tmp_path, monkeypatch):
    bundle = Path(shutil.copytree(evaluation[0], tmp_path / "bundle"))
    real = report_module.collect_figures
    change_bundle(bundle, evaluation=None)

    def meanwhile(*given):
        store(bundle, encode(evaluation[1]))
        return real(*given)

    monkeypatch.setattr(report_module, "collect_figures", meanwhile)
    assert 'id="distribution"' in write_report(bundle)[1]


def test_a_bundle_shows_what_was_found_of_its_bodies_and_of_no_previous_ones(evaluation):
    bundle, results = evaluation
    assert read_evaluation(open_bundle(bundle)) == results
    graph = open_bundle(bundle).body("float32").graph  # another graph under the body's name
    with_body(bundle, BODY, graphs=(graph,))
    assert read_evaluation(open_bundle(bundle)) is None


def test_an_evaluation_that_cannot_be_read_is_left_out_with_a_warning(tmp_path, caplog):
    bundle = make_bundle(tmp_path / "tiny")
    store(bundle, b'{"schema": 0}')
    assert read_evaluation(open_bundle(bundle)) is None and "repeat it with fewstep measure" in caplog.text


def test_verdicts_say_change_only_where_there_is_one(evaluation):
    assert describe_distance(DISTANCE) == "no detectable change (+0.25 [-0.1, +0.6], noise floor 1.25)"
    further = replace(DISTANCE, detectable=True, difference=3.0, low=2.0, high=4.0)
    assert describe_distance(further).startswith("the distribution changed: further away (+3 [+2, +4]")
    assert "no improvement" in describe_distance(replace(further, difference=-3.0, low=-4.0, high=-2.0))
    small = describe_distance(replace(DISTANCE, low=0.1))
    assert small.startswith("within the noise floor, but detectable between paired seeds: further away (+0.25 [+0.1, ")
    (sentence,) = describe_distances(evaluation[1])
    assert sentence.startswith("int8-cpu-x86 against float32, dpmpp_2m:4, other seeds: ")


def test_measure_names_a_body_that_is_far_from_float(evaluation, monkeypatch):
    bundle, results = evaluation
    near, far = (
        replace(body, body=name, against_float=replace(body.against_float, mean=mean, snr=mean - 10, unrelated=9.0))
        for body in results.qualities
        for name, mean in (("near", 25.0), ("far", 3.0))
    )
    monkeypatch.setattr("fewstep.cli.verbs.measure.measure", lambda *_: replace(results, qualities=(near, far)))
    shown = verb(MeasureOptions(bundle), SILENT).shown
    figures = "the signal -7.0 dB above the error; another seed's sample has 9.0 dB"
    assert f"far is only 3.0 dB from float32, {figures}: look at the samples before deploying it." in shown
    assert not any(str(line).startswith("near is only") for line in shown)


def test_a_body_that_changes_many_tokens_is_named():
    """The decibels of tokens measure other numbers, and have no limit here."""
    assert describe_low_quality("few", 3.0, TokenQuality(0.03, 0.6, ())) is None
    said = "many changes 3.2 % of the most likely tokens: compare its samples before deploying it."
    assert (
        describe_low_quality("many", 30.0, TokenAgreement(0.032, 0.6, ()))
        == said
        == describe_low_quality("many", 30.0, TokenQuality(0.032, 0.6, ()))
    )


@pytest.mark.parametrize(
    ("steps", "int8", "said"),
    [
        (
            10.8,
            26.9,
            "Few steps lose more than int8: float32 has 10.8 dB PSNR against many steps on 1 seed, and int8-cpu-x86 "
            "26.9 dB against float32 on 4 seeds",
        ),
        (44.0, 26.9, "int8 loses more than few steps: "),
        (31.0, 29.0, "Few steps and int8 lose about the same: "),
        (41.0, 60.0, "Neither few steps nor int8 loses much: "),
    ],
)
def test_the_costliest_is_named_first_with_the_next_command(evaluation, steps, int8, said):
    results = evaluation[1]
    (body,) = results.qualities
    body = replace(body, against_float=replace(body.against_float, mean=int8, largest=None), steps=())
    few_steps = replace(results.float_against_teacher, mean=steps)
    results = replace(results, float_against_teacher=few_steps, qualities=(body,))
    bundle, path = open_bundle(evaluation[0]), Path("my models/shapes")
    found = advice(results, bundle, path)
    assert said in found.verdict and re.fullmatch(r"fewstep [a-z]+ 'my models/shapes'( .*)?", found.command)
    assert str(found) == f"{found.verdict} Next: {found.command}"
    assert "fewstep fit" not in advice(replace(results, shaping="clipped"), bundle, path).command
    far = replace(body, against_float=replace(body.against_float, largest=37.4))
    diverged = advice(replace(results, qualities=(far,)), bundle, path)
    assert diverged.command == "fewstep calibrate 'my models/shapes' --plan dpmpp_2m:4 --clip LIMIT"
    assert advice(replace(results, qualities=()), bundle, path) is None
    large = replace(results, qualities=(replace(body, against_float=replace(body.against_float, largest=37.4)),))
    found = advice(large, bundle, path)
    assert "; samples reach 37.4, beyond the range of usual data" in found.verdict
    assert found.verdict.endswith(
        "Samples leave the range of the data: clip each clean prediction, with --clip LIMIT, "
        "the largest number in your data, which export --check reads, such as 1 for images in [-1, 1]."
    )
    assert found.command == "fewstep calibrate 'my models/shapes' --plan dpmpp_2m:4 --clip LIMIT"
    assert "samples reach" not in advice(replace(large, shaping="clipped"), bundle, path).verdict


def test_a_verdict_says_if_its_figures_include_saturation(evaluation, monkeypatch, tmp_path):
    pytest.importorskip("openvino", reason="a body for an engine that is not installed is simulated, with exact sums")
    path, results = evaluation
    bundle = open_bundle(path)
    bodies = bundle.manifest.bodies
    bodies |= {"int8-cpu-x86": replace(bodies["int8-cpu-x86"], target="openvino")}
    bundle = Bundle(path, replace(bundle.manifest, bodies=bodies))
    describe_cpu(monkeypatch, tmp_path, ("avx2",))
    assert "figures include saturation, since this CPU has no VNNI" in advice(results, bundle, path).verdict
    assert "saturation" not in advice(results, open_bundle(path), path).verdict  # onnxruntime's sums are exact
    describe_cpu(monkeypatch, tmp_path, ("avx2", "avx_vnni"))
    assert "saturation" not in advice(results, bundle, path).verdict


def test_a_plan_that_takes_no_clip_is_replaced_in_the_next_command(evaluation, monkeypatch):
    path, results = Path("shapes"), evaluation[1]
    (body,) = results.qualities
    far = replace(body, against_float=replace(body.against_float, largest=37.4))
    again = CalibrateOptions(path, plan=parse_plan_text("scheduler:6"))
    monkeypatch.setattr("fewstep.report.advice.calibrate_again", lambda *_: again)
    found = advice(replace(results, qualities=(far,)), open_bundle(evaluation[0]), path)
    assert found.command == "fewstep calibrate shapes --plan dpmpp_2m:6 --clip LIMIT"


@pytest.mark.parametrize("plan", ["dpmpp_2m:8@arctan", "scheduler:5", "ddim:4 from step 1"])
def test_a_clipped_plan_that_loses_most_gets_a_choice_which_measures_others(evaluation, plan):
    """A fitted plan cannot clip, so the advice is never `fewstep fit`; whether more steps help, only a measurement
    says. The body has 26.4 dB against the teacher."""
    path, results = evaluation
    (body,) = results.qualities
    body = replace(
        body,
        against_float=replace(body.against_float, mean=36.9),
        against_teacher=replace(body.against_float, mean=26.4),
    )
    few = replace(results.float_against_teacher, mean=26.8)
    results = replace(results, plan=plan, float_against_teacher=few, qualities=(body,), shaping="clipped to [-1, 1]")
    command = advice(results, open_bundle(path), path).command
    assert command.startswith(f"fewstep choose {path} --at-least 27dB")


def test_an_advised_choice_asks_for_more_quality_than_the_bundle_has(evaluation):
    path, results = evaluation
    (body,) = results.qualities
    body = replace(
        body,
        against_float=replace(body.against_float, mean=34.0, largest=None),
        against_teacher=replace(body.against_float, mean=31.6),
    )
    few = replace(results.float_against_teacher, mean=35.0)
    results = replace(results, float_against_teacher=few, qualities=(body,))
    command = advice(results, open_bundle(path), path).command
    assert command == f"fewstep choose {path} --at-least 32dB"


def test_a_fitted_plan_of_the_bundle_is_advised_before_another_fit(evaluation, tmp_path):
    """The plan with the highest PSNR, at most as many evaluations, and the same guidance."""
    results, path = evaluation[1], tmp_path / "copy"
    shutil.copytree(evaluation[0], path)
    (body,) = results.qualities
    count = len(body.steps)
    losing = replace(results.float_against_teacher, mean=20.0)
    body = replace(body, against_float=replace(body.against_float, mean=30.0, largest=None))
    results = replace(results, float_against_teacher=losing, qualities=(body,), shaping=None)
    fits = []

    def add_fit(evaluations, psnr, guidance):
        name = f"plans/fit-{len(fits)}.json"
        plan = compile_plan(f"ddim:{evaluations}", denoiser_facts(open_bundle(path).manifest), guidance)
        fits.append(FittedPlan(evaluations, "float32", name, "ddim", "t", 20.0, psnr, 0.1, 16))
        change_bundle(path, {name: plan_file.encode(plan)}, fitted=tuple(fits))
        return advice(results, open_bundle(path), path).command

    guidance = None if results.guidance is None else float(results.guidance)
    fit = f"fewstep fit {path} --steps {count}"
    assert add_fit(count, 22.0, guidance) == fit  # hardly better
    assert add_fit(count + 1, 40.0, guidance) == fit  # takes longer
    assert add_fit(count, 39.0, 7.0 if guidance is None else guidance + 1) == fit
    assert add_fit(count, 33.0, guidance) == f"fewstep calibrate {path} --plan fitted:{count}"
    said = advice(results, open_bundle(path), path).verdict
    assert said.endswith(f"against float32 on 4 seeds; the bundle's plan fitted:{count} has 33.0 dB.")


def test_an_advised_calibration_keeps_plan_guidance_and_clip(evaluation, tmp_path):
    results, path = evaluation[1], tmp_path / "copy"
    shutil.copytree(evaluation[0], path)
    (body,) = results.qualities
    losing = replace(body, against_float=replace(body.against_float, mean=20.0))
    results = replace(results, float_against_teacher=replace(results.float_against_teacher, mean=40.0))
    results = replace(results, qualities=(losing,))
    manifest = open_bundle(path).manifest
    plan = compile_plan("ddim:3", denoiser_facts(manifest), 3.0, Clip(-2.0, 2.0))
    bodies = {key: replace(each, plan="mine") if each.plan else each for key, each in manifest.bodies.items()}
    change_bundle(path, {"plans/mine.json": plan_file.encode(plan)}, bodies=bodies, plans={"mine": "plans/mine.json"})
    command = advice(results, open_bundle(path), path).command
    assert command == f"fewstep calibrate {path} --plan {plan.name} --guidance 3 --clip 2 --quality 40dB"


def test_a_lost_direction_of_guidance_comes_first(evaluation):
    results = evaluation[1]
    (body,) = results.qualities
    lost = Difference(step=1, gain=0.2, ratio=-1.0, share=0.2)
    steps = (StepQuality(0, 1.0, 0.0, 0, 30.0, 30.0, 30.0, guidance=lost),)
    body = replace(body, steps=steps, against_float=replace(body.against_float, largest=None))
    results = replace(results, qualities=(body,))
    found = advice(results, open_bundle(evaluation[0]), evaluation[0])
    assert found.verdict.startswith("Not usable: int8-cpu-x86 has ")
    assert "), and loses the direction of guidance." in found.verdict
    assert found.command.endswith("--quality 30dB")


@pytest.mark.parametrize("precision", ["int4-weights", "int8-weights"])
def test_advice_on_a_body_of_weights_takes_no_quality(evaluation, precision):
    path, results = evaluation
    bundle, (body,) = open_bundle(path), results.qualities
    weights = replace(bundle.manifest.bodies[body.body], precision=precision, target=precision, plan="")
    bundle = Bundle(path, replace(bundle.manifest, bodies=bundle.manifest.bodies | {precision: weights}))
    finer = {"int4-weights": "calibrate {} --target int8-weights", "int8-weights": "run {} --precision float32"}
    for mean, then in ((20.0, finer[precision]), (60.0, f"run {{}} --precision {precision}")):
        end = replace(body.against_float, mean=mean, p5=mean, largest=None)
        judged = replace(results, qualities=(replace(body, body=precision, against_float=end),), shaping="clipped")
        proposal = advice(replace(judged, float_against_teacher=replace(end, mean=60.0)), bundle, path)
        assert proposal.command == f"fewstep {then.format(path)}"
