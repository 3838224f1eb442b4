"""Modules that are exported one after the other share the list of operations that torch.onnx can write."""

import pytest
from torch.onnx._internal.exporter import _registration

from fewstep.export.tracing.operations_once import operations_once


def test_the_list_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[list[str]]()

    def operations() -> list[str]:
        made.append(["aten::relu"])
        return made[-1]

    apis = _registration.onnxscript_apis
    monkeypatch.setattr(apis, "get_torchlib_ops", operations)
    for _ in range(2):
        with operations_once():
            assert apis.get_torchlib_ops() is apis.get_torchlib_ops() is made[0]
        assert apis.get_torchlib_ops is operations
    assert len(made) == 1


def test_a_release_without_that_name_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_registration, "onnxscript_apis")
    with operations_once():
        assert not hasattr(_registration, "onnxscript_apis")
