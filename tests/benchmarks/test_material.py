"""benchmarks/quantization/material.py: what every tool is given, and the trajectories that it is measured on."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from benchmarks.quantization import material
from benchmarks.quantization.material import calibrated_on, write_material
from fewstep.calibration.calibrate import calibrate
from fewstep.graph import io
from fewstep.graph.graph import Node
from fewstep.plans.errors import UserError
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

OURS = {"onnxruntime": ["h1_product"]}


def calibrated(bundle: Manifest, *options: str) -> Manifest:
    """The manifest of a bundle on which these commands were run."""
    commands = tuple(f"fewstep calibrate BUNDLE --plan ddim:3 {option}" for option in options)
    return msgspec.structs.replace(bundle, provenance=msgspec.structs.replace(bundle.provenance, commands=commands))


def test_everyone_gets_the_trajectories_that_ours_was_calibrated_on(tmp_path: Path) -> None:
    tiny = open_bundle(write_bundle(tmp_path / "bundle", denoiser())).manifest
    old = "--target openvino --trajectories 8 --ranges mse --groups step --seed 1"
    last = "--target cpu-x86,openvino --trajectories 64 --ranges mse --groups step --seed 1000"
    assert calibrated_on(calibrated(tiny, old, last), ["cpu-x86", "openvino"]) == range(1000, 1064)
    with pytest.raises(UserError, match="not calibrated for cpu-x86, openvino by one command"):
        calibrated_on(calibrated(tiny, last, old), ["cpu-x86", "openvino"])
    with pytest.raises(UserError, match="not calibrated for tensorrt"):
        calibrated_on(calibrated(tiny, last), ["tensorrt"])
    for option in ("--quality 44dB", "--inputs progressive"):
        with pytest.raises(UserError, match=f"with {option.split()[0]}"):
            calibrated_on(calibrated(tiny, f"{last} {option}"), ["cpu-x86"])
    own = calibrated(tiny, f"{last} --conditions FILE")
    assert calibrated_on(own, ["cpu-x86"], has_conditions=True) == range(1000, 1064)
    with pytest.raises(UserError, match="with --conditions"):
        calibrated_on(own, ["cpu-x86"])
    with pytest.raises(UserError, match="without --conditions"):
        calibrated_on(calibrated(tiny, last), ["cpu-x86"], has_conditions=True)
    told = msgspec.structs.replace(calibrated(tiny, last), text=SimpleNamespace())
    assert calibrated_on(msgspec.structs.replace(own, text=SimpleNamespace()), ["cpu-x86"], True) == range(1000, 1064)
    with pytest.raises(UserError, match="takes texts; calibrate it with --conditions FILE"):
        calibrated_on(told, ["cpu-x86"])


def test_a_command_that_is_repeated_is_the_last_one(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle", denoiser())
    for trajectories in (6, 4, 6):
        calibrate(replace(FIRST, bundle=path, plan="ddim:2", target=("cpu-x86",), trajectories=trajectories))
    manifest = open_bundle(path).manifest
    assert [command.partition("--trajectories ")[2][:1] for command in manifest.provenance.commands[1:]] == ["4", "6"]
    assert calibrated_on(manifest, ["cpu-x86"]) == range(FIRST.seed, FIRST.seed + 6)


def test_material_is_named_after_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = denoiser()
    biased = graph.with_nodes(
        part
        for node in graph.nodes
        for part in (
            (replace(node, outputs=("h1_product",)), Node("Add", ("h1_product", "b1"), ("h1",)))
            if node.output == "h1"
            else (node,)
        )
    )
    biased = replace(biased, constants=graph.constants | {"b1": np.full((1, 16, 1, 1), 0.5, np.float32)})
    sampler = load(write_bundle(tmp_path / "bundle", biased))
    plan, seeds = sampler.compile("ddim:2", 2.0), range(1000, 1004)
    found = write_material(sampler, plan, seeds, tmp_path / "work", OURS)
    given = io.load(found.folder / "float.onnx")
    (joined,) = [node for node in given.nodes if len(node.inputs) == 3]
    assert (joined.name, joined.output) == ("h1_product", "h1")
    np.testing.assert_array_equal(given.constants[joined.inputs[2]], np.full(16, 0.5, np.float32))
    assert [node.op for node in found.graph.nodes].count("Add") == 1 and "Add" not in given.ops()
    operations = json.loads((found.folder / "operations.json").read_text())
    assert operations["ours"] == OURS and operations["all"] == [node.name for node in given.nodes]
    (first, second) = sorted((found.folder / "feeds").glob("*.npz"))
    assert {len(value) for path in (first, second) for value in np.load(path).values()} == {8}  # guided: two rows each

    assert write_material(sampler, plan, seeds, tmp_path / "work", OURS).folder == found.folder
    assert write_material(sampler, plan, range(1000, 1005), tmp_path / "work", OURS).folder != found.folder
    monkeypatch.setattr(material, "chosen_operations", lambda *given: operations | {"outer": []})
    assert write_material(sampler, plan, seeds, tmp_path / "work", OURS).folder != found.folder


def test_conditions_that_nothing_draws_are_in_the_feeds(tmp_path: Path) -> None:
    sampler = load(write_bundle(tmp_path / "bundle", denoiser()))
    plan, seeds = sampler.compile("ddim:2", None), range(1000, 1004)
    folders = {}
    for labels in ([0, 1, 1, 0], [1, 1, 1, 0]):
        own = {"class": np.array(labels)}
        found = write_material(sampler, plan, seeds, tmp_path / "work", OURS, conditions=own)
        row = np.load(min((found.folder / "feeds").glob("*.npz")))["row"].ravel()
        np.testing.assert_allclose(row - row.min(), np.array(labels), atol=1e-5)
        folders[found.folder] = labels
    assert len(folders) == 2
