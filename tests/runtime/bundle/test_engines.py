"""Engines of a bundle: when one fits a graph and a machine, and key files that are wrong, cut or huge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import SCHEMA, EngineFacts, EngineKey, Sidecar, key_difference
from fewstep.runtime.bundle.reading import open_bundle
from tests.runtime.backends.add_engines import add_engine

CONTENT = b"engine"
HERE = EngineFacts("tensorrt", "10.3.0", "sm87", 16)


BUILT = {"content": CONTENT, "device": HERE.device, "multiprocessors": HERE.multiprocessors}


def test_an_engine_whose_sidecar_agrees_is_found(tiny_bundle: Path) -> None:
    add_engine(tiny_bundle, "float32", **BUILT)
    program = engine_files.find(open_bundle(tiny_bundle), "float32", HERE, trust=True)
    assert program.content == CONTENT and program.key.device == HERE.device


def edit_sidecar(**changes: Any) -> Callable[[Sidecar], bytes]:
    return lambda sidecar: msgspec.json.encode(msgspec.structs.replace(sidecar, **changes))


@pytest.mark.parametrize(
    "key, edit, message",
    [
        ({}, lambda sidecar: b"{", "cannot be read"),
        ({}, lambda sidecar: b"[" * 5000, "cannot be read"),
        ({}, lambda sidecar: b"\xff", "cannot be read"),
        ({}, lambda sidecar: b" " * (engine_files.SIDECAR_LIMIT + 1), "is larger than 1048576 bytes"),
        ({}, lambda sidecar: msgspec.json.encode(sidecar).replace(b'"graph"', b'"grap"'), "cannot be read"),
        ({}, edit_sidecar(sha256="0" * 64), "does not belong to"),
        ({}, edit_sidecar(key="0" * 64), "does not belong to"),
        ({}, edit_sidecar(schema=SCHEMA + 1), f"reads up to {SCHEMA}; pip install"),
        (
            {"device": "sm86"},
            lambda sidecar: msgspec.json.encode(sidecar).replace(b"sm86", b"sm87"),
            "does not belong to",
        ),
    ],
    ids=["cut", "deep", "no text", "huge", "a field", "another engine's", "another key", "newer", "edited to fit"],
)
def test_a_sidecar_of_no_engine_or_another_is_named(
    tiny_bundle: Path, key: dict[str, str], edit: Callable[[Sidecar], bytes], message: str
) -> None:
    add_engine(tiny_bundle, "float32", edit=edit, **BUILT | key)
    with pytest.raises(UserError, match=message) as caught:
        engine_files.find(open_bundle(tiny_bundle), "float32", HERE, trust=True)
    assert "float32-sm8" in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    built=st.builds(
        EngineKey,
        graph=st.just("a"),
        weights=st.just(()),
        batches=st.just((1, 1, 1)),
        flags=st.dictionaries(st.sampled_from(["version_compatible", "hardware_compatible"]), st.booleans()),
        backend=st.sampled_from(["tensorrt", ""]),
        backend_version=st.text(max_size=30) | st.text("0123456789.", max_size=6000),
        device=st.text(max_size=12) | st.from_regex(r"sm[0-9]{0,20}\+?", fullmatch=True),
        multiprocessors=st.none() | st.integers(),
    )
)
def test_any_key_is_compared_without_an_exception(built: EngineKey) -> None:
    problem = key_difference(built, "a", (), HERE)
    fits = built.backend == "tensorrt" and built.device in ("sm87", "sm80+")
    assert problem is not None or fits


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


SAME = {"graph": GRAPH, "weights": WEIGHTS}
ALL_GPUS, AMPERE = {"multiprocessors": None}, {"multiprocessors": None, "device": "sm80+"}
LATER = {"flags": {**KEY.flags, "version_compatible": True}}


@pytest.mark.parametrize(
    "key, of, here, named",
    [
        ({}, SAME, {}, None),
        ({}, SAME | {"graph": "c" * 64}, {}, f"graph: built from {GRAPH[:12]}, but the bundle has cccccccccccc"),
        ({}, SAME | {"weights": ()}, {}, "graph: "),
        ({}, SAME, {"backend": "tensorrt-rtx"}, "backend: built with tensorrt, but this is tensorrt-rtx"),
        ({}, SAME, {"backend_version": "10.7.0"}, "backend_version: built with 10.3.0, but this is 10.7.0"),
        ({}, SAME, {"device": "sm110"}, "device: built for sm87, but this is sm110"),
        ({}, SAME, {"multiprocessors": 8}, "multiprocessors: built on 16, but this sm87 has 8"),
        (ALL_GPUS, SAME, {"multiprocessors": 8}, None),
        (LATER, SAME, {"backend_version": "10.16.1"}, None),
        (LATER, SAME, {"backend_version": "11.4.1"}, None),
        (LATER, SAME, {"backend_version": "10.2.9"}, "backend_version: "),
        (AMPERE, SAME, {"device": "sm80"}, None),
        (AMPERE, SAME, {"device": "sm120"}, None),
        (AMPERE, SAME, {"device": "sm75"}, "device: "),
    ],
)
def test_the_first_field_that_does_not_fit_is_named(
    key: dict[str, Any], of: dict[str, Any], here: dict[str, Any], named: str | None
) -> None:
    replace = msgspec.structs.replace
    found = key_difference(replace(KEY, **key), here=replace(HERE, **here), **of)
    assert found is None if named is None else found is not None and found.startswith(named)


def test_a_key_written_before_multiprocessors_existed_keeps_its_digest() -> None:
    old = msgspec.structs.replace(KEY, multiprocessors=None)
    assert b"multiprocessors" not in msgspec.json.encode(old)
    assert old.digest != KEY.digest
