"""How long the parts of a run may take."""

import time
from pathlib import Path

import pytest

from benchmarks.gpu.results import Results
from benchmarks.gpu.run import PREPARING, SECONDS, Run


@pytest.mark.parametrize("minutes", [4.0, 8.0])
def test_parts_share_the_time_and_one_part_has_all_of_it(tmp_path: Path, minutes: float) -> None:
    now = time.monotonic()
    until = now + 60 * minutes
    shared = Run((), tmp_path, Results(tmp_path / "lines.jsonl"), until, "cpu", minutes / 8)
    alone = Run((), tmp_path, Results(tmp_path / "lines.jsonl"), until, "cpu", minutes / 8, has_one_part=True)
    assert shared.deadline("denoisers") - now == pytest.approx(SECONDS["denoisers"] * minutes / 8, abs=2)
    assert shared.preparing_seconds == PREPARING * minutes / 8
    assert alone.deadline("denoisers") == until
    assert alone.preparing_seconds == pytest.approx(30 * minutes, abs=2)
