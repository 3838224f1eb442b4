"""The report of a bundle whose body has several graphs: its times, and its precision map."""

from dataclasses import replace as dataclass_replace
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from fewstep.calibration.precision.precision_map import FrontierPoint, PrecisionMap, encode_maps
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.report.sections.precision import ShownMap, precision_section, read_maps, read_shown_maps
from fewstep.report.verdict import list_warnings
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.calibration.precision.deep_body import deep, run
from tests.calibration.test_calibrate import write_bundle
from tests.conftest import with_earlier
from tests.exact_int8 import EXACT_BODY

pytestmark = pytest.mark.slow

FEW = {"seeds": 2, "forced_seeds": 1, "teacher_seeds": 1, "simulated_seeds": 1, "batches": (1,), "rounds": 1}
FEW |= {"teacher": "ddim:6", "turn_seconds": 0.01}
POINTS = (
    FrontierPoint(30.0, 1.0, ((), ()), time_is_measured=True),
    FrontierPoint(34.0, 1.25, ((1,), ()), time_is_measured=True),
    FrontierPoint(36.0, 1.5, ((0, 1), (1,))),
)
MAP = PrecisionMap(
    body=EXACT_BODY,
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


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "deep", deep())


def keep_maps(bundle, content):
    change_bundle(bundle, {"precision/map-0.json": content}, precision="precision/map-0.json")


def drawn(found: PrecisionMap) -> str:
    return precision_section([ShownMap(found, tuple(f"module.{name}" for name in found.operations))]).markup


def rows_of(text: str) -> list[str]:
    return text.partition("<tbody>")[2].partition("</tbody>")[0].split("</tr>")[:-1]


def test_the_section_shows_what_is_deployed_and_what_else_there_is():
    text = drawn(MAP)
    assert "</b> along ddim:2, requested 33dB" in text
    assert 'value="34.0"' in text and 'value="2.0"' in text  # 2.5 / 1.25 times float32
    assert "1, 0 of 2 operations" in text and "module.second &lt;conv&gt;" in text
    for start in range(text.count("<svg")):
        ElementTree.fromstring("<svg" + text.split("<svg")[start + 1].partition("</svg>")[0] + "</svg>")


def test_estimated_times_are_distinguished_from_measured_ones():
    text = drawn(MAP)
    assert "the speed of float32 (measured)" in text
    assert text.count('<td class="n">measured</td>') == 2 and text.count('<td class="n">estimated</td>') == 1
    earlier = replace(MAP, deployed=replace(POINTS[1], time_is_measured=False))
    assert "the speed of float32 (estimated)" in drawn(earlier)


def test_what_is_deployed_is_a_row_of_the_frontier_and_marked():
    marked = [row for row in rows_of(drawn(MAP)) if "deployed" in row]
    assert len(rows_of(drawn(MAP))) == 3 and len(marked) == 1 and "1, 0 of 2 operations" in marked[0]
    beaten = replace(MAP, deployed=FrontierPoint(33.5, 1.3, ((0,), (1,)), time_is_measured=True))
    rows = rows_of(drawn(beaten))
    assert [("deployed" in row) for row in rows] == [False, False, True, False]
    assert 'value="33.5"' in rows[2] and "1, 1 of 2 operations" in rows[2]


def test_quality_on_other_seeds_is_distinguished_from_that_of_the_search():
    judged = replace(POINTS[1], quality=32.6, standard_error=0.24, searched=34.0)
    found = replace(MAP, frontier=(POINTS[0], judged, POINTS[2]), deployed=judged, all_int8=29.5, all_int8_error=0.31)
    text = drawn(found)
    assert 'value="32.6">32.6 dB</data> \N{PLUS-MINUS SIGN} 0.2 on other seeds' in text
    assert 'value="29.5">29.5 dB</data> \N{PLUS-MINUS SIGN} 0.3' in text
    assert [("other seeds" in row, "seeds of the search" in row) for row in rows_of(text)] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert "frontier, on the seeds of the search: 34 at 2" in text and "deployed, on other seeds: 32.6 at 2" in text
    assert "on seeds of the search at" in drawn(MAP)  # of an earlier version: nothing was judged


def test_only_the_operations_that_add_most_are_drawn_and_counted():
    names = tuple(f"op{i}" for i in range(30))
    many = replace(MAP, operations=names, gains=tuple((float(i), 0.0) for i in range(30)), costs=(0.1,) * 30)
    text = drawn(many)
    assert "Operations shown: the 24 with the largest gain, of 30." in text
    assert ">module.op29<" in text and ">module.op6<" in text and "op5<" not in text
    assert "Operations shown: all." in drawn(MAP)


def test_an_operation_has_its_largest_gain_and_says_where_it_is_deployed():
    """Maps of earlier versions have a gain for each range group."""
    rows = drawn(MAP).rpartition("<tbody>")[2].split("</tr>")[:-1]
    assert "second" in rows[0] and ">float<" in rows[0] and '"2.0">2 dB<' in rows[0]
    assert "first" in rows[1] and ">int8<" in rows[1] and '"0.5">0.5 dB<' in rows[1]


def test_operations_have_the_names_of_the_other_sections(tmp_path):
    named = deep()
    nodes = tuple(dataclass_replace(n, name=f"layer.{n.output}/Conv") if n.op == "Conv" else n for n in named.nodes)
    bundle = write_bundle(tmp_path / "deep", dataclass_replace(named, nodes=nodes))
    run(bundle, quality="20dB")
    opened = open_bundle(bundle)
    (shown,) = read_shown_maps(opened)
    assert shown.precision_map.operations == ("h1", "h2", "h3", "h4")
    assert shown.operations == tuple(f"layer.h{i}/Conv" for i in range(1, 5))


def test_a_body_all_in_float_is_named_and_not_called_slow(bundle):
    run(bundle, speed="1.0x")
    results = report(ReportOptions(bundle, **FEW))
    race = results.races[0]
    slow = replace(race, timings=tuple(replace(timing, ratio=0.996) for timing in race.timings))
    said = [line for line in list_warnings(replace(results, races=(slow, slow))) if line.startswith(EXACT_BODY)]
    assert said == [f"{EXACT_BODY} runs in float32 at every step of ddim:3: no operation is int8, so it is not faster."]
    assert said[0] in " ".join(list_warnings(results))


def test_float32_itself_is_not_drawn_next_to_the_others_but_said():
    """Its 200 dB would push all the others to the bottom of the axis."""
    with_float = replace(MAP, frontier=(*POINTS, FrontierPoint(200.0, 2.5, ((0, 1), (0, 1)))))
    text = drawn(with_float)
    assert ": 36 at" in text and ": 200 at" not in text and 'value="200.0"' in text
    assert ": 200 at" not in drawn(replace(with_float, deployed=with_float.frontier[-1]))
    assert "Float32 itself, which has no error, is not drawn." in text
    assert "is not drawn" not in drawn(MAP)


def test_a_body_of_several_graphs_is_reported_with_its_map(bundle):
    run(bundle)
    assert read_maps(open_bundle(bundle)) == ()
    bodies = open_bundle(bundle).manifest.bodies
    body = bodies[EXACT_BODY]
    mapped = with_earlier(body, body.graph, body.graph.coverage)  # the first steps run a graph of their own, the same
    change_bundle(bundle, bodies={**bodies, EXACT_BODY: mapped})
    keep_maps(bundle, encode_maps((replace(MAP, plan="ddim:3"),)))
    results = report(ReportOptions(bundle, **FEW))
    assert [timing.name for timing in results.races[0].timings] == ["float32", EXACT_BODY]
    assert results.races[0].timings[0].ratio == pytest.approx(1)
    assert 'id="precision-map"' in (bundle / "report" / "index.html").read_text()


def test_each_map_is_shown_with_the_plan_of_its_own_body(bundle, tmp_path):
    """Of two bodies that were calibrated along different plans."""
    run(bundle)
    run(bundle, plan="ddim:2", target=("tensorrt",))
    keep_maps(bundle, encode_maps((replace(MAP, plan="ddim:3"), replace(MAP, body="int8-tensorrt"))))
    report(ReportOptions(bundle, page := tmp_path / "page.html", plan="ddim:2", **FEW))
    for body, plan in ((EXACT_BODY, "ddim:3"), ("int8-tensorrt", "ddim:2")):
        assert f"<b>{body}</b> along {plan}" in page.read_text()


@pytest.mark.parametrize(
    ("content", "said"), [(b"{", "is not a precision map"), (b'{"schema":99,"maps":[]}', "has schema 99")]
)
def test_maps_that_cannot_be_read_are_left_out_and_said(bundle, content, said):
    run(bundle)
    keep_maps(bundle, content)
    notes = report(ReportOptions(bundle, **FEW)).notes
    (note,) = (each for each in notes if "Not shown" in each)
    assert note.startswith("Not shown: the bundle's precision maps, because precision/map-") and said in note
    text = (bundle / "report" / "index.html").read_text()
    assert said in text and 'id="precision-map"' not in text
