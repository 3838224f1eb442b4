"""The report of a tiny bundle: self-contained, with the figures of the results, and the bundle valid at every
moment.
"""

import errno
import json
import re
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from fewstep.graph.files import commit
from fewstep.measure import results as forms
from fewstep.measure.judges.judge import Judge
from fewstep.measure.measure import open_measure_task
from fewstep.measure.options import MeasureOptions
from fewstep.measure.rollouts.metrics import CEILING, psnr
from fewstep.measure.teacher import NO_TEACHER
from fewstep.plans.errors import UserError
from fewstep.report import report as report_module
from fewstep.report.figures import machine_notes
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.report.options import ReportOptions
from fewstep.report.page import build_page, headline
from fewstep.report.page_link import ADDRESS, link_report_page
from fewstep.report.report import report
from fewstep.report.report_task import open_report_task
from fewstep.report.sections.samples import Samples
from fewstep.report.verdict import list_warnings
from fewstep.runtime.backends import PROLOGUE
from fewstep.runtime.bundle.manifest import ReplacedGraph
from fewstep.runtime.bundle.reading import MANIFEST, list_files, open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle, with_bodies, with_body
from tests.described_cpu import describe_cpu
from tests.refusals import refuses
from tests.report.judged_bundle import ERROR, add_earlier, make_bundle

RATIOS = (("fast", 1.5), ("slow", 0.8))  # of timings


def options(bundle, **changes):
    few = {"seeds": 6, "forced_seeds": 3, "teacher_seeds": 4, "simulated_seeds": 3, "batches": (2,), "rounds": 2}
    return ReportOptions(bundle, **{"teacher": "dpmpp_2m:12", "turn_seconds": 0.01, **few, **changes})


class Page(HTMLParser):
    """Every tag with its attributes, and the exact value of every figure."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.figures = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self.figures.append(float(dict(attrs)["value"]))


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, its results and its page, made once, for tests that only read."""
    path = make_bundle(tmp_path_factory.mktemp("report") / "tiny")
    return path, report(options(path)), (path / "report" / "index.html").read_text()


def test_the_page_needs_nothing_else(made):
    _, _, text = made
    tags = Page(text).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    assert all(attributes["src"].startswith("data:image/png;base64,") for tag, attributes in tags if tag == "img")
    assert [tag for tag, _ in tags].count("img") >= 3
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text) and "url(" not in text and "@import" not in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_every_word_that_is_linked_is_explained(made):
    _, _, text = made
    linked = set(re.findall(r'<a href="#([^"]+)">', text))
    assert linked == set(re.findall(r'<dt id="([^"]+)">', text))
    assert {"word-MACs", "word-lambda", "word-teacher", "word-guidance"} <= linked


def test_of_guidance_the_worst_step_is_open_and_the_tables_are_folded(made):
    _, measured, text = made
    kept = [step.guidance for step in measured.qualities[0].steps]
    section = text.partition('<section id="guidance-and-conditions">')[2].partition("</section>")[0]
    lowest = min(kept, key=lambda each: each.ratio)
    said = f"at its worst step: {lowest.gain:.2f} times as large as float32's, {lowest.ratio:.1f} dB above its error"
    assert said in unescape(re.sub(r"<[^>]*>", "", section))
    assert section.count("<table>") == section.count("<details>") == 3  # the simulated body has one
    assert "<table>" not in re.sub(r"<details>.*?</details>", "", section, flags=re.DOTALL)


def test_nothing_is_cut_off_or_covered_on_a_narrow_page(made):
    """Names of rows wrap, wide parts scroll, and a figure keeps its unit."""
    _, _, text = made
    (strip,) = re.findall(r"\.strip {([^}]*)}", text)[:1]
    assert "fit-content(170px) minmax(0, 1fr)" in strip and "overflow-wrap: anywhere" in strip
    shown = re.sub(r"<details>.*?</details>", "", text.partition("</style>")[2], flags=re.DOTALL)
    assert shown.count("<figure>") == shown.count('<figure><div class="scroll">') > 3
    assert shown.count("<table>") == shown.count('<div class="scroll"><table>')
    assert not re.findall(r"\d%", re.sub(r"<[^>]*>", "", shown))


def test_every_figure_that_was_measured_is_on_the_page(made):
    _, measured, text = made
    figures = Page(text).figures
    for quality in measured.qualities:
        for end in (quality.against_float, quality.against_teacher):
            assert {end.mean, end.p5, end.worst, end.standard_error, end.seeds} <= set(figures)
        assert {value for step in quality.steps for value in (step.forced, step.x0, step.x)} <= set(figures)
        kept = [each for step in quality.steps for each in (step.guidance, step.condition) if each]
        assert {value for each in kept for value in (each.gain, each.ratio, each.share)} <= set(figures)
    assert {timing.median for race in measured.races for timing in race.timings} <= set(figures)
    assert set(measured.sizes.values()) <= set(figures)
    assert f"{measured.qualities[0].against_float.mean:.1f} dB" in text


def test_a_known_error_gives_known_figures(made):
    _, measured, _ = made
    native, simulated = measured.qualities
    assert (native.body, native.computed_by) == ("int8-cpu-x86", "onnxruntime")
    assert (simulated.body, simulated.against_float.seeds) == ("int8-tensorrt", 3)
    assert [step.forced for step in native.steps] == pytest.approx([-20 * np.log10(ERROR)] * 4, abs=0.01)
    assert [step.guidance.gain for step in native.steps] == pytest.approx([1 + ERROR] * 4, abs=1e-4)
    assert [step.condition.ratio for step in native.steps] == pytest.approx([-20 * np.log10(ERROR)] * 4, abs=0.01)
    assert native.against_float.values[:3] == pytest.approx(simulated.against_float.values)
    assert native.against_float.seeds == 6 and measured.float_against_teacher.seeds == 4
    assert (measured.plan, measured.teacher, measured.guidance) == ("dpmpp_2m:4", "dpmpp_2m:12", "2")
    assert [timing.name for timing in measured.races[0].timings] == ["float32", "int8-cpu-x86"]
    assert measured.races[0].batch == 4  # two samples, two branches


@pytest.mark.slow
def test_a_distilled_denoiser_is_compared_with_float32_alone(bundle, tmp_path):
    """No long plan is exact, so none is sampled."""
    before = change_bundle(bundle, distilled=True)
    asked = options(before, teacher=None, output=tmp_path / "page.html")
    measured, task = report(asked), open_report_task(asked)
    assert task.judged is not None
    assert (measured.teacher, measured.teacher_check, measured.float_against_teacher) == (None, None, None)
    assert [step.forced for step in measured.qualities[0].steps] == pytest.approx([-20 * np.log10(ERROR)] * 4, abs=0.01)
    text = (tmp_path / "page.html").read_text()
    assert NO_TEACHER in text and "float32 teacher" not in text
    steps, checks = len(task.plan.steps), 2 * 2  # two seeds and two conditions for the check of float32's samples
    judged = 6 + checks + (6 + 3 * 3) + (3 + 3 * 1)
    assert task.judged.evaluations == judged * steps


def test_memory_for_kept_samples_is_counted(bundle):
    """6 samples of float32 and of the body that runs here, and 3 of the simulated one, with as many references, twice.
    A judge of `measure` keeps them too."""
    task = open_report_task(options(bundle)).judged
    expected = 2 * 2 * (6 + 6 + 3) * np.prod(task.bundle.manifest.x_shape) * 4
    without = replace(task, has_samples=False)
    assert task.needs().memory - without.needs().memory == expected
    assert replace(without, judge=Judge("own", "", len)).needs() == task.needs()


def test_the_page_has_the_evaluation_that_the_bundle_got_meanwhile(made, bundle, monkeypatch, caplog):
    """Here one that cannot be read, which a warning says."""

    def collect(*_):
        change_bundle(bundle, {"report/measured.json": b"{}"}, evaluation="report/measured.json")
        return made[1], None

    monkeypatch.setattr(report_module, "collect_figures", collect)
    report(options(bundle))
    assert f"the evaluation in {bundle} cannot be read" in caplog.text


@pytest.mark.slow
def test_a_body_with_stages_is_judged_as_it_is_deployed(bundle):
    add_earlier(bundle, until=1)
    measured = report(options(bundle))
    (own,) = (quality for quality in measured.qualities if quality.body == "int8-cpu-x86")
    assert [step.forced for step in own.steps] == pytest.approx([CEILING] + [-20 * np.log10(ERROR)] * 3, abs=0.01)
    seeds = range(3)
    with load(bundle, body="int8-cpu-x86") as mapped, load(bundle, body="float32") as exact:
        conditions = {"class": list(seeds)}
        drawn = [each.sample("dpmpp_2m:4", seeds, conditions, 2.0) for each in (mapped, exact)]
    assert own.against_float.values[:3] == pytest.approx(psnr(*drawn), abs=1e-3)
    (covered,) = measured.covered
    assert covered.share == pytest.approx(0.75 * 0.5)  # the first of four steps has nothing in int8, the others half
    assert [timing.name for timing in measured.races[0].timings] == ["float32", "int8-cpu-x86"]
    text = (bundle / "report" / "index.html").read_text()
    assert {covered.share, 0.5} <= set(Page(text).figures) and "over all steps of the plan, int8 has" in text


def test_each_operation_says_why_it_is_float(made):
    _, measured, text = made
    (covered,) = measured.covered
    assert [(op.name, op.kind, op.channels, op.macs) for op in covered.operations] == [
        ("conv_in", "Conv", (1, 4), 2304),
        ("conv_out", "Conv", (4, 1), 2304),
    ]
    assert [op.precision for op in covered.operations] == ["float", "int8"]
    assert "fewer than 16 channels" in covered.operations[0].reason and not covered.operations[1].reason
    assert 0.5 in Page(text).figures and "1 of 2 operations" in text


@pytest.mark.slow
def test_another_plan_and_guidance_go_to_a_file_of_their_own(bundle, tmp_path):
    kept = (bundle / MANIFEST).read_bytes()
    with refuses("dpmpp_2m:4", "--output"):
        report(options(bundle, plan="ddim:3"))
    with pytest.raises(UserError, match="there is no folder"):
        report(options(bundle, output=tmp_path / "no" / "page.html"))
    other = tmp_path / "other.html"
    measured = report(options(bundle, plan="ddim:3", guidance=1.5, output=other))
    assert (measured.plan, measured.guidance, len(measured.qualities[0].steps)) == ("ddim:3", "1.5", 3)
    assert forms.decode(other.with_suffix(".json").read_bytes()) == measured and "ddim:3" in other.read_text()
    assert (bundle / MANIFEST).read_bytes() == kept


def test_the_page_says_how_the_bundle_was_made(made):
    _, measured, text = made
    commands = open_bundle(made[0]).manifest.provenance.commands
    assert measured.made == commands
    assert all(escape(command) in text for command in (*commands, measured.command))


def test_the_headline_speed_is_that_of_the_judged_body_where_it_wins_least(made):
    _, measured, _ = made
    (race,) = measured.races
    float32, int8 = race.timings
    other = msgspec.structs.replace(int8, name="int8-other", ratio=9.0)
    races = tuple(
        msgspec.structs.replace(race, timings=(float32, msgspec.structs.replace(int8, ratio=ratio), other))
        for ratio in (1.5, 1.25, 3.0)
    )
    cards = Page(headline(msgspec.structs.replace(measured, races=races, calls=())).markup).figures
    assert 1.25 in cards and not {1.5, 3.0, 9.0} & set(cards)


def test_what_a_target_must_tell_is_on_the_page(made):
    _, measured, text = made
    assert "cpu-x86: for x86 CPUs with VNNI" in text


@pytest.mark.parametrize(("target", "loss"), [("cpu-x86", "which is slower"), ("openvino", "which saturates")])
def test_what_a_target_loses_on_this_cpu_is_a_note(
    made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str, loss: str
) -> None:
    body = msgspec.structs.replace(open_bundle(made[0]).body("int8-cpu-x86"), target=target)
    describe_cpu(monkeypatch, tmp_path, ("avx2",))
    assert [note for note in machine_notes([body]) if note.startswith(f"{target}: without VNNI") and loss in note]
    describe_cpu(monkeypatch, tmp_path, ("avx2", "avx_vnni"))
    assert not [note for note in machine_notes([body]) if "without VNNI" in note]


def test_a_body_far_from_float_or_slower_than_it_is_named(made):
    results, replace = made[1], msgspec.structs.replace
    quality, race = results.qualities[0], results.races[0]
    ratios = {name: replace(race, timings=tuple(replace(t, ratio=r) for t in race.timings)) for name, r in RATIOS}
    good = replace(quality, against_float=replace(quality.against_float, mean=45.0, snr=35.0))
    far = replace(quality, against_float=replace(quality.against_float, mean=-3.9, snr=None, unrelated=None))
    assert list(list_warnings(replace(results, qualities=(good,), races=(ratios["fast"],)))) == []
    first, *slower = list_warnings(replace(results, qualities=(far,), races=(ratios["slow"],)))
    assert first == f"{far.body} is only -3.9 dB from float32: look at the samples before deploying it."
    name = race.timings[0].name
    assert slower[0] == f"A step of {name} is slower than that of float32 here (0.80x at batch {race.batch})."


def test_a_body_that_loses_what_guidance_multiplies_is_named(made):
    results, replace = made[1], msgspec.structs.replace
    quality = results.qualities[0]
    steps = [replace(step, guidance=replace(step.guidance, gain=0.4)) for step in quality.steps[2:]]
    lost = replace(quality, steps=(*quality.steps[:2], *steps))
    (said,) = (warning for warning in list_warnings(replace(results, qualities=(lost,))) if "direction" in warning)
    assert said.startswith(
        f"{quality.body} loses the direction of guidance: 0.40 times as large as float32's, 34.0 dB above"
    )


def test_names_are_escaped(made):
    _, _, text = made
    assert "tiny &lt;denoiser&gt;" in text and "<denoiser>" not in text


def test_the_command_is_printed_back_without_a_path(made):
    bundle, measured, text = made
    assert measured.command.startswith("fewstep report BUNDLE --forced-seeds 3 --simulated-seeds 3 --teacher dpmpp")
    assert measured.command in text and str(bundle.parent) not in text


def test_the_results_are_json_next_to_the_page_and_both_belong_to_the_bundle(made):
    bundle, measured, text = made
    opened = open_bundle(bundle)
    assert opened.read(opened.manifest.report).decode() == text
    assert forms.decode(opened.read(opened.manifest.results)) == measured
    assert "NaN" not in json.dumps(json.loads(opened.read(opened.manifest.results)))


@pytest.mark.slow
def test_a_second_report_replaces_the_first(bundle):
    report(options(bundle))
    report(options(bundle, seeds=4))
    names = sorted(path.suffix for path in (bundle / "report").iterdir())
    assert names == [".html", ".html", ".json"] and "--seeds 4" in (bundle / "report" / "index.html").read_text()


def test_the_address_is_a_file_that_goes_wherever_the_bundle_goes(tmp_path):
    page, address = tmp_path / "report" / "index-0123456789ab.html", tmp_path / ADDRESS
    page.parent.mkdir()
    page.write_bytes(b"page")
    address.symlink_to(page.name)  # of a version before
    for _ in range(2):  # the same page again
        link_report_page(tmp_path, page.relative_to(tmp_path).as_posix())
        assert address.read_bytes() == b"page" and not address.is_symlink()
        assert sorted(path.name for path in page.parent.iterdir()) == [page.name, "index.html"]


def test_verify_knows_the_address(made):
    assert verify(VerifyOptions(made[0], graphs=False)).unnamed == ()


def test_a_bundle_without_int8_says_so(bundle):
    with refuses("no int8 body", "fewstep calibrate"):
        report(options(with_bodies(bundle, "float32")))


@pytest.mark.parametrize("body", ["int8-cpu-x86", "int8-tensorrt"])
def test_a_damaged_body_is_reported_before_anything_is_measured(bundle, body):
    graph = bundle / open_bundle(bundle).manifest.bodies[body].graph.file
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=graph.name):
        open_report_task(options(bundle))


def test_a_damaged_graph_in_the_place_of_a_shared_one_is_reported_before_too(bundle):
    shared = open_bundle(bundle).manifest.prologue
    own = ReplacedGraph("graphs/own.onnx", shared.inputs, shared.outputs)
    change_bundle(bundle, {own.file: (bundle / shared.file).read_bytes()})
    with_body(bundle, "int8-cpu-x86", replaces={PROLOGUE: own})
    (bundle / own.file).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"own\.onnx is damaged"):
        open_report_task(options(bundle))


@pytest.mark.parametrize(
    ("open_verb", "suffix"),
    [
        (lambda path: open_report_task(options(path)), "html"),
        (lambda path: open_measure_task(MeasureOptions(path)), "json"),
    ],
)
def test_what_a_bundle_has_no_room_for_is_reported_before_it_is_judged(bundle, monkeypatch, open_verb, suffix):
    def read_only(_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as full:
        full.setattr(commit.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with refuses("1 kB", f"--output FILE.{suffix}"):
            open_verb(bundle)
    monkeypatch.setattr(commit, "_lock", read_only)
    with refuses("Read-only file system", f"--output FILE.{suffix}"):
        open_verb(bundle)


@pytest.mark.slow
def test_a_kill_before_the_address_leaves_a_valid_bundle(bundle, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module, "link_report_page", kill)
    with pytest.raises(KeyboardInterrupt):
        report(options(bundle))
    opened = open_bundle(bundle)
    assert opened.manifest.report and all(opened.file(name) for name in list_files(opened.manifest))


def test_options_that_make_no_sense_are_refused(bundle):
    for name in ("forced_seeds", "simulated_seeds"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is 0"):
            options(bundle, **{name: 0})


def test_samples_that_are_no_pictures_leave_the_pictures_out(made):
    _, measured, _ = made
    chunk = np.zeros((6, 16, 2), np.float32)
    samples = Samples(chunk, chunk, {"int8-cpu-x86": (chunk, chunk)}, ["a"] * 6)
    text = build_page(measured, samples).decode()
    assert "Not shown: an image has 1 or 3 channels" in text and "<img" not in text
