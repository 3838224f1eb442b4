"""The report of a bundle whose body has stages: how it is timed, and its precision map on the page."""

from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from test_calibrate import write_bundle
from test_refine import deep, run

from fewstep.calibration.precision.record import PrecisionMap, Reached, encode
from fewstep.calibration.report import ReportOptions, report
from fewstep.calibration.report.precision import precision_section, stored_maps
from fewstep.graph.commit import open_for_update
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.manifest import Stage

POINTS = (Reached(30.0, 1.0, ((), ())), Reached(34.0, 1.25, ((1,), ())), Reached(36.0, 1.5, ((0, 1), (1,))))
MAP = PrecisionMap(
    body="int8-cpu-x86",
    plan="ddim:2",
    asked="33dB",
    operations=("first", "second <conv>"),
    gains=((0.5, -0.1), (2.0, 1.0)),
    costs=(0.3, 0.25),
    all_int8=30.0,
    float_time=2.5,
    frontier=POINTS,
    deployed=POINTS[1],
)


def test_the_section_shows_what_is_deployed_and_what_else_there_is():
    text = precision_section([MAP]).markup
    assert "asked for 33dB" in text and 'value="34.0"' in text and 'value="2.0"' in text  # 2.5 / 1.25 times float32
    assert "1, 0 of 2 operations" in text and "second &lt;conv&gt;" in text
    for start in range(text.count("<svg")):
        ElementTree.fromstring("<svg" + text.split("<svg")[start + 1].partition("</svg>")[0] + "</svg>")


def test_float32_itself_is_not_drawn_beside_the_others_but_said():
    """Its 200 dB would leave all the others at the bottom of the axis."""
    with_float = replace(MAP, frontier=(*POINTS, Reached(200.0, 2.5, ((0, 1), (0, 1)))))
    text = precision_section([with_float]).markup
    assert "frontier: 36 at" in text and "frontier: 200 at" not in text and 'value="200.0"' in text
    assert "Float32 itself, which is equal, is not drawn." in text
    assert "is not drawn" not in precision_section([MAP]).markup
    assert "at most 2. Framed" in text  # the largest gain


def test_cells_are_as_dark_as_the_gain_and_framed_where_float():
    text = precision_section([MAP]).markup
    assert text.count(' class="f0 axis"') == 1  # "second" in the first group
    assert 'fill-opacity="1.000"' in text and 'fill-opacity="0.500"' in text and 'fill-opacity="0.000"' in text


def test_a_body_with_stages_is_reported_with_its_map(tmp_path):
    bundle = write_bundle(tmp_path / "deep", deep())
    run(bundle)
    assert stored_maps(open_bundle(bundle)) == ()
    with open_for_update(bundle, must_exist=True) as writer:  # the first steps run a graph of their own, here the same
        body = writer.manifest.bodies["int8-cpu-x86"]
        staged = replace(body, stages=(Stage(1, body.graph, body.coverage),))
        kept = writer.add(encode((MAP,)), "precision", "map", ".json")
        bodies = {**writer.manifest.bodies, "int8-cpu-x86": staged}
        writer.commit(replace(writer.manifest, bodies=bodies, precision=kept))
    few = {"seeds": 2, "forced_seeds": 1, "teacher_seeds": 1, "simulated_seeds": 1, "batches": (1,), "rounds": 1}
    results = report(ReportOptions(bundle, teacher="ddim:6", turn_seconds=0.01, **few))
    assert [timing.name for timing in results.races[0].timings] == ["float32", "int8-cpu-x86"]
    assert results.races[0].timings[0].ratio == pytest.approx(1)
    assert 'id="precision-map"' in (bundle / "report" / "index.html").read_text()
