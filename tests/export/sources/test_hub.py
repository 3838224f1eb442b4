"""A denoiser by its name on a hub, which runs on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")
from fewstep.export.licence import read_licence
from fewstep.export.sources.hub import Fetched
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.hub import is_name
from tests.export.sources.hub_server import COMMIT, serve

FETCH = """
import json, sys
from fewstep.export.sources.hub import fetch
from fewstep.plans.errors import UserError
for text in sys.argv[1:]:
    try:
        found = fetch(text)
        files = sorted(path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file())
        print(json.dumps([found.label, files]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """The files of a model, by their names in its folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def _shard_index(*files: str) -> str:
    return json.dumps({"weight_map": {f"layer{number}": name for number, name in enumerate(files)}})


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A folder like a pipeline's, including files that must not be fetched."""
    contents = {
        "model_index.json": json.dumps(
            {"_class_name": "P", "unet": ["diffusers", "U"], "text_encoder": ["transformers", "T"], "vae": ["v", "V"]}
        ),
        "README.md": "---\nlicense: mit\ntags:\n- a\n---\n# card\n",
        **{f"{name}/config.json": json.dumps({"_class_name": name}) for name in ("unet", "vae")},
        "text_encoder/config.json": json.dumps({"model_type": "t"}),
        "unet/diffusion_pytorch_model.safetensors": "weights",
        "unet/diffusion_pytorch_model.fp16.safetensors": "half",
        "unet/diffusion_pytorch_model.bin": "pickle",
        "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors": "half of the half",
        "unet/optimizer.safetensors": "moments",
        "text_encoder/model.safetensors.index.json": _shard_index("model-00001.safetensors", "model-00002.safetensors"),
        "text_encoder/model-00001.safetensors": "more",
        "text_encoder/model-00002.safetensors": "and more",
        "text_encoder/model.safetensors.index.fp16.json": _shard_index("model-00001.fp16.safetensors"),
        "text_encoder/model-00001.fp16.safetensors": "half",
        "vae/diffusion_pytorch_model.fp16.safetensors": "half, and no other",
        "tokenizer/merges.txt": "a b",
        "safety_checker/model.safetensors": "weights",
        "whole.safetensors": "weights",
        "code.py": "print(1)",
    }
    write(tmp_path / "pipeline", contents)
    return tmp_path / "pipeline"


@pytest.fixture
def hub(pipeline: Path) -> Iterator[tuple[str, list[str]]]:
    with serve({"org/model": pipeline}) as server:
        yield server


def ran(
    *command: str | Path, address: str, cache: Path, check: bool = True, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python with this command in a separate process, since huggingface_hub reads its settings once."""
    settings = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), **environment}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=settings, capture_output=True, text=True, check=check
    )


def each_fetched(texts: Sequence[str], address: str, cache: Path, **environment: str) -> list[object]:
    """Return the label and files of each model, or the message."""
    done = ran("-c", FETCH, *texts, address=address, cache=cache, **environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def fetch_one(text: str, address: str, cache: Path, **environment: str) -> object:
    return each_fetched([text], address, cache, **environment)[0]


def fill_cache(text: str, patterns: list[str], address: str, cache: Path) -> None:
    """Fetch some files of a model as another program would."""
    program = "import sys, huggingface_hub as hub; hub.snapshot_download(sys.argv[1], allow_patterns=sys.argv[2:])"
    ran("-c", program, text, *patterns, address=address, cache=cache)


def test_what_export_reads_is_fetched_once_and_nothing_else(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, requests = hub
    first, again = each_fetched(["org/model", f"org/model@{COMMIT}"], address, tmp_path / "cache")
    label, files = first  # type: ignore[misc]
    assert label == f"org/model@{COMMIT}"
    assert files == [
        "README.md",
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model-00001.safetensors",
        "text_encoder/model-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert sorted(requests) == files and again == [label, files]
    offline = fetch_one("org/model", "http://127.0.0.1:9", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline == [label, files]


@pytest.mark.slow
@pytest.mark.parametrize(
    "there",
    [
        ["unet/*.fp16.safetensors", "text_encoder/*.fp16.safetensors"],  # by a tool that wanted float16
        ["text_encoder/model.safetensors.index.json", "text_encoder/model-00001.safetensors"],  # and an interruption
    ],
)
def test_full_precision_is_fetched_whatever_the_cache_has(
    hub: tuple[str, list[str]], tmp_path: Path, there: list[str]
) -> None:
    address, requests = hub
    fill_cache("org/model", there, address, tmp_path / "cache")
    before = len(requests)
    _, files = fetch_one("org/model", address, tmp_path / "cache")  # type: ignore[misc]
    assert {
        "text_encoder/model-00001.safetensors",
        "text_encoder/model-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    } <= set(files)
    assert before and len(requests) == len(set(requests))  # nothing is fetched twice
    assert [name for name in requests[before:] if "fp16" in name] == [
        name for name in requests[before:] if name.startswith("vae/diffusion") or name.endswith(".fp16.json")
    ]


def test_of_a_policy_its_weights_and_statistics_are_fetched(tmp_path: Path) -> None:
    steps = {"steps": [{"registry_name": "a"}, {"registry_name": "b", "state_file": "policy_step_1.safetensors"}]}
    contents = {
        "config.json": json.dumps({"type": "diffusion"}),
        "model.safetensors": "weights",
        "policy_preprocessor.json": json.dumps(steps),
        "policy_step_1.safetensors": "statistics",
        "optimizer.safetensors": "moments",
        "training_state/optimizer_state.safetensors": "moments",
    }
    write(tmp_path / "policy", contents)
    with serve({"org/policy": tmp_path / "policy"}) as (address, requests):
        fetch_one("org/policy", address, tmp_path / "cache")
    assert sorted(requests) == [
        "config.json",
        "model.safetensors",
        "policy_preprocessor.json",
        "policy_step_1.safetensors",
    ]


def test_a_source_has_the_name_of_the_model_not_the_folder(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Given:
        spec: Spec
        label: str

    given = Given(
        Spec(name=COMMIT, x_shape=(1, 8, 8), prediction="v", schedule=ScheduleSpec("cosine"), conditions=()), COMMIT
    )
    named = Fetched(tmp_path, "org/model", COMMIT).rename_source(given)  # type: ignore[arg-type]
    assert (named.spec.name, named.label) == ("model", f"org/model@{COMMIT}")


@pytest.mark.slow
def test_export_names_the_commit_and_the_licence(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.families.diffusers_networks.unet_2d import make

    source = Path(str(make(tmp_path / "made")))
    (source / "README.md").write_text("---\nlicense: openrail\n---\n")
    with serve({"org/tiny": source}) as (address, _):
        export = partial(ran, "-m", "fewstep.cli", "export", "org/tiny", "-o", tmp_path / "bundle")
        hub = {"address": address, "cache": tmp_path / "cache"}
        stated = export("--dry-run", **hub).stdout
        export("-q", **hub)
    assert stated.startswith(f"org/tiny@{COMMIT}: tiny, x [")
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert (manifest.name, manifest.provenance.licence) == ("tiny", "openrail")
    assert manifest.provenance.source == f"org/tiny@{COMMIT}"
    assert manifest.provenance.commands == (f"fewstep export org/tiny@{COMMIT} -o BUNDLE",)
    shown = ran("-m", "fewstep.cli", "inspect", tmp_path / "bundle", **hub).stdout
    assert "licence: openrail" in shown and f"org/tiny@{COMMIT[:7]}" in "".join(shown.split())


@pytest.mark.slow
def test_what_cannot_be_had_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    other, revision = each_fetched(["org/other", "org/model@v9"], hub[0], cache)
    assert str(other).startswith(
        "there is no folder org/other, and the hub has no public model of that name; check the name"
    )
    assert revision == "org/model has no revision 'v9'; check the text after @, or leave it out"
    offline = str(fetch_one("org/model", hub[0], cache, HF_HUB_OFFLINE="1"))
    assert "is not in the cache" in offline and "unset HF_HUB_OFFLINE" in offline and "\n" not in offline
    down = str(fetch_one("org/model", "http://127.0.0.1:9", cache))
    assert down.startswith("http://127.0.0.1:9 cannot be reached for org/model, which the cache lacks: Connect")
    assert "check the network" in down and "\n" not in down
    (tmp_path / "file").write_text("")
    unwritable = str(fetch_one("org/model", hub[0], tmp_path / "file/cache"))
    assert unwritable.startswith("the cache of huggingface_hub cannot be written: ") and "HF_HOME" in unwritable


def test_a_gated_model_is_distinguished(pipeline: Path, tmp_path: Path) -> None:
    with serve({"org/model": pipeline}, gated="org/model") as (address, _):
        said = str(fetch_one("org/model", address, tmp_path / "cache"))
    assert said.startswith("org/model is gated") and "accept its terms" in said and "hf auth login" in said


def test_pickles_alone_are_refused(tmp_path: Path) -> None:
    named = {"org/one": "unet/diffusion_pytorch_model.bin", "org/other": "unet/pytorch_model.bin"}
    index = json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]})
    for model, name in named.items():
        write(tmp_path / model, {"model_index.json": index, "unet/config.json": "{}", name: "pickle"})
    with serve({model: tmp_path / model for model in named}) as (address, requests):
        said = each_fetched([*named], address, tmp_path / "cache")
    for (model, name), text in zip(named.items(), map(str, said), strict=True):
        assert text.startswith(f"{model} has its weights only as pickles ({name})") and "safetensors" in text
    assert sorted(requests) == ["model_index.json"] * 2 + ["unet/config.json"] * 2


@pytest.mark.slow
def test_a_cached_commit_is_named_when_the_hub_is_down(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    fetch_one("org/model", hub[0], tmp_path / "cache")
    done = ran("-c", FETCH, "org/model", address="http://127.0.0.1:9", cache=tmp_path / "cache")
    assert json.loads(done.stdout)[0] == f"org/model@{COMMIT}"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"org/model comes from the cache, at commit {COMMIT}, which may not be the newest: http:")


def test_progress_bars_are_for_terminals(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    done = ran("-c", FETCH, "org/model", address=hub[0], cache=tmp_path / "cache")
    assert hub[1] and done.stderr == ""


@pytest.mark.slow
def test_export_has_no_progress_bars_without_a_terminal(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    """The fetched folder is not a denoiser. Export says so, and the library prints nothing."""
    command = ("-m", "fewstep.cli", "export", "org/model", "-o", tmp_path / "bundle")
    done = ran(*command, address=hub[0], cache=tmp_path / "cache", check=False)
    assert hub[1] and done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fewstep: ") and "Fetching" not in line


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("org/model", True),
        ("org/model-v1.5@main", True),
        ("fashion_mnist", False),
        ("folder/file.onnx", False),
        ("folder/file.py", False),
        ("folder/unet.PTH", False),
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
    assert read_licence(str(tmp_path)) == licence


def test_shipped_models_have_the_licence_of_fewstep() -> None:
    assert read_licence("fashion_mnist") == "Apache-2.0"
    assert read_licence("somewhere.py:denoiser") is None
