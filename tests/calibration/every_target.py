"""A test for each target; one whose lowering is checked on an engine that is not installed is skipped, and says so."""

import importlib.util

import pytest

from fewstep.lowering.targets import TARGETS

ENGINES = dict.fromkeys(("openvino", "openvino-bf16"), "openvino")  # target -> what checks it, beside onnxruntime


def _skipped(name: str) -> list[pytest.MarkDecorator]:
    package = ENGINES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return []
    return [pytest.mark.skip(reason=f"{package} is not installed")]


every_target = pytest.mark.parametrize(
    "target", [pytest.param(target, id=target.name, marks=_skipped(target.name)) for target in TARGETS]
)
