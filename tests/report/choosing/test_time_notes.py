"""Times of a choice that were not measured now: those of another day, and those of another machine."""

from pathlib import Path

import msgspec
import pytest

from fewstep.report.choosing import deployments
from fewstep.report.choosing.choose import choose
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
