"""`fewstep push` to a hub on this machine, by huggingface_hub's own requests (git LFS, not xet), and `run` from it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("huggingface_hub")
from huggingface_hub import constants

from fewstep.cli.push.push import PushOptions, prepare
from fewstep.runtime.bundle.manifest import EngineEntry
from fewstep.runtime.bundle.reading import file_sha256, open_bundle
from fewstep.runtime.hub import fetch_bundle
from tests.cli.conftest import Command, Document, Refusal
from tests.cli.push.uploads import TOKEN, Uploads
from tests.export.sources.hub_server import COMMIT, serve, use_hub
from tests.refusals import assert_refusal, refuses

NAME = "org/tiny"


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploads]:
    """A hub that huggingface_hub uses, with an empty cache and a token. Its settings are read when it is imported, so
    they are replaced."""
    uploads = Uploads(tmp_path / "hub")
    with serve(uploads.models, answer_upload=uploads.answer, private=uploads.private) as (address, _):
        uploads.address = address
        use_hub(monkeypatch, address, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield uploads


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _replace_manifest(bundle: Path, **fields: object) -> None:
    manifest = msgspec.structs.replace(open_bundle(bundle).manifest, **fields)
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def test_a_pushed_bundle_is_fetched_as_it_was(uploads: Uploads, tiny_bundle: Path, document: Document) -> None:
    pushed = document("push", tiny_bundle, NAME, "-q")
    listed = open_bundle(tiny_bundle).manifest.files
    assert pushed["commit"] == COMMIT and pushed["files"] == len(listed) + 2  # the manifest and the card
    assert _files(uploads.root / NAME).keys() == {*listed, "manifest.json", "README.md", ".gitattributes"}
    fetched = fetch_bundle(NAME)
    assert fetched.name == COMMIT and not (fetched / "README.md").exists()
    assert open_bundle(fetched).manifest == open_bundle(tiny_bundle).manifest
    assert {name: file_sha256(fetched / name) for name in listed} == listed
    assert uploads.private == {NAME: False}


def test_run_samples_a_bundle_by_its_name(
    uploads: Uploads, tiny_bundle: Path, fewstep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewstep("push", tiny_bundle, NAME)
    options = ("--plan", "ddim:2", "-n", 2, "-c", "class=0")
    fewstep("run", tiny_bundle, *options, "-o", tmp_path / "own.npy")
    fewstep("run", NAME, *options, "-o", tmp_path / "pulled.npy")
    assert np.array_equal(np.load(tmp_path / "own.npy"), np.load(tmp_path / "pulled.npy"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fewstep("run", f"{NAME}@{COMMIT}", *options, "-o", tmp_path / "offline.npy")
    assert np.array_equal(np.load(tmp_path / "own.npy"), np.load(tmp_path / "offline.npy"))


@pytest.mark.parametrize("text", ["./org/tiny", "org/tiny/", "org//tiny"])
def test_the_path_of_a_missing_folder_is_no_name(uploads: Uploads, refusal: Refusal, text: str) -> None:
    uploads.models[NAME] = uploads.root / NAME
    assert_refusal(refusal("run", text), names=f"there is no folder {text}", fix="check the path")


def test_an_interrupted_push_continues(
    uploads: Uploads, tiny_bundle: Path, refusal: Refusal, document: Document
) -> None:
    uploads.full = 1
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names=NAME, fix="run the same command again")
    assert _files(uploads.root / NAME) == {".gitattributes": b""}
    uploads.full = None
    document("push", tiny_bundle, NAME, "-q")
    large = {sha for name, sha in open_bundle(tiny_bundle).manifest.files.items() if name.endswith(".onnx")}
    assert sorted(uploads.sent) == sorted(large) and len(large) > 1  # none was sent twice


def test_files_of_the_former_bundle_are_removed_and_others_stay(
    uploads: Uploads, tiny_bundle: Path, document: Document
) -> None:
    folder = uploads.root / NAME
    (folder / "graphs").mkdir(parents=True)
    former = {"schema": 1, "bodies": {}, "provenance": {}, "files": {"graphs/old.onnx": "0", "graphs/gone.onnx": "1"}}
    (folder / "manifest.json").write_text(json.dumps(former))
    (folder / "graphs/old.onnx").touch()
    (folder / "notes.txt").write_text("own")
    uploads.models[NAME] = folder
    document("push", tiny_bundle, NAME, "-q")
    left = _files(folder)
    assert "graphs/old.onnx" not in left and left["notes.txt"] == b"own"
    assert open_bundle(folder).manifest == open_bundle(tiny_bundle).manifest


def test_engines_and_pages_are_not_pushed(uploads: Uploads, tiny_bundle: Path, document: Document) -> None:
    added = {"engines/a.engine": b"native", "engines/a.json": b"{}", "report/index.html": b"<p>"}
    for name, content in added.items():
        (tiny_bundle / name).parent.mkdir(exist_ok=True)
        (tiny_bundle / name).write_bytes(content)
    manifest = open_bundle(tiny_bundle).manifest
    digests = {name: file_sha256(tiny_bundle / name) for name in added}
    engine = EngineEntry("engines/a.engine", "engines/a.json", "float32", "tensorrt", "sm_89", "k")
    (tiny_bundle / "engines/a.json").write_text(json.dumps({"key": "k", "sha256": digests["engines/a.engine"]}))
    digests["engines/a.json"] = file_sha256(tiny_bundle / "engines/a.json")
    files = {**manifest.files, **digests}
    _replace_manifest(tiny_bundle, engines=(engine,), report="report/index.html", files=files)
    document("push", tiny_bundle, NAME, "-q")
    assert open_bundle(uploads.root / NAME).manifest == manifest
    assert not added.keys() & _files(uploads.root / NAME).keys()


def test_a_dry_run_needs_no_hub(tiny_bundle: Path, document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    before = _files(tiny_bundle)
    planned = document("push", tiny_bundle, NAME, "--dry-run")
    assert planned["files"].keys() == {*open_bundle(tiny_bundle).manifest.files, "manifest.json", "README.md"}
    assert planned["bytes"] == sum(planned["files"].values()) and _files(tiny_bundle) == before
    assert f"fewstep run {NAME} " in planned["card"]


def test_a_missing_library_is_named(tiny_bundle: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names="huggingface_hub", fix="pip install 'fewstep[hub]'")
    assert_refusal(refusal("run", NAME), names=(NAME, "huggingface_hub"), fix="pip install 'fewstep[hub]'")


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "org/tiny@v1", "/org/tiny", "org/"])
def test_a_name_needs_an_organization(tiny_bundle: Path, refusal: Refusal, name: str) -> None:
    assert_refusal(refusal("push", tiny_bundle, name, "-q"), names=repr(name), fix="ORG/NAME")


def test_a_damaged_bundle_is_not_pushed(uploads: Uploads, tiny_bundle: Path, refusal: Refusal) -> None:
    first, *_ = sorted(tiny_bundle.glob("graphs/*.onnx"))
    first.write_bytes(first.read_bytes() + b" ")
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names=(f"graphs/{first.name}", "damaged"), fix="again")
    assert not uploads.models


def test_other_models_are_not_replaced(uploads: Uploads, tiny_bundle: Path, refusal: Refusal) -> None:
    folder = uploads.models[NAME] = uploads.root / NAME
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("theirs")
    refused = refusal("push", tiny_bundle, NAME, "-q")
    assert_refusal(refused, names=(NAME, "model.safetensors"), fix="another name")
    assert _files(folder) == {"model.safetensors": b"theirs"} and not uploads.sent


def test_a_manifest_of_another_program_is_no_bundle(uploads: Uploads, tiny_bundle: Path, refusal: Refusal) -> None:
    folder = uploads.models[NAME] = uploads.root / NAME
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"files": {"model.safetensors": "0"}, "version": 1}')
    (folder / "model.safetensors").write_text("theirs")
    before = _files(folder)
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names=(NAME, "manifest.json"), fix="another name")
    assert _files(folder) == before


def test_a_public_model_stays_out_of_a_private_push(uploads: Uploads, tiny_bundle: Path, refusal: Refusal) -> None:
    folder = uploads.models[NAME] = uploads.root / NAME
    folder.mkdir(parents=True)
    refused = refusal("push", tiny_bundle, NAME, "-q", "--private")
    assert_refusal(refused, names=f"{NAME} exists and is public", fix="--private")
    assert not _files(folder)


def test_a_new_model_is_private(uploads: Uploads, tiny_bundle: Path, document: Document) -> None:
    document("push", tiny_bundle, NAME, "-q", "--private")
    document("push", tiny_bundle, NAME, "-q", "--private")
    assert uploads.private == {NAME: True}


def test_a_name_that_run_takes_for_a_file_is_refused(tiny_bundle: Path, refusal: Refusal) -> None:
    assert_refusal(refusal("push", tiny_bundle, "org/tiny.onnx", "-q"), names="'org/tiny.onnx'", fix="without .onnx")


@pytest.mark.parametrize("source", ["/home/me/secret/models/sd15", "org/model", r"C:\\me\\models\\sd15"])
def test_folders_of_sources_are_not_published(tiny_bundle: Path, source: str) -> None:
    """And a folder ORG/NAME is not the model of that name on a hub."""
    origin = msgspec.structs.replace(open_bundle(tiny_bundle).manifest.provenance, source=source)
    _replace_manifest(tiny_bundle, provenance=origin)
    prepared = prepare(PushOptions(tiny_bundle, NAME))
    card, manifest = prepared.contents["README.md"].decode(), prepared.bundle.manifest
    assert manifest.provenance.source in ("sd15", "model") and f"- source: {manifest.provenance.source}\n" in card
    assert "base_model" not in card and source.encode() not in prepared.contents["manifest.json"]


def test_each_refusal_of_the_hub_is_one_line(
    uploads: Uploads, tiny_bundle: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refusal(refusal("push", tiny_bundle, "foreign/tiny", "-q"), names="foreign/tiny", fix="may write")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names="token", fix="hf auth login")
    monkeypatch.delenv("HF_TOKEN")
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names="no token", fix="hf auth login")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names="HF_HUB_OFFLINE", fix="unset")
    assert not uploads.models


def test_a_hub_that_is_down_is_one_line(
    tmp_path: Path, tiny_bundle: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_refusal(refusal("push", tiny_bundle, NAME, "-q"), names="http://127.0.0.1:9", fix="network")
    assert_refusal(refusal("run", NAME), names="http://127.0.0.1:9", fix="network")


def test_a_model_without_a_manifest_is_no_bundle(uploads: Uploads) -> None:
    folder = uploads.models[NAME] = uploads.root / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with refuses((NAME, "manifest.json"), "fewstep export org/tiny"):
        fetch_bundle(NAME)


def test_an_incomplete_bundle_names_its_file(uploads: Uploads, tiny_bundle: Path, document: Document) -> None:
    document("push", tiny_bundle, NAME, "-q")
    first, *_ = sorted((uploads.root / NAME).glob("graphs/*.onnx"))
    first.unlink()
    with refuses((NAME, first.name), "push it again"):
        fetch_bundle(NAME)
