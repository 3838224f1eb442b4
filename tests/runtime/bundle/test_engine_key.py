"""When an engine fits a graph and a machine, and which field is named when it doesn't."""

import msgspec
import pytest

from fewstep.runtime.bundle.engine_key import EngineKey, Here, difference

GRAPH, WEIGHTS = "a" * 64, ("b" * 64,)
KEY = EngineKey(
    graph=GRAPH,
    weights=WEIGHTS,
    batches=(1, 4, 16),
    flags={"strongly_typed": True, "tf32": False},
    backend="tensorrt",
    backend_version="10.3.0",
    device="sm87",
    multiprocessors=16,
)
HERE = Here("tensorrt", "10.3.0", "sm87", 16)


def with_flags(**flags: bool | int) -> EngineKey:
    return msgspec.structs.replace(KEY, flags={**KEY.flags, **flags})


def on(here: Here, **changes: object) -> Here:
    return msgspec.structs.replace(here, **changes)


def test_an_engine_fits_where_it_was_built() -> None:
    assert difference(KEY, GRAPH, WEIGHTS, HERE) is None


@pytest.mark.parametrize(
    "graph, weights, here, named",
    [
        ("c" * 64, WEIGHTS, HERE, f"graph: built from {GRAPH[:12]}, the bundle has cccccccccccc"),
        (GRAPH, (), HERE, "graph: "),
        (GRAPH, WEIGHTS, on(HERE, backend="tensorrt-rtx"), "backend: built with tensorrt, here is tensorrt-rtx"),
        (
            GRAPH,
            WEIGHTS,
            on(HERE, backend_version="10.7.0"),
            "backend_version: built with 10.3.0, here is 10.7.0",
        ),
        (GRAPH, WEIGHTS, on(HERE, device="sm110"), "device: built for sm87, here is sm110"),
        (GRAPH, WEIGHTS, on(HERE, multiprocessors=8), "multiprocessors: built on 16, this sm87 has 8"),
    ],
)
def test_the_differing_field_is_named(graph: str, weights: tuple[str, ...], here: Here, named: str) -> None:
    found = difference(KEY, graph, weights, here)
    assert found is not None and found.startswith(named)


def test_an_engine_for_every_gpu_of_a_capability_does_not_ask_for_its_model() -> None:
    key = msgspec.structs.replace(KEY, multiprocessors=None)
    assert difference(key, GRAPH, WEIGHTS, on(HERE, multiprocessors=8)) is None


@pytest.mark.parametrize("version, fits", [("10.3.0", True), ("10.16.1", True), ("11.4.1", True), ("10.2.9", False)])
def test_a_version_compatible_engine_runs_with_later_versions(version: str, fits: bool) -> None:
    found = difference(with_flags(version_compatible=True), GRAPH, WEIGHTS, on(HERE, backend_version=version))
    assert (found is None) == fits


@pytest.mark.parametrize("device, fits", [("sm80", True), ("sm120", True), ("sm75", False)])
def test_a_hardware_compatible_engine_runs_on_ampere_and_later(device: str, fits: bool) -> None:
    key = msgspec.structs.replace(KEY, device="sm80+", multiprocessors=None)
    found = difference(key, GRAPH, WEIGHTS, on(HERE, device=device))
    assert (found is None) == fits


def test_a_key_written_before_multiprocessors_existed_keeps_its_digest() -> None:
    old = msgspec.structs.replace(KEY, multiprocessors=None)
    assert b"multiprocessors" not in msgspec.json.encode(old)
    assert old.digest != KEY.digest
