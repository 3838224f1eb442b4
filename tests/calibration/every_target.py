"""Parametrize tests over all targets that quantize activations. A target that is checked on an engine that is not
installed is skipped with a
message.

`change_target` changes a target for one test. `UNPLACED` is tensorrt with arithmetic in front of every rounding.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import replace

import pytest

from fewstep.calibration.lowering import targets
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import load_target, target_names
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT

UNPLACED = replace(TENSORRT, scheme=replace(TENSORRT.scheme, placing=None))
ENGINES = dict.fromkeys(
    ("openvino", "openvino-no-vnni", "openvino-bf16"), "openvino"
)  # target -> what checks it, besides onnxruntime


def _skip_marks(name: str) -> list[pytest.MarkDecorator]:
    package = ENGINES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return []
    return [pytest.mark.skip(reason=f"{package} is not installed")]


def _each(chosen: Iterable[Target]) -> pytest.MarkDecorator:
    each = [pytest.param(target, id=target.name, marks=_skip_marks(target.name)) for target in chosen]
    return pytest.mark.parametrize("target", each)


ALL = tuple(target for target in map(load_target, target_names()) if target.scheme.weight_bits is None)
every_target = _each(ALL)
selective_target = _each(target for target in ALL if not target.scheme.no_floats)  # the rest of the graph is float


def change_target(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """Replace fields of the target of this name, for all callers."""
    changed: Target = replace(load_target(name), **changes)  # type: ignore[arg-type]
    module = name.replace("-", "_")
    monkeypatch.setattr(f"{targets.__name__}.{module}.{module.upper()}", changed)
