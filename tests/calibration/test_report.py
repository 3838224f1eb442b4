"""The report of a tiny bundle: self-contained, its figures those of the results, its bundle valid at every moment."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from fewstep.calibration import results as forms
from fewstep.calibration.machine import this_machine
from fewstep.calibration.report import ReportOptions, report, write
from fewstep.calibration.report.measure import notes, ranges_over_groups
from fewstep.calibration.report.page import headline, page
from fewstep.calibration.report.samples import Samples
from fewstep.calibration.report.verdict import warnings
from fewstep.calibration.table import Range, Ranges, RangesTable
from fewstep.graph.commit import open_for_update
from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.io import store
from fewstep.runtime.bundle import named_files, open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import SCHEMA, Body, Condition, Coverage, Manifest, Provenance, ScheduleSpec, Tensor
from fewstep.runtime.manifest import Graph as GraphEntry
from fewstep.runtime.plan import Denoising, compile_plan, encode

SHAPE = (1, 8, 8)
RATIOS = (("fast", 1.5), ("slow", 0.8))  # of timings
ERROR = 0.02  # of the int8 body: its output is this much too large
COVERAGE = Coverage(2304, 4608, ("output",), ("h",))
F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def prologue():
    """row [batch, 4, 1, 1] of time and class."""
    embedding = np.random.default_rng(0).normal(size=(11, 4, 1, 1)).astype(np.float32)
    constants = {"embedding": embedding, "scale": np.float32(1e-3), "axes": np.array([1, 2, 3])}
    nodes = (
        Node("Gather", ("embedding", "class"), ("label",)),
        Node("Unsqueeze", ("time", "axes"), ("t4",)),
        Node("Mul", ("t4", "scale"), ("t",)),
        Node("Mul", ("label", "t"), ("row",)),
    )
    inputs = (Value("time", F32, ("batch",)), Value("class", I64, ("batch",)))
    return Graph("prologue", inputs, (Value("row", F32, ("batch", 4, 1, 1)),), nodes, constants)


def body(error=0.0):
    """Two convolutions, of which the second is off by a relative `error`."""
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=size).astype(np.float32) * 0.2 for size in ((4, 1, 3, 3), (1, 4, 3, 3)))
    nodes = (
        Node("Conv", ("x", "first"), ("h",), {"pads": [1, 1, 1, 1]}, "conv_in"),
        Node("Add", ("h", "row"), ("modulated",)),
        Node("Tanh", ("modulated",), ("active",)),
        Node("Conv", ("active", "second"), ("output",), {"pads": [1, 1, 1, 1]}, "conv_out"),
    )
    inputs = (Value("x", F32, ("batch", *SHAPE)), Value("row", F32, ("batch", 4, 1, 1)))
    constants = {"first": first, "second": second * np.float32(1 + error)}
    return Graph("body", inputs, (Value("output", F32, ("batch", *SHAPE)),), nodes, constants)


def wide_body():
    """Three convolutions of 16 channels, of which the middle one reads "active"."""
    names = ["x", "active", "made", "output"]
    nodes = tuple(Node("Conv", (a, "w"), (b,), {}, b) for a, b in zip(names[:-1], names[1:], strict=True))
    value = Value("x", F32, ("batch", 16, 4, 4))
    return Graph("wide", (value,), (Value("output", F32, value.shape),), nodes, {"w": np.ones((16, 16, 1, 1), "f4")})


def entry(file, graph, roles):
    def tensor(value):
        return Tensor(value.name, roles.get(value.name, "row"), value.shape, str(value.dtype))

    return GraphEntry(file, tuple(map(tensor, graph.inputs)), tuple(map(tensor, graph.outputs)))


def make_bundle(path):
    roles = {"x": "x", "output": "output", "time": "time", "class": "condition"}
    with open_for_update(path, must_exist=False) as writer:
        graphs = {"prologue": prologue(), "body": body(), "int8": body(ERROR)}
        made = {name: (store(writer, graph, name)[0], graph) for name, graph in graphs.items()}
        float32, int8 = (entry(*made[name], roles) for name in ("body", "int8"))
        plan = compile_plan("dpmpp_2m:4", Denoising(ScheduleSpec("cosine"), "v"), guidance=2.0)
        writer.commit(
            Manifest(
                schema=SCHEMA,
                name="tiny <denoiser>",
                x_shape=SHAPE,
                conditions=(Condition("class", "class", null=10, low=0, high=9, labels=tuple("ABCDEFGHIJ")),),
                prediction="v",
                schedule=ScheduleSpec("cosine"),
                prologue=entry(*made["prologue"], roles),
                bodies={
                    "float32": Body(float32, "float32", "portable"),
                    "int8-tensorrt": Body(int8, "int8", "tensorrt", plan="dpmpp_2m:4"),
                    "int8-cpu-x86": Body(int8, "int8", "cpu-x86", plan="dpmpp_2m:4", coverage=COVERAGE),
                },
                provenance=Provenance("tiny", "0" * 64, {}, ()),
                files={},
                plans={"dpmpp_2m:4": writer.add(encode(plan), "plans", "plan", ".json")},
            )
        )
    return path


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
    """A bundle, its results and its page: made once, for tests that only look."""
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


def test_every_figure_that_was_measured_is_on_the_page(made):
    _, measured, text = made
    figures = Page(text).figures
    for quality in measured.qualities:
        for end in (quality.against_float, quality.against_teacher):
            assert {end.mean, end.p5, end.worst, end.standard_error, end.seeds} <= set(figures)
        assert {value for step in quality.steps for value in (step.forced, step.x0, step.x)} <= set(figures)
    assert {timing.median for race in measured.races for timing in race.timings} <= set(figures)
    assert set(measured.sizes.values()) <= set(figures)
    assert f"{measured.qualities[0].against_float.mean:.1f} dB" in text


def test_a_known_error_gives_known_figures(made):
    _, measured, _ = made
    native, simulated = measured.qualities
    assert (native.body, native.engine) == ("int8-cpu-x86", "onnxruntime")
    assert (simulated.body, simulated.against_float.seeds) == ("int8-tensorrt", 3)
    assert [step.forced for step in native.steps] == pytest.approx([-20 * np.log10(ERROR)] * 4, abs=0.01)
    assert native.against_float.values[:3] == pytest.approx(simulated.against_float.values)
    assert native.against_float.seeds == 6 and measured.float_against_teacher.seeds == 4
    assert (measured.plan, measured.teacher, measured.guidance) == ("dpmpp_2m:4", "dpmpp_2m:12", 2.0)
    assert [timing.name for timing in measured.races[0].timings] == ["float32", "int8-cpu-x86"]
    assert measured.races[0].batch == 4  # two samples, two branches


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


def test_another_plan_and_guidance_can_be_asked_for(bundle):
    measured = report(options(bundle, plan="ddim:3", guidance=1.5))
    assert (measured.plan, measured.guidance, len(measured.qualities[0].steps)) == ("ddim:3", 1.5, 3)


def test_the_headline_speed_is_that_of_the_judged_body_where_it_wins_least(made):
    _, measured, _ = made
    (race,) = measured.races
    float32, int8 = race.timings
    other = msgspec.structs.replace(int8, name="int8-other", ratio=9.0)
    races = tuple(
        msgspec.structs.replace(race, timings=(float32, msgspec.structs.replace(int8, ratio=ratio), other))
        for ratio in (1.5, 1.25, 3.0)
    )
    cards = Page(headline(msgspec.structs.replace(measured, races=races)).markup).figures
    assert 1.25 in cards and not {1.5, 3.0, 9.0} & set(cards)


def test_what_a_target_must_tell_is_on_the_page(made):
    _, measured, text = made
    assert "cpu-x86: exact on CPUs with VNNI only" in text and "scales are pooled" in text
    without = msgspec.structs.replace(this_machine(), int8_instructions=("avx2",))
    body = open_bundle(made[0]).body("int8-cpu-x86")
    assert "no VNNI was seen" in list(notes([body], without))[-1]
    vnni = msgspec.structs.replace(without, int8_instructions=("avx_vnni",))
    assert not [note for note in notes([body], vnni) if "no VNNI was seen" in note]


def test_ranges_of_another_plan_are_not_shown_beside_a_body(bundle):
    ranges = Ranges(Range(-1.0, 2.0), (Range(-0.3, 0.1), Range(-1.0, 2.0)), 2.0, (0.3, 1.9))
    with open_for_update(bundle, must_exist=True) as writer:
        stored = writer.add(
            RangesTable("0" * 64, "ddim:2", (0.1,), "mse", {"active": ranges}).encode(), "ranges", "r", ".safetensors"
        )
        writer.commit(msgspec.structs.replace(writer.manifest, ranges=stored))
    opened, prepared = open_bundle(bundle), wide_body()
    of_plan = msgspec.structs.replace(opened.body("int8-cpu-x86"), plan="ddim:2")
    assert [each.widths for each in ranges_over_groups(opened, prepared, of_plan)] == [(0.4 / 3, 1.0)]
    assert ranges_over_groups(opened, prepared, opened.body("int8-cpu-x86")) == ()


def test_a_body_far_from_float_or_slower_than_it_is_named(made):
    results, replace = made[1], msgspec.structs.replace
    quality, race = results.qualities[0], results.races[0]
    ratios = {name: replace(race, timings=tuple(replace(t, ratio=r) for t in race.timings)) for name, r in RATIOS}
    good = replace(quality, against_float=replace(quality.against_float, mean=45.0))
    far = replace(quality, against_float=replace(quality.against_float, mean=-3.9))
    assert list(warnings(replace(results, qualities=(good,), races=(ratios["fast"],)))) == []
    first, *slower = warnings(replace(results, qualities=(far,), races=(ratios["slow"],)))
    assert first == f"{far.body} is only -3.9 dB from float32: look at the samples before deploying it."
    assert slower[0] == f"{race.timings[0].name} is slower than float32 here (0.80x, {race.batch} rows)."


def test_names_are_escaped(made):
    _, _, text = made
    assert "tiny &lt;denoiser&gt;" in text and "<denoiser>" not in text


def test_the_command_is_printed_back_without_a_path(made):
    bundle, measured, text = made
    assert measured.command.startswith("fewstep report BUNDLE --seeds 6 --forced-seeds 3 --teacher dpmpp_2m:12")
    assert measured.command in text and str(bundle.parent) not in text


def test_the_results_are_json_beside_the_page_and_both_belong_to_the_bundle(made):
    bundle, measured, text = made
    opened = open_bundle(bundle)
    assert opened.read(opened.manifest.report).decode() == text
    assert forms.decode(opened.read(opened.manifest.results)) == measured
    assert "NaN" not in json.dumps(json.loads(opened.read(opened.manifest.results)))


def test_a_second_report_replaces_the_first(bundle):
    report(options(bundle))
    report(options(bundle, seeds=4))
    files = [path for path in (bundle / "report").iterdir() if not path.is_symlink()]
    assert len(files) == 2 and "--seeds 4" in (bundle / "report" / "index.html").read_text()


def test_a_bundle_without_int8_says_so(bundle):
    with open_for_update(bundle, must_exist=True) as writer:
        floats = {"float32": writer.manifest.bodies["float32"]}
        writer.commit(msgspec.structs.replace(writer.manifest, bodies=floats))
    with pytest.raises(UserError, match="no int8 body to judge; fewstep calibrate"):
        report(options(bundle))


def test_a_bundle_that_changes_meanwhile_gets_no_report(bundle, monkeypatch):
    def measure_and_change(asked, progress):
        with open_for_update(bundle, must_exist=True) as writer:
            bodies = {n: b for n, b in writer.manifest.bodies.items() if n != "int8-tensorrt"}
            writer.commit(msgspec.structs.replace(writer.manifest, bodies=bodies))
        return None, None

    monkeypatch.setattr(write, "measure", measure_and_change)
    with pytest.raises(UserError, match="was changed while it was judged"):
        report(options(bundle))
    assert open_bundle(bundle).manifest.report is None


def test_a_kill_before_the_address_leaves_a_valid_bundle(bundle, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_address", killed)
    with pytest.raises(KeyboardInterrupt):
        report(options(bundle))
    opened = open_bundle(bundle)
    assert opened.manifest.report and all(opened.file(name) for name in named_files(opened.manifest))


def test_options_that_make_no_sense_are_refused(bundle):
    for changes in ({"seeds": 0}, {"seeds": 257}, {"batches": ()}, {"threads": -1}, {"rounds": 0}):
        with pytest.raises(UserError, match="give at least 1|give at most|above 0"):
            options(bundle, **changes)


def test_samples_that_are_no_pictures_leave_the_pictures_out(made):
    _, measured, _ = made
    chunk = np.zeros((6, 16, 2), np.float32)
    samples = Samples(chunk, chunk, {"int8-cpu-x86": chunk}, ["a"] * 6, "t", "p")
    text = page(measured, samples).decode()
    assert "Not shown: a picture has 1 or 3 channels" in text and "<img" not in text
