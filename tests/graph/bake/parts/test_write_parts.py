"""A program that reads run.json and the graphs of the folder draws bitwise the samples of the executor."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import fewstep.runtime
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.draws import DRAWN, NOISE, draw_input
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.write_parts import write_parts
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.graph.bake.run_baked import run_file
from tests.refusals import refuses

SEEDS, LABELS = (5, 6, 7), np.array([0, 2, 1])
CLASSES = np.array([0, 1, 1])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of three convolutions; its class is 0 or 1."""
    return write_bundle(tmp_path / "convolutions", denoiser())


def run_graph(file: Path, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(file)
    feeds = {port.name: values[port.name] for port in session.get_inputs()}
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, feeds), strict=True))


def run_parts(folder: Path, **given: np.ndarray) -> np.ndarray:
    """Return the samples of SEEDS, computed from the folder alone."""
    about: dict[str, Any] = json.loads((folder / "run.json").read_text())
    values = dict(given)
    for port in about["holds"]["inputs"]:
        if port["meaning"] in DRAWN:
            sample = port["shape"][1 + (port["meaning"] != NOISE) :]
            values[port["name"]] = draw_input(port["meaning"], about["holds"]["draws"], SEEDS, sample)
    values |= run_graph(folder / about["before"], values)
    for kind in about["steps"]:
        state = {row["input"]: values[row["start"]] for row in kind["state"]}
        shared = {name: values[name] for name in kind["shared"]}
        for numbers in kind["rows"]:
            now = {
                port["name"]: np.array(flat, port["dtype"]).reshape(port["shape"])
                for port, flat in zip(kind["row_inputs"], numbers, strict=True)
            }
            made = run_graph(folder / kind["file"], {**shared, **state, **now})
            state = {row["input"]: made[row["output"]] for row in kind["state"]}
        values |= {row["end"]: state[row["input"]] for row in kind["state"]}
    return run_graph(folder / about["after"], values)[about["holds"]["output"]["name"]]


@pytest.mark.parametrize("plan", ["ddim:3", "dpmpp_2m:4", "heun:3", "ddim(eta=1):4"])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_the_samples_are_those_of_the_executor(
    tiny_bundle: Path, tmp_path: Path, plan: str, guidance: float | None
) -> None:
    write_parts(BakeOptions(tiny_bundle, plan, tmp_path / "run", guidance=guidance, batch=len(SEEDS), parts=True))
    with fewstep.runtime.load(tiny_bundle) as sampler:
        expected = sampler.sample(plan, SEEDS, {"class": LABELS}, guidance)
    np.testing.assert_array_equal(run_parts(tmp_path / "run", **{"class": LABELS}), expected)


@pytest.mark.parametrize("plan", ["maskgit:4", "remdm(cap=0.3):6"])
def test_tokens_are_those_of_the_executor(exported_tokens: Path, tmp_path: Path, plan: str) -> None:
    write_parts(BakeOptions(exported_tokens, plan, tmp_path / "run", guidance=2.0, batch=len(SEEDS), parts=True))
    with fewstep.runtime.load(exported_tokens) as sampler:
        expected = sampler.sample(plan, SEEDS, {"class": CLASSES}, 2.0)
    ids = np.full(expected.shape, -1)
    np.testing.assert_array_equal(run_parts(tmp_path / "run", ids=ids, **{"class": CLASSES}), expected)


def test_a_condition_with_a_lower_limit(tiny_bundle: Path, tmp_path: Path) -> None:
    """Zeros would be refused by the part before the steps."""
    (condition,) = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(msgspec.structs.replace(condition, low=1),))
    write_parts(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run", batch=len(SEEDS), parts=True))
    labels = np.array([1, 2, 1])
    with fewstep.runtime.load(tiny_bundle) as sampler:
        expected = sampler.sample("ddim:3", SEEDS, {"class": labels})
    np.testing.assert_array_equal(run_parts(tmp_path / "run", **{"class": labels}), expected)


def test_a_step_has_no_integer_arithmetic(tiny_bundle: Path, tmp_path: Path) -> None:
    """Its only integers are the indices of its rows, which are an input."""
    write_parts(BakeOptions(tiny_bundle, "dpmpp_2m:4", tmp_path / "run", guidance=2.0, parts=True))
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "run/step-0.onnx")).graph
    integers = [value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.INT64]
    assert integers == []


def test_int8_weights_give_the_samples_of_the_file_in_that_form(bundle: Path, tmp_path: Path) -> None:
    options = {"plan": "ddim:3", "guidance": 2.0, "body": "int8-weights"}
    bake(BakeOptions(bundle, output=tmp_path / "run.onnx", **options))
    write_parts(BakeOptions(bundle, output=tmp_path / "run", batch=len(SEEDS), parts=True, **options))
    expected = run_file(tmp_path / "run.onnx", SEEDS, **{"class": CLASSES})
    np.testing.assert_allclose(run_parts(tmp_path / "run", **{"class": CLASSES}), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("network", "least"), [("int8-weights", 35), ("float16", 50)])
def test_a_form_is_close_to_float32(bundle: Path, tmp_path: Path, network: Any, least: float) -> None:
    for form in ("float32", network):
        bake(BakeOptions(bundle, "ddim:3", tmp_path / f"{form}.onnx", body=form))
    exact, found = (run_file(tmp_path / f"{form}.onnx", SEEDS, **{"class": CLASSES}) for form in ("float32", network))
    psnr = 10 * np.log10(4 / np.mean(np.square(found - exact)))
    assert least < psnr < 120


def test_float16_is_the_precision_of_its_file(bundle: Path, tmp_path: Path) -> None:
    made, _ = bake(BakeOptions(bundle, "ddim:3", tmp_path / "run.onnx", body="float16"))
    assert made.precision == "float16"


def test_int8_weights_are_dequantized_once_not_in_each_step(bundle: Path, tmp_path: Path) -> None:
    bake(BakeOptions(bundle, "ddim:3", tmp_path / "run.onnx", body="int8-weights"))
    graph = onnx.load(tmp_path / "run.onnx").graph
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    assert "DequantizeLinear" in {node.op_type for node in graph.node}
    assert "DequantizeLinear" not in {node.op_type for node in body.node}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "run.onnx"}, "is not a folder for parts"),
        ({"unroll": True}, "an unrolled run has no repeated step"),
        ({"adapter": ("lora.safetensors",)}, "parts of a run cannot have an adapter"),
        ({"precision": "int8", "body": "float16"}, "body 'float16' is float16, not int8; omit precision, or give"),
        ({"body": "int4"}, "has no body 'int4'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tiny_bundle: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    change = {**change, "output": tmp_path / change.get("output", "run")}
    with pytest.raises(UserError, match=message):
        write_parts(BakeOptions(tiny_bundle, "ddim:3", parts=True, **change))
    assert not (tmp_path / "run").exists()


def test_a_bundle_is_no_folder_for_parts(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="is not a folder for parts"):
        write_parts(BakeOptions(tiny_bundle, "ddim:3", tiny_bundle, parts=True))
    file = tiny_bundle.with_name("file")
    file.touch()
    with pytest.raises(UserError, match="is not a folder for parts"):
        write_parts(BakeOptions(tiny_bundle, "ddim:3", file, parts=True))


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_no_samples_is_refused(batch: int, tiny_bundle: Path, tmp_path: Path) -> None:
    with refuses(f"--batch is {batch}", "number of samples"):
        write_parts(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run", batch=batch, parts=True))


def test_run_json_has_the_hashes_of_the_other_files(tiny_bundle: Path, tmp_path: Path) -> None:
    _, files = write_parts(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run", parts=True))
    found = json.loads((tmp_path / "run/run.json").read_text())["sha256"]
    others = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.name != "run.json"}
    assert found == others and {"before.onnx", "step-0.onnx", "after.onnx"} <= found.keys()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(("changes", "expected"), [({}, "opened"), ({"step-0.onnx": b"other"}, "is not the file that")])
def test_the_program_of_the_page_refuses_a_changed_file(
    tiny_bundle: Path, tmp_path: Path, changes: dict[str, bytes], expected: str
) -> None:
    """It refuses the file before it opens a session, here one that accepts any bytes."""
    write_parts(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run", parts=True))
    for name, content in changes.items():
        (tmp_path / "run" / name).write_bytes(content)
    script = """
        import { readFile } from "node:fs/promises";
        const { open } = await import(process.argv[1]);
        const ort = { InferenceSession: { create: async () => ({}) } };
        const opened = open(ort, process.argv[2], "wasm", readFile);
        await opened.then(() => console.log("opened"), (error) => console.log(error.message));
    """
    program = (Path(__file__).parents[4] / "docs/web/run_steps.mjs").as_uri()
    command = ["node", "--input-type=module", "-e", script, program, str(tmp_path / "run")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert expected in printed and (not changes or "run/step-0.onnx" in printed)
