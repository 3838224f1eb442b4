"""The extras that doctor knows are the project's."""

import re
import sys
from pathlib import Path

from fewstep.runtime.machine.packages import EXTRAS, missing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def test_the_extras_are_those_of_the_project() -> None:
    asked = PROJECT["optional-dependencies"]
    for extra, (_, packages) in EXTRAS.items():
        names = {re.split(r"[\s<>=;\[]", requirement)[0] for requirement in asked[extra]}
        assert set(packages) == names, extra
    assert missing({"onnxruntime-gpu": "1.31", "onnx": "1.23", "Pillow": "12"}).get("calibration") is None
