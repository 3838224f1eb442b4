"""Memory of OpenVINO by its settings: each is understood, and what it holds is told."""

from pathlib import Path

import pytest

pytest.importorskip("openvino")
import openvino_memory

from fewstep.machine.memory import peak
from tests.evaluation.judged_bundle import make_bundle


@pytest.mark.slow
@pytest.mark.skipif(not peak(), reason="reads memory from /proc")
@pytest.mark.parametrize("name", openvino_memory.SETTINGS)
def test_each_setting_is_one_that_openvino_has(tmp_path: Path, name: str) -> None:
    settings = openvino_memory.SETTINGS[name]
    most, beside_files, first, second = openvino_memory.measure(make_bundle(tmp_path / "tiny"), "float32", settings)
    assert most > beside_files > 0 and first > second >= 0
