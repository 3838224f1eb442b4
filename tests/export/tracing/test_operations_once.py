"""Modules that are exported one after the other share torch.onnx's list of operations, and signatures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._export import utils
from torch.onnx._internal.exporter import _registration

from fewstep.export.tracing.exporter_speedups import cache_operations, list_operations_once


def test_the_list_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[list[str]]()

    def operations() -> list[str]:
        made.append(["aten::relu"])
        return made[-1]

    apis = _registration.onnxscript_apis
    monkeypatch.setattr(apis, "get_torchlib_ops", operations)
    for _ in range(2):
        with cache_operations():
            assert apis.get_torchlib_ops() is apis.get_torchlib_ops() is made[0]
        assert apis.get_torchlib_ops is operations
    assert len(made) == 1


def test_a_signature_is_made_once_of_each_function(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[str]()

    def signature(function: object, domain: str, name: str, *, since_version: int = 1) -> str:
        made.append(f"{domain} {name} {since_version}")
        return made[-1]

    schemas = _registration._schemas
    monkeypatch.setattr(schemas, "op_signature_from_function", signature)
    for _ in range(2):
        with cache_operations():
            assert schemas.op_signature_from_function(len, "aten", "len", since_version=18) == "aten len 18"
            assert schemas.op_signature_from_function(min, "aten", "min") == "aten min 1"
        assert schemas.op_signature_from_function is signature
    assert made == ["aten len 18", "aten min 1"]


@pytest.mark.parametrize("name", ["onnxscript_apis", "_schemas"])
def test_a_release_without_a_name_is_left_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_registration, name)
    with cache_operations():
        assert not hasattr(_registration, name)


def test_a_release_without_the_list_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(utils, "_materialize_cpp_cia_ops")
    with list_operations_once():
        assert not hasattr(utils, "_materialize_cpp_cia_ops")


def test_composite_operations_are_read_once_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: read.append(1))
    alone = utils._collect_all_valid_cia_ops()
    assert len(read) > 10
    read.clear()
    for _ in range(2):
        with list_operations_once():
            assert utils._collect_all_valid_cia_ops() == utils._collect_all_valid_cia_ops() == alone
    assert len(read) == 2


def test_annotations_of_overrides_are_not_evaluated() -> None:
    with list_operations_once():
        given: Any = torch._ops.Callable
        assert given[[int], str] is given and isinstance(len, given) and not isinstance(3, given)
    assert torch._ops.Callable is Callable  # type: ignore[attr-defined]
