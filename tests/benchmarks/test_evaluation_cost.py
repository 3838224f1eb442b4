"""Each body of a bundle is measured in a process of its own."""

from pathlib import Path

import evaluation_cost
import pytest

from tests.evaluation.judged_bundle import make_bundle


@pytest.mark.slow
def test_each_body_that_runs_here_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation_cost.main([str(make_bundle(tmp_path / "tiny")), "--plan", "ddim:2"])
    _, heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading == ["processor", "s", "times", "reads", "GB", "peak", "GB"]
    names, seconds, times, _, peaks = zip(*rows, strict=True)
    assert names == ("float32", "int8-cpu-x86") and times[0] == "1.00"
    assert all(0 <= float(each) < 1 for each in seconds) and all(0.02 < float(each) < 1 for each in peaks)
