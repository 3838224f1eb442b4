"""A denoiser by its name on a hub, with a hub of this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")
from fewstep.export.licence import licence_of
from fewstep.export.sources.hub import is_name
from fewstep.runtime.bundle.reading import open_bundle
from tests.export.sources.hub_server import COMMIT, served

FETCH = """
import json, sys
from fewstep.export.sources.hub import fetch
from fewstep.plans.errors import UserError
try:
    found = fetch(sys.argv[1])
    files = sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())
    print(json.dumps([found.label, files]))
except UserError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A folder like a pipeline's, with what must not be fetched."""
    contents = {
        "model_index.json": json.dumps({"_class_name": "P", "unet": ["diffusers", "U"], "text_encoder": ["t", "T"]}),
        "README.md": "---\nlicense: mit\ntags:\n- a\n---\n# card\n",
        "unet/config.json": "{}",
        "unet/diffusion_pytorch_model.safetensors": "weights",
        "unet/diffusion_pytorch_model.fp16.safetensors": "half",
        "unet/diffusion_pytorch_model.bin": "pickle",
        "text_encoder/model.safetensors": "more weights",
        "tokenizer/merges.txt": "a b",
        "safety_checker/model.safetensors": "weights",
        "whole.safetensors": "weights",
        "code.py": "print(1)",
    }
    for name, content in contents.items():
        (tmp_path / "pipeline" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pipeline" / name).write_text(content)
    return tmp_path / "pipeline"


@pytest.fixture
def hub(pipeline: Path) -> Iterator[tuple[str, list[str]]]:
    with served({"org/model": pipeline}) as server:
        yield server


def fetched(text: str, address: str, cache: Path, **environment: str) -> object:
    """The label and files of a model, or what is said of it: in another process, since the library reads its settings
    once."""
    settings = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", FETCH, text], env=settings, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_export_reads_is_fetched_once_and_nothing_else(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, requests = hub
    label, files = fetched("org/model", address, tmp_path / "cache")  # type: ignore[misc]
    assert label == f"org/model@{COMMIT}"
    assert files == [
        "README.md",
        "model_index.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert sorted(requests) == files
    again = fetched(f"org/model@{COMMIT}", address, tmp_path / "cache")
    assert again == [label, files] and len(requests) == len(files)
    offline = fetched("org/model", "http://127.0.0.1:9", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline == [label, files]


@pytest.mark.slow
def test_export_names_the_commit_and_the_licence(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.families.unet_2d import make

    source = Path(str(make(tmp_path / "made")))
    (source / "README.md").write_text("---\nlicense: openrail\n---\n")
    with served({"org/tiny": source}) as (address, _):
        settings = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "fewstep.cli", "export", "org/tiny", "-o", str(tmp_path / "bundle"), "-q"]
        subprocess.run(command, env=settings, check=True)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert (manifest.name, manifest.provenance.licence) == ("tiny", "openrail")
    assert manifest.provenance.source == f"org/tiny@{COMMIT}"
    assert manifest.provenance.commands == (f"fewstep export org/tiny@{COMMIT} -o BUNDLE",)
    shown = subprocess.run(
        [sys.executable, "-m", "fewstep.cli", "inspect", str(tmp_path / "bundle")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "licence: openrail" in shown and f"org/tiny@{COMMIT[:7]}" in "".join(shown.split())


def test_what_cannot_be_had_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    missing = fetched("org/other", hub[0], tmp_path / "cache")
    assert str(missing).startswith("there is no folder org/other, and no model of that name can be fetched: Repository")
    offline = fetched("org/model", hub[0], tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert "no model of that name can be fetched" in str(offline) and "\n" not in str(offline)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("org/model", True),
        ("org/model-v1.5@main", True),
        ("fashion_mnist", False),
        ("folder/file.onnx", False),
        ("folder/file.py", False),
        ("./folder", False),
        ("a/b/c", False),
        ("../model", False),
    ],
)
def test_a_name_is_seen_by_its_form(text: str, is_one: bool) -> None:
    assert is_name(text) is is_one


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_name("org/model")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: 'my-licence'\n---\n", "my-licence"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
    ],
)
def test_a_licence_is_that_of_the_card(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence


def test_shipped_models_have_the_licence_of_fewstep() -> None:
    assert licence_of("fashion_mnist") == "Apache-2.0"
    assert licence_of("somewhere.py:denoiser") is None
