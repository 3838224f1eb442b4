"""Times of a choice that were not measured now: those of another day, of another machine, and of an engine without a
body."""

from pathlib import Path

import msgspec
import pytest

from fewstep.report.choosing import deployments, time_notes
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.time_notes import describe_missing_body
from fewstep.runtime.bundle.manifest import CallTime
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.report.choosing.test_choose import options


def test_times_of_another_day_and_of_another_machine_are_named(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = CallTime("int8-a", ("a.onnx",), "ddim:8", 9.0, 3.0, 2.8, 3.2, 0.0, "An Arm", 1, day="2026-03-01")
    body = msgspec.structs.replace(open_bundle(tiny_bundle).manifest.bodies["int8-cpu-x86"], target="tensorrt")
    elsewhere = msgspec.structs.replace(elsewhere, graphs=tuple(graph.file for graph in body.graphs))
    change_bundle(tiny_bundle, bodies={**open_bundle(tiny_bundle).manifest.bodies, "int8-a": body}, calls=(elsewhere,))
    monkeypatch.setattr(deployments, "today", lambda: "2026-02-03")
    notes = choose(options(tiny_bundle)).notes
    starts = (
        "float32, int8-cpu-x86: timed on 2026-02-03 on ",
        "not timed here: int8-a is faster on An Arm, 2026-03-01 (3.00x",
    )
    for start in starts:
        assert [note for note in notes if note.startswith(start)], notes
    assert {row.day for row in choose(options(tiny_bundle)).deployments} == {"2026-02-03"}  # they are cached


@pytest.mark.parametrize(("spec", "says"), [(None, None), (object(), "--target openvino")])
def test_an_installed_engine_without_an_int8_body_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, spec: object | None, says: str | None
) -> None:
    monkeypatch.setattr(time_notes, "find_spec", lambda name: spec if name == "openvino" else None)
    note = describe_missing_body(open_bundle(tiny_bundle))
    assert note is None if says is None else says in str(note)


def test_an_engine_with_an_int8_body_is_not_named(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = open_bundle(tiny_bundle).manifest.bodies
    own = msgspec.structs.replace(bodies["int8-cpu-x86"], target="openvino")
    change_bundle(tiny_bundle, bodies={**bodies, "int8-openvino": own})
    monkeypatch.setattr(time_notes, "find_spec", lambda name: object())
    assert describe_missing_body(open_bundle(tiny_bundle)) is None
