"""Folders whose files are links: shards, tokenizers and configs, as in a hub's cache and as users make them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.export.sources.model_files import CONFIG, INDEX, SUFFIXES, find_weights, read_json
from fewstep.runtime.links import keep_folder
from fewstep.runtime.lora.file import file_of
from tests.refusals import refuses

NAMES = (
    "model_index.json",
    "README.md",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
)
SHARD = NAMES[-1]


def open_folder(folder: Path) -> None:
    with keep_folder(folder, SUFFIXES, (INDEX, CONFIG)):
        pass


def write(folder: Path) -> Path:
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def snapshot(top: Path, shared: bool = False) -> Path:
    """The files in a hub's cache, the weights in the store that its models share."""
    model = top / "models--org--name"
    store = top / "blobs"
    for number, name in enumerate(NAMES):
        blob, file = model / f"blobs/{number}", model / "snapshots/cc" / name
        for path in (blob, file):
            path.parent.mkdir(parents=True, exist_ok=True)
        if shared and name.endswith(".safetensors"):
            (store / "ab").mkdir(parents=True, exist_ok=True)
            (store / ".huggingface-shared-blobs").write_text("1\n")
            (store / f"ab/{number}").write_text(name)
            blob.symlink_to(f"../../blobs/ab/{number}")
        else:
            blob.write_text(name)
        file.symlink_to(f"{'../' * len(Path(name).parts)}../blobs/{number}")
    return model / "snapshots/cc"


def replace_by_link(file: Path, target: Path) -> None:
    file.unlink()
    file.symlink_to(target)


@pytest.mark.parametrize("shared", [False, True])
def test_a_snapshot_in_a_hub_cache_is_read(tmp_path: Path, shared: bool) -> None:
    open_folder(snapshot(tmp_path, shared))
    open_folder(snapshot(tmp_path / "other", shared) / "unet")  # one component


def test_a_link_to_a_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    open_folder(tmp_path / "b")


def test_a_folder_of_links_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a")
    for name in NAMES:
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).symlink_to(tmp_path / "a" / name)
    open_folder(tmp_path / "b")


def test_a_link_to_another_component_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    shutil.rmtree(folder / "text_encoder")
    (folder / "text_encoder").symlink_to("unet")
    open_folder(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_link_to_another_place_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a")
    (tmp_path / "secret").write_text("secret")
    if name == INDEX:  # by which the folder is known
        open_folder(folder)
        return
    replace_by_link(folder / name, tmp_path / "secret")
    with refuses((name, "is a link that leads to", "secret"), "cp -rL"):
        open_folder(folder)


def test_a_link_out_of_a_hub_cache_is_refused(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "hub")
    (tmp_path / "secret").write_text("secret")
    replace_by_link((folder / SHARD).parent / "../../../blobs/8", tmp_path / "secret")
    with refuses((SHARD, "is a link that leads to", "secret")):
        open_folder(folder)


def test_a_linked_component_of_another_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    write(tmp_path / "b")
    shutil.rmtree(folder / "unet")
    (folder / "unet").symlink_to(tmp_path / "b/unet")
    with refuses(("a/unet/", "is a link that leads to"), "cp -rL"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", SHARD])
def test_a_hard_link_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a")
    os.link(folder / name, tmp_path / "second")
    with refuses((name, "2 hard links"), "copy the file"):
        open_folder(folder)


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    replace_by_link(folder / "tokenizer/vocab.json", Path("vocab.json"))
    with refuses(("vocab.json", "a link that leads to itself")):
        open_folder(folder)


def write_anew(file: Path) -> None:
    (file.parent / "new").write_text("other")
    os.replace(file.parent / "new", file)


@pytest.mark.parametrize("swap", [write_anew, lambda file: replace_by_link(file, file.parent / "config.json")])
def test_a_file_that_changes_while_the_folder_is_read_is_refused(tmp_path: Path, swap: Callable[[Path], None]) -> None:
    folder = write(tmp_path / "a")
    with (
        refuses(("model-00001-of-00002.safetensors", "changed while it was read")),
        keep_folder(folder, SUFFIXES, (INDEX, CONFIG)),
    ):
        swap(folder / "text_encoder/model-00001-of-00002.safetensors")


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors", "lora.safetensors"])
def test_a_link_to_no_file_is_named(tmp_path: Path, name: str) -> None:
    """As in a hub's cache that lost a part of its content."""
    (tmp_path / name).symlink_to("../../blobs/0")
    read: dict[str, Callable[[Path], object]] = {"config.json": read_json, "lora.safetensors": file_of}
    with refuses((name, "a link to ../../blobs/0, where there is no file"), "download or copy"):
        read[name](tmp_path / name) if name in read else find_weights(tmp_path)


def test_files_that_no_source_reads_may_be_links(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "pictures").symlink_to("/usr")
    (folder / "notes.pdf").symlink_to("/etc/hostname")
    open_folder(folder)
