"""The manifest of a new bundle: the recorded command, and further entries of an older bundle in its place."""

import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from fewstep.export.export_options import ExportOptions
from fewstep.export.manifest import (
    describe_additions,
    describe_existing_additions,
    export_command,
    suggest_later_commands,
)
from fewstep.runtime.bundle.reading import open_bundle


def test_the_command_is_quoted_once_for_a_shell() -> None:
    options = ExportOptions(
        "a b/my net.py:make", "out", lora_slots=("*", "attn*.to_q"), change=("freeu:1.2,1.4,0.9,0.2",)
    )
    command = export_command(options, "my net.py:make", [])
    assert shlex.split(command) == [
        *("fewstep", "export", "my net.py:make", "-o", "BUNDLE"),
        *("--lora-slots", "*,attn*.to_q", "--change", "freeu:1.2,1.4,0.9,0.2"),
    ]


def test_additions_are_the_bodies_that_export_does_not_make(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    assert set(manifest.bodies) == {"float32", "int8-cpu-x86"}
    assert describe_additions(manifest) == "int8-cpu-x86"


def test_a_folder_without_a_bundle_has_no_additions(tmp_path: Path) -> None:
    assert describe_existing_additions(tmp_path) == ""


def test_files_are_named_without_their_folders() -> None:
    options = ExportOptions(
        "net.py:make", "out", call=("image_embeds=@/private/embeds.npy",), null=("text=@/private/null.npy",)
    )
    words = shlex.split(export_command(options, "net.py:make", []))
    assert words[5:] == ["--call", "image_embeds=@embeds.npy", "--null", "text=@null.npy"]


def test_a_text_keeps_its_slashes() -> None:
    options = ExportOptions("net.py:make", "out", call=("prompt=a cat/dog, a@b/c", "image=@/pictures/cat.npy"))
    words = shlex.split(export_command(options, "net.py:make", []))
    assert words[5:] == ["--call", "prompt=a cat/dog, a@b/c", "--call", "image=@cat.npy"]


def suggest(bundle: Path, folder: str, *commands: str) -> str:
    manifest = open_bundle(bundle).manifest
    return suggest_later_commands(
        replace(manifest, provenance=replace(manifest.provenance, commands=commands)), Path(folder)
    )


def test_what_an_export_removes_is_given_with_the_commands_that_make_it(tiny_bundle: Path) -> None:
    commands = ("fewstep export n.py:make -o BUNDLE", "fewstep calibrate BUNDLE --plan ddim:3", "fewstep fit BUNDLE")
    said = "; to make them again: fewstep calibrate 'my models/a' --plan ddim:3 && fewstep fit 'my models/a'"
    assert suggest(tiny_bundle, "my models/a", *commands) == said
    assert suggest(tiny_bundle, "a", commands[0]) == ""


def test_only_the_bundle_of_a_command_is_replaced(tiny_bundle: Path) -> None:
    command = "fewstep calibrate BUNDLE --conditions of-BUNDLE.npz"
    assert suggest(tiny_bundle, "a", command).endswith("fewstep calibrate a --conditions of-BUNDLE.npz")


def test_a_bundle_is_not_packed_into_itself(tiny_bundle: Path) -> None:
    commands = ("fewstep calibrate BUNDLE", "fewstep pack BUNDLE -o BUNDLE --body float32")
    assert suggest(tiny_bundle, "a", *commands) == "; to make them again: fewstep calibrate a"


@pytest.mark.parametrize("command", ["rm -rf a", "fewstep", "fewstep calibrate BUNDLE 'open"])
def test_a_command_that_no_verb_recorded_is_not_suggested(tiny_bundle: Path, command: str) -> None:
    assert suggest(tiny_bundle, "a", command) == ""


def test_a_recorded_command_cannot_begin_another_one(tiny_bundle: Path) -> None:
    assert suggest(tiny_bundle, "a", "fewstep fit BUNDLE; rm -rf b").endswith("fewstep fit a rm -rf b")
    assert suggest(tiny_bundle, "a", "fewstep fit BUNDLE --steps 4;rm").endswith("fewstep fit a --steps '4;rm'")


def test_a_calibration_whose_targets_were_calibrated_again_is_not_repeated(tiny_bundle: Path) -> None:
    first, both, last = (
        f"fewstep calibrate BUNDLE --plan ddim:3 --target {targets}"
        for targets in ("cpu-x86", "cpu-x86,qnn", "cpu-x86")
    )
    said = suggest(tiny_bundle, "a", first, both, f"{last} --clip 2.5")
    assert said == (
        "; to make them again: fewstep calibrate a --plan ddim:3 --target cpu-x86,qnn"
        " && fewstep calibrate a --plan ddim:3 --target cpu-x86 --clip 2.5"
    )
