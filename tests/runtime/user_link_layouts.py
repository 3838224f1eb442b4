"""Layouts of links that users make, with those of a hub's cache in LAYOUTS: see `link_layouts.py`."""

import os
from pathlib import Path

from tests.runtime.link_layouts import HARD, LAYOUTS, LINK, MISSING, READ, Files, layout, link, plain, put

__all__ = ["LAYOUTS"]

# Links that a user made


@layout(READ)
def links_to_both_files_of_a_folder(top: Path, files: Files) -> Path:
    plain(top / "a", files)
    link(top / "b/w.bin", "../a/w.bin")
    return link(top / "b/m.onnx", "../a/m.onnx")


@layout(READ)
def a_link_to_the_folder(top: Path, files: Files) -> Path:
    plain(top / "a", files)
    link(top / "b", "a")
    return top / "b/m.onnx"


@layout(READ)
def a_link_to_the_model_beside_it(top: Path, files: Files) -> Path:
    plain(top / "a", files)
    return link(top / "a/other.onnx", "m.onnx")


@layout(MISSING)
def a_link_to_the_model_without_its_weights(top: Path, files: Files) -> Path:
    plain(top / "a", files)
    return link(top / "b/m.onnx", "../a/m.onnx")


@layout(READ)
def weights_beside_a_linked_model(top: Path, files: Files) -> Path:
    put(top / "a/m.onnx", files.model("w.bin"))
    put(top / "b/w.bin", files.weights)
    return link(top / "b/m.onnx", "../a/m.onnx")


@layout(READ)
def weights_that_are_a_link_inside(top: Path, files: Files) -> Path:
    put(top / "a/real.bin", files.weights)
    link(top / "a/w.bin", "real.bin")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(READ)
def weights_in_a_linked_subfolder_inside(top: Path, files: Files) -> Path:
    put(top / "a/real/w.bin", files.weights)
    link(top / "a/sub", "real")
    return put(top / "a/m.onnx", files.model("sub/w.bin"))


@layout(READ)
def a_chain_of_links_inside(top: Path, files: Files) -> Path:
    put(top / "a/real.bin", files.weights)
    link(top / "a/second", "real.bin")
    link(top / "a/w.bin", "second")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(READ)
def a_link_that_leaves_and_returns(top: Path, files: Files) -> Path:
    put(top / "a/real.bin", files.weights)
    link(top / "out", "a/real.bin")
    link(top / "a/w.bin", "../out")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(READ)
def an_absolute_link_inside(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", put(top / "a/real.bin", files.weights))
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(READ)
def weights_below_the_folder_of_a_linked_model(top: Path, files: Files) -> Path:
    put(top / "a/deep/w", files.weights)
    put(top / "a/m.onnx", files.model("w.bin"))
    link(top / "b/w.bin", "../a/deep/w")
    return link(top / "b/m.onnx", "../a/m.onnx")


@layout(LINK)
def weights_that_are_a_link_outside(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", put(top / "secret", files.weights))
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(LINK)
def weights_in_a_linked_subfolder_outside(top: Path, files: Files) -> Path:
    put(top / "out/w.bin", files.weights)
    link(top / "a/sub", "../out")
    return put(top / "a/m.onnx", files.model("sub/w.bin"))


@layout(LINK)
def a_chain_of_links_outside(top: Path, files: Files) -> Path:
    put(top / "secret", files.weights)
    link(top / "a/second", "../secret")
    link(top / "a/w.bin", "second")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(LINK)
def dots_after_a_linked_folder(top: Path, files: Files) -> Path:
    """The system resolves the link before the dots, so that they lead out."""
    put(top / "out/sub/other", b"")
    put(top / "out/w.bin", files.weights)
    put(top / "a/w.bin", files.weights)
    link(top / "a/sub", "../out/sub")
    return put(top / "a/m.onnx", files.model("sub/../w.bin"))


@layout(LINK)
def weights_of_a_third_folder(top: Path, files: Files) -> Path:
    put(top / "a/m.onnx", files.model("w.bin"))
    put(top / "c/w.bin", files.weights)
    link(top / "b/w.bin", "../c/w.bin")
    return link(top / "b/m.onnx", "../a/m.onnx")


@layout(LINK)
def a_model_in_a_chain_of_links(top: Path, files: Files) -> Path:
    """The folder of a link between the two ends does not count."""
    put(top / "c/m.onnx", files.model("w.bin"))
    put(top / "b/w.bin", files.weights)
    link(top / "b/m.onnx", "../c/m.onnx")
    link(top / "a/w.bin", "../b/w.bin")
    return link(top / "a/m.onnx", "../b/m.onnx")


@layout(MISSING)
def a_link_to_nothing(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", "nothing")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(LINK)
def a_link_to_nothing_outside(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", "../nothing")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout("link")
def a_link_to_itself(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", "w.bin")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout("link")
def two_links_to_each_other(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", "v.bin")
    link(top / "a/v.bin", "w.bin")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(LINK)
def a_device(top: Path, files: Files) -> Path:
    link(top / "a/w.bin", "/dev/zero")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(MISSING)
def a_pipe(top: Path, files: Files) -> Path:
    model = put(top / "a/m.onnx", files.model("w.bin"))
    os.mkfifo(top / "a/w.bin")
    return model


# Hard links


@layout(HARD, ort=True)
def a_hard_link_outside(top: Path, files: Files) -> Path:
    secret = put(top / "secret", files.weights)
    model = put(top / "a/m.onnx", files.model("w.bin"))
    os.link(secret, top / "a/w.bin")
    return model


@layout(HARD, ort=True)
def a_hard_link_inside(top: Path, files: Files) -> Path:
    model = plain(top / "a", files)
    os.link(top / "a/w.bin", top / "a/second")
    return model


@layout(HARD, ort=True)
def a_link_to_a_hard_link(top: Path, files: Files) -> Path:
    secret = put(top / "secret", files.weights)
    put(top / "a/other", b"")
    os.link(secret, top / "a/real.bin")
    link(top / "a/w.bin", "real.bin")
    return put(top / "a/m.onnx", files.model("w.bin"))


@layout(READ)
def a_hard_link_to_the_model(top: Path, files: Files) -> Path:
    """The caller named the model itself."""
    model = plain(top / "a", files)
    os.link(model, top / "a/second.onnx")
    return top / "a/second.onnx"
