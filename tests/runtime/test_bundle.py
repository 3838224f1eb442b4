"""A damaged bundle is refused with one line that names the damage."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fewstep.runtime import load
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.errors import UserError

ENGINE = ("file", "sidecar", "body", "backend", "device", "key")


def edit(bundle: Path, **fields: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(bundle: Path) -> str:
    """The one line with which opening the bundle, or loading any of its files, is refused."""
    with pytest.raises(UserError) as caught:
        opened = open_bundle(bundle)
        for name in opened.manifest.files:
            opened.file(name)
    assert "\n" not in str(caught.value) and caught.value.fix
    return str(caught.value)


def test_a_whole_bundle_opens_and_all_its_files_check_out(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.x_shape == (1, 4, 4)
    for name in bundle.manifest.files:
        assert bundle.file(name) == tiny_bundle / name


def test_a_missing_folder_and_a_folder_without_manifest_say_how_to_make_a_bundle(tmp_path: Path) -> None:
    assert "there is no bundle" in refusal(tmp_path / "nothing")
    assert "fewstep export" in refusal(tmp_path / "nothing")
    assert "is no bundle: it has no manifest.json" in refusal(tmp_path)


def test_a_newer_schema_asks_for_a_newer_fewstep(tiny_bundle: Path) -> None:
    edit(tiny_bundle, schema=99, something_new={})
    assert "has schema 99" in refusal(tiny_bundle) and "--upgrade" in refusal(tiny_bundle)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("x_shape", [1, "four", 4], "field x_shape[1]: expected `int`"),
        ("x_shape", [1, -4, 4], "field x_shape: [1, -4, 4]"),
        ("x_shape", [2**20, 2**20, 4], "field x_shape"),
        ("schema", "one", "field schema"),
        ("schema", 0, "field schema"),
        ("prediction", "noise", "field prediction: invalid enum value 'noise'"),
        ("unheard_of", 1, "unknown field `unheard_of`"),
        ("bodies", {}, "there is no float32 body"),
        ("files", {}, "no sha256"),
        ("ranges", "ranges.safetensors", "no sha256"),
        ("schedule", {"kind": "cosine", "timesteps": 0}, "field schedule.timesteps"),
        ("schedule", {"kind": "cosine", "timesteps": 10**10}, "field schedule.timesteps"),
        ("schedule", {"kind": "linear", "beta_start": 1e-320}, "field schedule.beta_start"),
        ("schedule", {"kind": "linear", "beta_end": 2.0}, "field schedule.beta_end"),
        ("conditions", [{"name": "c", "input": "label", "low": 2, "high": 1}], "field conditions[0].low: 2 is above"),
        ("conditions", [{"name": "c", "input": "label", "dtype": "uint8", "null": 256}], "field conditions[0].null"),
        ("prologue", None, "the prologue does not make the row 'row'"),
    ],
)
def test_a_wrong_field_is_named(tiny_bundle: Path, field: str, value: object, named: str) -> None:
    edit(tiny_bundle, **{field: value})
    assert named in refusal(tiny_bundle)


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "graphs/../../outside", "", "a\\b", "C:x"])
def test_no_path_leads_out_of_the_bundle(tiny_bundle: Path, name: str) -> None:
    edit(tiny_bundle, files=json.loads((tiny_bundle / "manifest.json").read_text())["files"] | {name: "0" * 64})
    assert "lies outside the bundle" in refusal(tiny_bundle)


def test_what_is_no_path_is_refused(tiny_bundle: Path) -> None:
    os.symlink(tiny_bundle / "circle", tiny_bundle / "circle")
    files = json.loads((tiny_bundle / "manifest.json").read_text())["files"]
    for name in ("zero\0byte", "circle", "long" * 2000):
        edit(tiny_bundle, files=files | {name: "0" * 64})
        assert name[:4] in refusal(tiny_bundle)
    assert "cannot be read" in refusal(tiny_bundle / ("long" * 2000))


def test_the_largest_number_of_a_type_may_be_the_null_value(tiny_bundle: Path) -> None:
    edit(tiny_bundle, conditions=[{"name": "c", "input": "label", "dtype": "uint8", "null": 255}])
    assert open_bundle(tiny_bundle).manifest.conditions[0].null == 255


def test_no_link_leads_out_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    graph = tiny_bundle / "graphs/body.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    os.symlink(tmp_path / "elsewhere.onnx", graph)
    assert "lies outside the bundle" in refusal(tiny_bundle)


def test_missing_truncated_and_edited_files_are_named(tiny_bundle: Path) -> None:
    graph = tiny_bundle / "graphs/body.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1])
    assert "graphs/body.onnx is damaged or was edited" in refusal(tiny_bundle)
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "graphs/body.onnx is damaged or was edited" in refusal(tiny_bundle)
    graph.unlink()
    assert "graphs/body.onnx is missing" in refusal(tiny_bundle)


def test_a_file_in_place_of_the_folder_is_named(tiny_bundle: Path) -> None:
    assert refusal(tiny_bundle / "manifest.json").endswith(
        f"is a file, and a bundle is a folder; give the folder {tiny_bundle}"
    )
    assert "give the folder that holds manifest.json" in refusal(tiny_bundle / "graphs/body.onnx")


def test_the_fix_is_the_verb_that_makes_the_damaged_file(tiny_bundle: Path) -> None:
    again = "copy the bundle again, or make"
    files = json.loads((tiny_bundle / "manifest.json").read_text())["files"]
    for verb, fields in {
        "calibrate": {"ranges": "gone"},
        "report": {"ranges": None, "report": "gone"},
        "build": {"report": None, "engines": [dict.fromkeys(ENGINE, "gone")]},
    }.items():
        edit(tiny_bundle, files=files | {"gone": "0" * 64}, **fields)
        assert refusal(tiny_bundle).endswith(f"{again} that file again: fewstep {verb} {tiny_bundle}")
    edit(tiny_bundle, engines=[], files=files)
    (tiny_bundle / "graphs/int8.onnx").write_bytes(b"")
    assert refusal(tiny_bundle).endswith(f"{again} that file again: fewstep calibrate {tiny_bundle}")
    (tiny_bundle / "graphs/body.onnx").unlink()
    assert f"{again} it again: fewstep export" in refusal(tiny_bundle)


def test_a_decoders_reasons_are_in_plain_words(tiny_bundle: Path) -> None:
    edit(tiny_bundle, unheard_of=1)
    assert "manifest.json: unknown field `unheard_of`; " in refusal(tiny_bundle)
    (tiny_bundle / "manifest.json").write_text('{"schema": 1}')
    assert "manifest.json: missing field `name`; " in refusal(tiny_bundle)
    (tiny_bundle / "manifest.json").write_text("{schema")
    assert "is no valid JSON (JSON is malformed" in refusal(tiny_bundle)


def test_a_truncated_manifest_is_named_at_every_length(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert "manifest.json" in refusal(tiny_bundle)


def test_bytes_that_are_no_text_and_a_huge_manifest_are_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    path.write_bytes(b'{"schema": 1, "name": "\xff"}')
    assert "manifest.json" in refusal(tiny_bundle)
    for nested in (b"[" * 100_000, b'{"schema": 1, "name": ' + b"[" * 100_000, b'{"schema": 1, "x": ' + b"[" * 200_000):
        path.write_bytes(nested)
        assert "manifest.json" in refusal(tiny_bundle)
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    assert "is larger than" in refusal(tiny_bundle)


ODD = (None, -1, 0, 1, 1e308, "", "x", "batch", "int64", "flow", [], [1], {}, True, 2**62, 2**70, "../x", [0.5, 0.1])


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document is."""
    if place:
        yield place
    keyed = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in keyed:
        yield from places(child, (*place, key))


@pytest.mark.filterwarnings("error")
def test_whatever_a_manifest_says_it_runs_or_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    whole = path.read_text()
    random = Random(0)
    everywhere = list(places(json.loads(whole)))
    for _ in range(400):
        manifest = json.loads(whole)
        *folders, key = random.choice(everywhere)
        holder = manifest
        for folder in folders:
            holder = holder[folder]
        holder[key] = random.choice(ODD)
        path.write_text(json.dumps(manifest))
        with suppress(UserError):
            sampler = load(tiny_bundle, random.choice(("float32", "int8")))
            sampler.sample("ddim:4", seeds=[0, 1], condition={"class": [0, 1]}, guidance=2.0)
