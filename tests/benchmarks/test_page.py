"""benchmarks/page.py: how it shows what the others printed."""

import runpy
from pathlib import Path

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/page.py"))


def test_every_contender_is_a_line_and_a_failed_one_says_why() -> None:
    end = {"mean": 45.04, "p5": 39.7, "worst": 21.9, "int8_macs": 997, "total_macs": 1000}
    rows = [
        {"engine": "onnxruntime", "name": "fewstep", "quality": end},
        {"engine": "openvino", "name": "NNCF, tuned", "quality": None, "reason": "it broke"},
    ]
    *_, first, second = SCRIPT["quality"]({"rows": rows}).split("\n")
    assert first == "| onnxruntime | fewstep | 45.0 | 39.7 | 21.9 | 99.7 % |"
    assert second == "| openvino | NNCF, tuned | failed: it broke |  |  |  |"
