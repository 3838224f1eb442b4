"""A damaged bundle is refused with one line that names the damage."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from tests.refusals import refuses

ENGINE = ("file", "sidecar", "body", "backend", "device", "key")


def edit(bundle: Path, **fields: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(bundle: Path) -> str:
    """Return the line that refuses opening the bundle, or loading one of its files."""
    with pytest.raises(UserError) as caught:
        opened = open_bundle(bundle)
        for name in opened.manifest.files:
            opened.file(name)
    assert "\n" not in str(caught.value) and caught.value.fix
    return str(caught.value)


def test_a_bundle_is_pickled_without_its_schedule(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert callable(bundle.schedule.path.at)  # a function that no process can receive
    assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_a_whole_bundle_opens_and_all_its_files_check_out(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.x_shape == (1, 4, 4)
    for name in bundle.manifest.files:
        assert bundle.file(name) == tiny_bundle / name


def test_a_missing_folder_and_a_folder_without_manifest_say_how_to_make_a_bundle(tmp_path: Path) -> None:
    assert "there is no bundle" in refusal(tmp_path / "nothing")
    assert "fewstep export" in refusal(tmp_path / "nothing")
    assert "is not a bundle: it has no manifest.json" in refusal(tmp_path)
    (tmp_path / ".fewstep-lock").touch()
    assert "is not a bundle yet: the command that makes it is still running, or was killed; wait" in refusal(tmp_path)


def test_a_bundle_that_names_code_is_refused_before_any_of_it_is_imported(tiny_bundle: Path) -> None:
    (tiny_bundle / "evil.py").write_text("raise SystemExit('imported')")
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    name, body = f"{tiny_bundle / 'evil.py'}:f:4", next(iter(manifest["bodies"]))
    edit(tiny_bundle, bodies=manifest["bodies"] | {body: manifest["bodies"][body] | {"plan": name}})
    with refuses(f"field bodies.{body}.plan"):
        open_bundle(tiny_bundle)
    edit(tiny_bundle, bodies=manifest["bodies"], grid=f"{tiny_bundle / 'evil.py'}:f")
    with load(tiny_bundle) as sampler, pytest.raises(UserError, match="is not NAME or NAME"):
        sampler.compile("ddim:4")


def test_a_newer_schema_asks_for_a_newer_fewstep(tiny_bundle: Path) -> None:
    edit(tiny_bundle, schema=99, something_new={})
    assert "has schema 99" in refusal(tiny_bundle) and "--upgrade" in refusal(tiny_bundle)


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "graphs/../../outside", "", "a\\b", "C:x"])
def test_no_path_leads_out_of_the_bundle(tiny_bundle: Path, name: str) -> None:
    edit(tiny_bundle, files=json.loads((tiny_bundle / "manifest.json").read_text())["files"] | {name: "0" * 64})
    assert "is outside the bundle" in refusal(tiny_bundle)


def test_what_is_no_path_is_refused(tiny_bundle: Path) -> None:
    os.symlink(tiny_bundle / "circle", tiny_bundle / "circle")
    files = json.loads((tiny_bundle / "manifest.json").read_text())["files"]
    for name in ("zero\0byte", "circle", "long" * 2000):
        edit(tiny_bundle, files=files | {name: "0" * 64})
        assert name[:4] in refusal(tiny_bundle)
    assert "cannot be read" in refusal(tiny_bundle / ("long" * 2000))


def test_no_link_leads_out_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    (tiny_bundle / "graphs/body.onnx").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tiny_bundle / "graphs/body.onnx")
    said = f"graphs/body.onnx is a link that leads to {tmp_path / 'elsewhere'}, outside {tiny_bundle}; copy the files"
    assert said in refusal(tiny_bundle)


def link_files(bundle: Path, folder: Path, blobs: Path, up: str) -> Path:
    """A folder that has links to the files of a bundle, which lie in `blobs`, as in a hub's cache."""
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(file for file in bundle.rglob("*") if file.is_file())):
        place = folder / file.relative_to(bundle)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        depth = "../" * len(file.relative_to(bundle).parts[1:])
        place.symlink_to(f"{depth}{up}/{number}")
    return folder


def test_a_bundle_in_a_hub_cache_gives_the_samples_of_its_copy(tiny_bundle: Path, tmp_path: Path) -> None:
    model = tmp_path / "hub/models--org--name"
    linked = link_files(tiny_bundle, model / "snapshots/cc", model / "blobs", "../../blobs")
    with load(tiny_bundle) as sampler, load(linked) as other:
        ours, theirs = (side.sample("ddim:2", seeds=(1, 2), condition={"class": [1, 1]}) for side in (sampler, other))
    np.testing.assert_array_equal(ours, theirs)


def test_a_bundle_of_links_to_another_folder_is_read_and_not_changed(tiny_bundle: Path, tmp_path: Path) -> None:
    linked = link_files(tiny_bundle, tmp_path / "mine", tmp_path / "store", "../store")
    assert open_bundle(linked).manifest == open_bundle(tiny_bundle).manifest
    with refuses("mine cannot be changed: manifest.json is a link", "cp -rL"), open_for_update(linked, must_exist=True):
        pass
    assert (linked / "manifest.json").is_symlink()


def test_a_hard_linked_bundle_is_read(tiny_bundle: Path, tmp_path: Path) -> None:
    """Package managers link the shipped bundle, whose hashes are known."""
    os.link(tiny_bundle / "graphs/body.onnx", tmp_path / "second")
    assert open_bundle(tiny_bundle).file("graphs/body.onnx").is_file()


def test_a_damaged_file_behind_a_link_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    model = tmp_path / "hub/models--org--name"
    linked = link_files(tiny_bundle, model / "snapshots/cc", model / "blobs", "../../blobs")
    (linked / "graphs/body.onnx").resolve().write_bytes(b"other")
    assert "graphs/body.onnx is damaged or was edited" in refusal(linked)


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
        "measure": {"report": None, "evaluation": "gone"},
        "build": {"evaluation": None, "engines": [dict.fromkeys(ENGINE, "gone")]},
    }.items():
        edit(tiny_bundle, files=files | {"gone": "0" * 64}, **fields)
        said = refusal(tiny_bundle).removesuffix(" --columns psnr,fd")
        assert said.endswith(f"{again} that file again: fewstep {verb} {tiny_bundle}")
    edit(tiny_bundle, engines=[], files=files)
    (tiny_bundle / "graphs/int8.onnx").write_bytes(b"")
    assert refusal(tiny_bundle).endswith(f"{again} that file again: fewstep calibrate {tiny_bundle}")
    (tiny_bundle / "graphs/body.onnx").unlink()
    assert f"{again} it again: fewstep export" in refusal(tiny_bundle)


def test_a_truncated_manifest_is_named_at_every_length(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert "manifest.json" in refusal(tiny_bundle)
    path.write_text("{schema")
    assert "is not valid JSON (JSON is malformed" in refusal(tiny_bundle)


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


def record(bundle: Path, name: str, content: bytes) -> None:
    """Put content into a file of a bundle together with its hash, as an editor of bundles can."""
    (bundle / name).write_bytes(content)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    edit(bundle, files=files | {name: hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize("location", ["../../outside", "/etc/hostname", "unlisted.data", "../graphs/x.data"])
def test_no_graph_has_weights_that_the_manifest_does_not_list(tiny_bundle: Path, location: str) -> None:
    """onnxruntime before 1.23 would read them from any path."""
    made = onnx.load(tiny_bundle / "graphs/body.onnx")
    half = next(tensor for tensor in made.graph.initializer if tensor.name == "half")
    half.ClearField("raw_data")
    half.data_location = onnx.TensorProto.EXTERNAL
    half.external_data.add(key="location", value=location)
    record(tiny_bundle, "graphs/body.onnx", made.SerializeToString())
    with refuses(("graphs/body.onnx", "weights in"), "do not use this bundle"):
        load(tiny_bundle)


def test_a_graph_with_another_shape_than_the_manifest_says_is_refused_before_it_is_fed(tiny_bundle: Path) -> None:
    text = (tiny_bundle / "manifest.json").read_text().replace("[1,4,4]", "[1,4,400000]")
    (tiny_bundle / "manifest.json").write_text(text.replace('["batch",1,4,4]', '["batch",1,4,400000]'))
    with refuses("x float32['batch', 1, 4, 4]"):
        load(tiny_bundle)


def test_a_manifest_of_the_schema_before_is_read(tiny_bundle: Path) -> None:
    """Schema 1 lacked the fields whose defaults came later, and named the float16 body after an engine."""
    now = open_bundle(tiny_bundle).manifest
    document = json.loads((tiny_bundle / "manifest.json").read_text())
    for added in ("heads", "towards", "evaluation"):
        document.pop(added, None)
    document["bodies"]["float16-tensorrt"] = document["bodies"]["float32"]
    edit(tiny_bundle, schema=1, bodies=document["bodies"])
    former = open_bundle(tiny_bundle).manifest
    assert former == msgspec.structs.replace(now, bodies={**now.bodies, "float16": now.bodies["float32"]})
    load(tiny_bundle).sample(seeds=[0], condition={"class": [0]})


def test_a_damaged_manifest_of_the_schema_before_is_named(tiny_bundle: Path) -> None:
    for field, value in (("bodies", 1), ("engines", [1]), ("x_shape", "1"), ("unheard_of", 1)):
        whole = (tiny_bundle / "manifest.json").read_text()
        edit(tiny_bundle, schema=1, **{field: value})
        assert field in refusal(tiny_bundle)
        (tiny_bundle / "manifest.json").write_text(whole)


@pytest.mark.parametrize(("field", "kind"), [("input", "inputs"), ("output", "outputs")])
def test_names_that_are_no_text_are_refused(tiny_bundle: Path, field: str, kind: str) -> None:
    name = {"input": b"row", "output": b"v"}[field]
    made = (tiny_bundle / "graphs/body.onnx").read_bytes()
    record(tiny_bundle, "graphs/body.onnx", made.replace(name, b"\xff" * len(name)))
    with pytest.raises(UserError, match=r"body\.onnx"):
        load(tiny_bundle)
