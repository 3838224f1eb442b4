"""The engines that are tried for a body."""

from pathlib import Path

import msgspec
import pytest

from fewstep.report.choosing import engines
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle


@pytest.mark.parametrize(
    "cores, default, expected",
    [
        (2, 2, [(0, True), (1, True), (0, False)]),
        (4, 2, [(0, True), (4, True), (1, True), (0, False)]),  # two threads of the processor share a core
        (2, 1, [(0, True), (2, True), (2, False)]),
        (1, 1, [(0, True)]),
    ],
)
def test_all_cores_and_one_are_tried(
    cores: int, default: int, expected: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "usable_threads", lambda: cores)
    monkeypatch.setattr(engines, "default_threads", lambda: default)
    monkeypatch.setattr(engines, "BACKENDS", ("onnxruntime", "openvino", "tensorrt"))
    tried = [*engines.candidate_engines(0, 1)]
    assert [(each.threads, each.spinning) for each in tried if each.backend == "onnxruntime"] == expected
    assert [each.threads for each in tried if each.backend == "openvino"] == [n for n, spins in expected if spins]
    assert [each.threads for each in tried if each.backend == "tensorrt"] == [0]
    given = [(engine.backend, engine.threads, engine.spinning) for engine in engines.candidate_engines(3, 1)]
    assert given == [("onnxruntime", 3, True), ("openvino", 3, True), ("tensorrt", 0, True)]


@pytest.mark.parametrize(
    "cores, threads, rows, expected",
    [(2, 0, 2, [0]), (2, 0, 1, []), (2, 1, 8, []), (4, 0, 3, [0, 4]), (4, 3, 8, [3]), (1, 0, 8, [])],
)
def test_rows_in_parallel_are_tried_if_every_call_has_several_rows_and_threads(
    cores: int, threads: int, rows: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "usable_threads", lambda: cores)
    monkeypatch.setattr(engines, "default_threads", lambda: min(cores, 2))
    tried = engines.candidate_engines(threads, rows)
    assert [each.threads for each in tried if each.backend == "onnxruntime-rows"] == expected


def test_an_npu_that_this_processor_simulates_is_none_of_them() -> None:
    tried = {engine.backend for engine in engines.candidate_engines(0, 2)}
    assert tried == set(engines.NAMED) - {"qnn"}


def test_a_float_of_less_precision_than_was_asked_for_runs_only_what_was_calibrated_for_it(tiny_bundle: Path) -> None:
    """bf16 would silently win over float32, whatever its samples."""
    int8 = open_bundle(tiny_bundle).manifest.bodies["int8-cpu-x86"]
    for name in ("openvino", "openvino-bf16"):
        body = msgspec.structs.replace(int8, target=name)
        change_bundle(tiny_bundle, bodies={**open_bundle(tiny_bundle).manifest.bodies, f"int8-{name}": body})
    bundle, bf16 = open_bundle(tiny_bundle), engines.TimedEngine("openvino-bf16", 0, None)
    runs = [name for name in bundle.manifest.bodies if engines._runs_body(bundle, name, bf16, {"batch": 1})]
    assert runs == ["int8-openvino-bf16"]
    assert {"float32", "int8-openvino", "int8-openvino-bf16"} <= set(engines.runnable_bodies(bundle))


def test_an_estimate_counts_only_engines_that_are_installed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_gpu", lambda: False)
    for packages, count in ({}, 1), ({"openvino": "2026.4"}, 2):
        monkeypatch.setattr(engines, "package_versions", lambda packages=packages: packages)
        assert engines.count_engines(open_bundle(tiny_bundle), "float32", 1, 1, 1) == count
