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


def test_the_page_has_the_text_that_the_script_writes() -> None:
    machine = {"processor": "AMD EPYC", "int8_instructions": ["avx2"], "versions": {"numpy": "2.4.6"}}
    speeds = {"machine": machine, "model": "m", "races": [{"threads": 2, "batch": 1, "timings": []}]}
    compared = {"model": "fashion_mnist", "plan": "dpmpp_2m:8", "guidance": 2.0, "seeds": 256, "first": 0}
    made = SCRIPT["written"](compared | {"trajectories": 64, "rows": []}, [speeds, speeds])
    made, page = (fixed(text) for text in (made, SCRIPT["PAGE"].read_text()))
    assert len(page) > 10
    assert page == made


def fixed(text: str) -> list[str]:
    """The paragraphs in which no figure stands."""
    measured = ("Machine:", "The model is", "|")
    return [part.strip() for part in text.split("\n\n") if not part.startswith(measured)]
