"""The pipeline classes over which coverage is counted, and the line that sums it up."""

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from benchmarks.pipelines import __main__ as coverage
from benchmarks.pipelines.__main__ import EXPORTED, REFUSED, Outcome, summarize, try_pipeline
from benchmarks.pipelines.denominator import CLASSES, LEFT_OUT, find_classes, read_classes

pytest.importorskip("diffusers")


def test_no_class_is_counted_that_the_rule_leaves_out() -> None:
    assert not [name for name in read_classes() if LEFT_OUT.search(name)]


@pytest.mark.slow
@pytest.mark.skipif(
    f"# diffusers {version('diffusers')}" not in CLASSES.read_text(encoding="utf-8"), reason="another diffusers"
)
def test_the_committed_classes_are_those_of_the_rule() -> None:
    assert read_classes() == find_classes()


def test_the_sum_counts_classes_without_components() -> None:
    outcomes = [Outcome("A", EXPORTED, 2e-6), Outcome("B", REFUSED, reason="x changes"), Outcome("C", EXPORTED)]
    line = summarize(outcomes, 5)
    assert line == (
        "5 classes: 2 exported, 0 loaded, 1 refused, 0 components not made, 2 no components; "
        "largest difference of x 2e-06, over 1"
    )


class Pipeline:
    name = "A"

    def write(self, folder: Path) -> dict[str, Any]:
        return {}


def test_an_export_that_catches_exceptions_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        while True:
            with suppress(Exception):
                sleep(5)

    monkeypatch.setattr(coverage, "_export", run)
    outcome = try_pipeline(Pipeline(), tmp_path, 1, True)  # type: ignore[arg-type]
    assert (outcome.result, outcome.reason) == (REFUSED, "more than 1 s")
