"""Layouts of a model's files with links, each with the right answer, written before any reader was tried on them.

A layout gets an empty folder and two contents, and returns the path of the model. `model` names its weights `w.bin`,
unless the layout writes another model. Layouts that users make are in `user_link_layouts.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

READ, LINK, HARD = "read", "is a link that leads to", "hard links"
OUTSIDE, ABSOLUTE = "outside its folder", "the absolute path"
MISSING = "is missing"
XET = "ab" * 32


@dataclass(frozen=True)
class Files:
    """The contents of a model whose weights are in the file `location`, and of those weights."""

    model: Callable[[str], bytes]
    weights: bytes


@dataclass(frozen=True)
class Layout:
    """`right` is READ, or words of the refusal. `ort`: whether ONNX Runtime 1.26 and later read it too."""

    make: Callable[[Path, Files], Path]
    right: str
    ort: bool

    @property
    def name(self) -> str:
        return self.make.__name__


LAYOUTS: list[Layout] = []


def layout(right: str, ort: bool | None = None) -> Callable[[Callable[[Path, Files], Path]], None]:
    def add(make: Callable[[Path, Files], Path]) -> None:
        LAYOUTS.append(Layout(make, right, right == READ if ort is None else ort))

    return add


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def plain(folder: Path, files: Files, location: str = "w.bin") -> Path:
    put(folder / location, files.weights)
    return put(folder / "m.onnx", files.model(location))


def hub(cache: Path, files: Files, below: str = "", shared: bool = False, kind: str = "models") -> Path:
    """A snapshot as huggingface_hub writes it."""
    repository = cache / f"{kind}--org--name"
    snapshot = repository / "snapshots" / ("c" * 40) / below
    up = "../" * (2 + len(Path(below).parts))
    put(repository / "blobs/111", files.model("w.bin"))
    if shared:
        put(cache / "blobs/.huggingface-shared-blobs", b"1\n")
        put(cache / "blobs/ab" / XET, files.weights)
        link(repository / "blobs/222", f"../../blobs/ab/{XET}")
    else:
        put(repository / "blobs/222", files.weights)
    link(snapshot / "w.bin", f"{up}blobs/222")
    return link(snapshot / "m.onnx", f"{up}blobs/111")


# Without links


@layout(READ)
def one_folder(top: Path, files: Files) -> Path:
    return plain(top / "a", files)


@layout(READ)
def weights_in_a_subfolder(top: Path, files: Files) -> Path:
    return plain(top / "a", files, "sub/w.bin")


@layout(READ)
def dots_that_stay_inside(top: Path, files: Files) -> Path:
    put(top / "a/sub/other", b"")
    put(top / "a/w.bin", files.weights)
    return put(top / "a/m.onnx", files.model("sub/../w.bin"))


@layout(READ)
def two_dots_in_a_name(top: Path, files: Files) -> Path:
    return plain(top / "a", files, "w..bin")


@layout(OUTSIDE)
def dots_that_lead_outside(top: Path, files: Files) -> Path:
    put(top / "w.bin", files.weights)
    return put(top / "a/m.onnx", files.model("../w.bin"))


@layout(OUTSIDE)
def dots_through_a_subfolder(top: Path, files: Files) -> Path:
    put(top / "a/sub/other", b"")
    put(top / "w.bin", files.weights)
    return put(top / "a/m.onnx", files.model("sub/../../w.bin"))


@layout(ABSOLUTE)
def an_absolute_path_outside(top: Path, files: Files) -> Path:
    return put(top / "a/m.onnx", files.model(str(put(top / "w.bin", files.weights))))


@layout(ABSOLUTE)
def an_absolute_path_inside(top: Path, files: Files) -> Path:
    return put(top / "a/m.onnx", files.model(str(put(top / "a/w.bin", files.weights))))


@layout(OUTSIDE)
def a_sibling_folder_with_the_same_beginning(top: Path, files: Files) -> Path:
    put(top / "ab/w.bin", files.weights)
    return put(top / "a/m.onnx", files.model("../ab/w.bin"))


@layout(MISSING)
def no_weights(top: Path, files: Files) -> Path:
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(MISSING)
def a_folder_instead_of_weights(top: Path, files: Files) -> Path:
    (top / "a/w.bin").mkdir(parents=True)
    return put(top / "a/m.onnx", files.model("w.bin"))


# A hub's cache


@layout(READ)
def hub_cache(top: Path, files: Files) -> Path:
    return hub(top, files)


@layout(READ)
def hub_cache_in_a_subfolder(top: Path, files: Files) -> Path:
    return hub(top, files, "onnx")


@layout(READ)
def hub_cache_two_folders_deep(top: Path, files: Files) -> Path:
    return hub(top, files, "onnx/cpu")


@layout(READ)
def hub_cache_of_a_data_set(top: Path, files: Files) -> Path:
    return hub(top, files, kind="datasets")


@layout(READ, ort=False)
def hub_cache_with_shared_blobs(top: Path, files: Files) -> Path:
    return hub(top, files, shared=True)


@layout(READ, ort=False)
def hub_cache_with_shared_blobs_in_a_subfolder(top: Path, files: Files) -> Path:
    return hub(top, files, "onnx", shared=True)


@layout(LINK)
def shared_blobs_without_their_mark(top: Path, files: Files) -> Path:
    model = hub(top, files, shared=True)
    (top / "blobs/.huggingface-shared-blobs").unlink()
    return model


@layout(READ)
def hub_cache_on_another_disk(top: Path, files: Files) -> Path:
    model = hub(top / "disk", files)
    link(top / "home/hub", top / "disk")
    return top / "home/hub" / model.relative_to(top / "disk")


@layout(READ)
def a_link_to_a_snapshot(top: Path, files: Files) -> Path:
    link(top / "mine", hub(top, files).parent)
    return top / "mine/m.onnx"


@layout(READ, ort=False)
def a_link_to_a_snapshot_with_shared_blobs(top: Path, files: Files) -> Path:
    link(top / "mine", hub(top, files, shared=True).parent)
    return top / "mine/m.onnx"


@layout(READ)
def hub_cache_with_copies(top: Path, files: Files) -> Path:
    return plain(top / "models--org--name/snapshots/cc", files)


@layout(READ, ort=False)
def hub_cache_with_a_copied_model(top: Path, files: Files) -> Path:
    """As when only large files are links."""
    model = hub(top, files)
    model.unlink()
    return put(model, files.model("w.bin"))


@layout(READ)
def hub_cache_with_copied_weights(top: Path, files: Files) -> Path:
    model = hub(top, files)
    model.with_name("w.bin").unlink()
    put(model.with_name("w.bin"), files.weights)
    return model


@layout(LINK)
def hub_cache_whose_weights_are_of_another_model(top: Path, files: Files) -> Path:
    model = hub(top, files)
    put(top / "models--other--name/blobs/333", files.weights)
    model.with_name("w.bin").unlink()
    link(model.with_name("w.bin"), "../../../models--other--name/blobs/333")
    return model


@layout(LINK)
def hub_cache_that_leads_elsewhere(top: Path, files: Files) -> Path:
    model = hub(top / "cache", files)
    model.with_name("w.bin").unlink()
    link(model.with_name("w.bin"), put(top / "secret", files.weights))
    return model


@layout(LINK)
def a_blob_that_leads_elsewhere(top: Path, files: Files) -> Path:
    model = hub(top / "cache", files)
    blob = top / "cache/models--org--name/blobs/222"
    blob.unlink()
    link(blob, put(top / "secret", files.weights))
    return model


@layout(LINK)
def blobs_that_are_a_link(top: Path, files: Files) -> Path:
    """As a folder that was made to look like a cache could have them: the link would lead to any place."""
    model = hub(top / "cache", files)
    repository = top / "cache/models--org--name"
    (repository / "blobs").rename(top / "private")
    link(repository / "blobs", top / "private")
    model.unlink()
    return put(model, files.model("w.bin"))


@layout(LINK)
def shared_blobs_that_are_a_link(top: Path, files: Files) -> Path:
    model = hub(top / "cache", files, shared=True)
    (top / "cache/blobs").rename(top / "private")
    link(top / "cache/blobs", top / "private")
    return model


@layout(MISSING)
def a_blob_that_was_deleted(top: Path, files: Files) -> Path:
    model = hub(top, files)
    (top / "models--org--name/blobs/222").unlink()
    return model


@layout(LINK)
def a_folder_that_only_looks_like_a_snapshot(top: Path, files: Files) -> Path:
    put(top / "blobs/222", files.weights)
    link(top / "snapshots/cc/w.bin", "../../blobs/222")
    return put(top / "snapshots/cc/m.onnx", files.model("w.bin"))


@layout(LINK)
def blobs_of_the_folder_above_the_cache(top: Path, files: Files) -> Path:
    """The shared store is in the folder that holds the model's folder, never higher."""
    put(top / "blobs/.huggingface-shared-blobs", b"1\n")
    put(top / "blobs/ab" / XET, files.weights)
    model = put(top / "cache/models--org--name/snapshots/cc/m.onnx", files.model("w.bin"))
    link(model.with_name("w.bin"), f"../../../../blobs/ab/{XET}")
    return model
