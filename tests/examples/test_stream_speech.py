"""The example that streams a text: the held overlap makes the seams of its pieces near to the unstreamed sample."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

pytest.importorskip("torch", reason="torch, which exports the network, is not installed")

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.examples.conftest import Example
from tests.export.networks import text_to_sound_network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "bundle"
    export(ExportOptions(f"{text_to_sound_network.__file__}:make", folder, verify="quick"))
    return folder


def test_a_held_overlap_brings_the_seams_near_to_the_whole_sample(
    bundle: Path, tmp_path: Path, example: Example
) -> None:
    text = np.random.default_rng(0).uniform(-1, 1, (1, 6, 64)).astype(np.float32)
    np.savez(tmp_path / "text.npz", text=text)
    errors = {}
    for overlap in (0, 16):
        _, said = example("stream_speech.py", bundle, tmp_path / "text.npz", tmp_path / "x.npy", overlap)
        assert np.load(tmp_path / "x.npy").shape == (1, 4, 64)
        errors[overlap] = float(re.findall(r"error ([\d.]+) % at", said)[0])
        assert re.findall(r"(\d+) frames after", said) == (["28", "12", "12", "12"] if overlap else ["28", "28", "8"])
    assert errors[16] < 0.5 * errors[0], errors


def test_a_text_longer_than_the_range_is_written_without_a_comparison(
    bundle: Path, tmp_path: Path, example: Example
) -> None:
    np.savez(tmp_path / "text.npz", text=np.zeros((1, 6, 90), np.float32))
    _, said = example("stream_speech.py", bundle, tmp_path / "text.npz", tmp_path / "x.npy", 16, "euler:1", 40)
    assert said.count("frames after") == 4 and np.load(tmp_path / "x.npy").shape == (1, 4, 90)
    assert said.splitlines()[-1] == "not compared: one sample has frames 8 to 64, and this text 90"


def test_pieces_have_at_least_the_least_length_of_the_bundle(tmp_path: Path, example: Example, bundle: Path) -> None:
    least = shutil.copytree(bundle, tmp_path / "least")
    manifest = open_bundle(least).manifest
    (frames,), (text,), float32 = manifest.sizes, manifest.conditions, manifest.bodies["float32"]
    assert manifest.prologue is not None
    graph, prologue = (structs.replace(entry, probe=()) for entry in (float32.graph, manifest.prologue))  # of 24 frames
    sized = {"sizes": (structs.replace(frames, low=40),), "conditions": (structs.replace(text, shape=(6, 40)),)}
    bodies = {"float32": structs.replace(float32, graphs=(graph,))}
    change_bundle(least, x_shape=(4, 40), bodies=bodies, prologue=prologue, **sized)
    np.savez(tmp_path / "text.npz", text=np.zeros((1, 6, 64), np.float32))
    _, said = example("stream_speech.py", least, tmp_path / "text.npz", tmp_path / "x.npy", 16, "euler:1")
    assert said.startswith("36 frames after")


def test_what_does_not_fit_is_one_line(bundle: Path, tiny_bundle: Path, tmp_path: Path, example: Example) -> None:
    np.savez(tmp_path / "text.npz", text=np.zeros((1, 6, 64), np.float32))
    np.savez(tmp_path / "other.npz", words=np.zeros((1, 6, 64), np.float32))
    for given, said in (
        ((bundle, tmp_path / "absent.npz", tmp_path / "x.npy"), "stream_speech: .*absent.npz"),
        ((bundle, tmp_path / "other.npz", tmp_path / "x.npy"), "other.npz has no text; write it there"),
        ((bundle, tmp_path / "text.npz", tmp_path / "x.npy", 32), "OVERLAP is 32; give 0 to 27 of the 32 frames"),
        ((bundle, tmp_path / "text.npz", tmp_path / "x.npy", 0, "euler:1", 65), "FRAMES is 65; give frames 8 to 64"),
        ((bundle, tmp_path / "text.npz", tmp_path / "x.npy", 0, "euler:1", "a"), "FRAMES is a; give frames 8 to 64"),
        ((tiny_bundle, tmp_path / "text.npz", tmp_path / "x.npy"), "has no text of the length of x"),
    ):
        with pytest.raises(SystemExit, match=said):
            example("stream_speech.py", *given)
