"""A report with a user's judge: its score, the verdict by it, and the page."""

import re
import shutil
from html import unescape
from pathlib import Path

import msgspec
import pytest

from fewstep.cli.describe.results_table import format_results, results_table, suggest_after_measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Results, decode, encode
from fewstep.report.report import report
from fewstep.report.verdict import list_warnings
from tests.bundles import change_bundle
from tests.report.judged_bundle import make_bundle
from tests.report.test_report import options

JUDGE = """
import numpy as np


def near(samples, reference, conditions):
    assert len(samples) == len(reference) == len(conditions["class"])
    error = np.abs(samples - reference).max(axis=(1, 2, 3))
    return -error, -1e-6 if len(samples) == 6 else -9
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("judge") / "own.py"
    file.write_text(JUDGE)
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, judge: Path) -> tuple[Path, Results, str]:
    """A bundle, its results and its page. The body that runs here is judged on 6 seeds, and the simulated one on 3."""
    path = make_bundle(tmp_path_factory.mktemp("report") / "tiny")
    results = report(options(path, judge=f"{judge}:near"))
    return path, results, (path / "report" / "index.html").read_text()


def test_each_body_is_scored_on_its_own_seeds(made: tuple[Path, Results, str]) -> None:
    _, results, _ = made
    judged = {quality.body: quality.judged for quality in results.qualities}
    ours, simulated = judged["int8-cpu-x86"], judged["int8-tensorrt"]
    assert ours is not None and simulated is not None
    assert (ours.seeds, simulated.seeds) == (6, 3) and ours.score.name == "own.py:near"
    assert ours.score.value < -1e-3 and ours.problem is not None and simulated.problem is None
    assert ours.float32.value == 0.0 and ours.score_range is not None
    assert decode(encode(results)) == results


def test_the_verdict_and_the_warnings_are_those_of_the_judge(made: tuple[Path, Results, str]) -> None:
    path, results, _ = made
    first = results.qualities[0]
    assert first.judged is not None
    verdict = str(next(format_results(results, path)))
    assert verdict.startswith(f"Not usable: {first.body} scores -0.") and "dB PSNR (" in verdict
    assert f"{first.body} {first.judged.problem}." in [*list_warnings(results)]
    assert str(results_table(results).columns[1].header) == "score"


def test_the_page_has_the_score_and_its_limit(made: tuple[Path, Results, str]) -> None:
    _, _, page = made
    section = page.partition('<section id="judge">')[2].partition("</section>")[0]
    text = unescape(re.sub(r"<[^>]*>", " ", section))
    assert "own.py:near" in text and "-1e-06" in text and "int8-tensorrt" in text
    assert "Score by own.py:near" in unescape(re.sub(r"<[^>]*>", "", page))


def test_the_next_command_keeps_the_judge(made: tuple[Path, Results, str], judge: Path) -> None:
    path, results, _ = made
    command = suggest_after_measure(results, path, options(path, judge=f"{judge}:near")).command
    assert command.startswith(f"fewstep calibrate {path}") and command.endswith(f"--judge {judge}:near")
    assert "--judge own.py:near" in results.command


def test_times_alone_suggest_what_the_report_of_the_bundle_does(
    made: tuple[Path, Results, str], tmp_path: Path
) -> None:
    path, results, _ = made
    times, given = msgspec.structs.replace(results, qualities=()), MeasureOptions(path, columns=("ms",))
    assert suggest_after_measure(times, path, given).command.startswith("fewstep calibrate ")
    without = change_bundle(shutil.copytree(path, tmp_path / "bundle"), results=None, report=None)
    assert suggest_after_measure(times, without, given).command.startswith("fewstep report ")
