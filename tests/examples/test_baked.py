"""The shipped int8 model, baked, in C++, Node and a browser: its samples equal Python's.

`.ci/baked` fetches the packages and sets the variables that say where they are. Without them a test is skipped.
"""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.models.ready import fashion_mnist
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import file_sha256
from tests.export.networks import boolean_mask, labelled_denoiser, text_to_sound_network, token_denoiser
from tests.graph.bake.run_baked import run_file

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "docs/examples/baked"
PAGE_RUN, STEPS_RUN = (Path(__file__).with_name(f"{name}_in_chromium.mjs") for name in ("page", "steps"))
PLAN, GUIDANCE, LABEL, SEEDS = "dpmpp_2m:8", 2.0, 3, (0, 1, 2, 2**40)
TOKENS_LABEL, SOUND_PLAN = 1, "ddim:4@trailing"
TOLERANCE = 1e-5  # in C++ and Node, whose engine may be of another version; bitwise with one of the same
WEBGPU_TOLERANCE = 1e-4  # of a sample between -1 and 1, after 8 steps in float32
LEAST_PSNR_INT8_WEIGHTS = 50.0  # dB to float32; measured: 61
LEAST_PSNR_FLOAT16 = 50.0  # dB to float32, on WebGPU; measured: 58
LEAST_PSNR = 40.0  # dB, in a browser: kernels of WebAssembly round otherwise, and int8 codes follow


def require(variable: str, what: str) -> Path:
    """Return the folder or program that a variable names."""
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name {what}")
    return Path(os.environ[variable])


@pytest.fixture(scope="module")
def baked_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("baked") / "sampler.onnx"
    bake(BakeOptions(fashion_mnist(), PLAN, file, "int8", guidance=GUIDANCE))
    return file


@pytest.fixture(scope="module")
def reference_samples() -> np.ndarray:
    with load(fashion_mnist(), "int8") as sampler:
        return sampler.sample(PLAN, SEEDS, {"class": [LABEL] * len(SEEDS)}, GUIDANCE)


def run(command: list[str | Path], expected: np.ndarray, output: Path, **how: object) -> np.ndarray:
    subprocess.run([*map(str, command), *map(str, SEEDS)], check=True, **how)  # type: ignore[call-overload]
    return np.fromfile(output, np.float32).reshape(expected.shape)


def check_vector(command: list[str | Path], **how: Any) -> str:
    """Check a program's result for the file's test vector."""
    return str(subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, **how).stdout)


def test_python_alone(baked_file: Path, reference_samples: np.ndarray) -> None:
    found = run_file(baked_file, SEEDS, **{"class": [LABEL] * len(SEEDS)})
    np.testing.assert_array_equal(found, reference_samples)


def compile_program(name: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """A program of the examples, and the environment that it runs in."""
    archive = require("ONNXRUNTIME", "an unpacked release archive of onnxruntime for C++")
    program, source = folder / name, EXAMPLES / f"{name}.cpp"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", f"-I{archive}/include", f"-L{archive}/lib", "-lonnxruntime"]
    subprocess.run([os.environ.get("CXX", "c++"), source, "-o", program, *flags], check=True)
    return program, {**os.environ, "LD_LIBRARY_PATH": f"{archive}/lib"}


def test_cpp(baked_file: Path, reference_samples: np.ndarray, tmp_path: Path) -> None:
    program, paths = compile_program("sample", tmp_path)
    output = tmp_path / "samples.f32"
    found = run([program, baked_file, output, f"class={LABEL}"], reference_samples, output, env=paths)
    np.testing.assert_allclose(found, reference_samples, rtol=0, atol=TOLERANCE)
    assert "the same: " in check_vector([program, "--check", baked_file], env=paths)


def test_a_loop_in_cpp(reference_samples: np.ndarray, tmp_path: Path) -> None:
    program, paths = compile_program("steps", tmp_path)
    output, folder = tmp_path / "samples.f32", tmp_path / "parts"
    named = ["--body", "int8-cpu-x86", "--guidance", str(GUIDANCE), "--batch", str(len(SEEDS))]
    subprocess.run([sys.executable, EXAMPLES / "steps.py", fashion_mnist(), folder, *named], check=True)
    found = run([program, folder, output, f"class={LABEL}"], reference_samples, output, env=paths)
    np.testing.assert_allclose(found, reference_samples, rtol=0, atol=TOLERANCE)


def test_node(baked_file: Path, reference_samples: np.ndarray, tmp_path: Path) -> None:
    packages = require("NODE_PACKAGES", "a folder in which npm installed onnxruntime-node")
    output = tmp_path / "samples.f32"
    found = run(
        ["node", EXAMPLES / "sample.mjs", baked_file, output, f"class={LABEL}"], reference_samples, output, cwd=packages
    )
    np.testing.assert_allclose(found, reference_samples, rtol=0, atol=TOLERANCE)
    assert "whole, and its sample is " in check_vector(
        ["node", EXAMPLES / "sample.mjs", "--check", baked_file], cwd=packages
    )


@pytest.fixture(scope="module")
def label_case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A baked file of a denoiser with the conditions `label` and `strength`, and its samples for 3 and 0.25."""
    folder = tmp_path_factory.mktemp("labelled")
    export(ExportOptions(f"{labelled_denoiser.__file__}:make", folder / "bundle", verify="quick"))
    bake(BakeOptions(folder / "bundle", "ddim:4", folder / "sampler.onnx"))
    with load(folder / "bundle") as sampler:
        given = {"label": [3] * len(SEEDS), "strength": [0.25] * len(SEEDS)}
        return folder / "sampler.onnx", sampler.sample("ddim:4", SEEDS, given)


def test_conditions_of_other_names_in_cpp(label_case: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    program, paths = compile_program("sample", tmp_path)
    check_labelled([program], label_case, tmp_path / "x.f32", env=paths)


def test_conditions_of_other_names_in_a_loop(label_case: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    program, paths = compile_program("steps", tmp_path)
    file, expected = label_case
    command = [sys.executable, EXAMPLES / "steps.py", file.parent / "bundle", tmp_path / "parts"]
    subprocess.run([*command, "--plan", "ddim:4", "--batch", str(len(SEEDS))], check=True)
    check_labelled([program], (tmp_path / "parts", expected), tmp_path / "x.f32", env=paths)


def test_conditions_of_other_names_in_node(label_case: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    packages = require("NODE_PACKAGES", "a folder in which npm installed onnxruntime-node")
    check_labelled(["node", EXAMPLES / "sample.mjs"], label_case, tmp_path / "x.f32", cwd=packages)


def check_labelled(program: list[str | Path], labelled: tuple[Path, np.ndarray], output: Path, **how: Any) -> None:
    """The samples equal Python's, and a condition that is missing, unknown or not a number gives one line."""
    file, expected = labelled
    found = run([*program, file, output, "strength=0.25", "label=3"], expected, output, **how)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    for given, said in {
        ("label=3",): "it takes strength: give strength=VALUE",
        ("label=3", "strength=1", "class=3"): "it takes no class: it takes label",
        ("label=2.5", "strength=1"): "label is ",
    }.items():
        done = subprocess.run([*map(str, [*program, file, output, *given, 0])], capture_output=True, text=True, **how)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith(f"{file}: {said}")) == (1, True), done.stderr
    done = subprocess.run([*map(str, [*program, file, output, "label=3", "x"])], capture_output=True, text=True, **how)
    assert done.returncode == 2 and done.stderr.startswith(("usage: ", "sample.mjs: x is neither a seed"))
    beyond = [*program, file, output, "label=-1", "strength=1", 0]
    done = subprocess.run([*map(str, beyond)], capture_output=True, text=True, **how)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "label" in line
    large = [*program, file, output, "label=3", "strength=1", 2**64]  # it would be another seed
    done = subprocess.run([*map(str, large)], capture_output=True, text=True, **how)
    assert done.returncode == 2 and done.stderr.startswith(("usage: ", f"sample.mjs: the seed {2**64} is larger"))


@pytest.fixture(scope="module")
def boolean_case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A baked file of a denoiser with a mask of type bool, and its samples where the mask is set everywhere."""
    folder = tmp_path_factory.mktemp("boolean")
    export(ExportOptions(f"{boolean_mask.__file__}:make", folder / "bundle", verify="quick"))
    bake(BakeOptions(folder / "bundle", "ddim:4", folder / "sampler.onnx"))
    with load(folder / "bundle") as sampler:
        given = {"mask": np.ones((len(SEEDS), 1, 8, 8), bool)}
        return folder / "sampler.onnx", sampler.sample("ddim:4", SEEDS, given)


def test_a_boolean_condition_in_cpp(boolean_case: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    program, paths = compile_program("sample", tmp_path)
    check_boolean([program], boolean_case, tmp_path / "x.f32", env=paths)


def test_a_boolean_condition_in_node(boolean_case: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    packages = require("NODE_PACKAGES", "a folder in which npm installed onnxruntime-node")
    program = ["node", EXAMPLES / "sample.mjs"]
    check_boolean(program, boolean_case, tmp_path / "x.f32", cwd=packages)
    assert "whole, and its sample is " in check_vector([*program, "--check", boolean_case[0]], cwd=packages)


def check_boolean(program: list[str | Path], case: tuple[Path, np.ndarray], output: Path, **how: Any) -> None:
    """The samples equal Python's, and a value between 0 and 1 gives one line."""
    file, expected = case
    for value in ("1", "True"):
        found = run([*program, file, output, f"mask={value}"], expected, output, **how)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    done = subprocess.run([*map(str, [*program, file, output, "mask=0.5", 0])], capture_output=True, text=True, **how)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"{file}: mask is bool")
    for byte in (1, 2):
        mask = output.with_suffix(f".{byte}")
        mask.write_bytes(bytes([byte] * 64))
        command = [*program, file, output, f"mask=@{mask}", *SEEDS]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, **how)
        assert done.returncode == byte - 1 and ("0 " in done.stderr and str(mask) in done.stderr) == (byte == 2)


@pytest.fixture(scope="module")
def sound_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of free length whose text has the same length, and its baked files."""
    folder = tmp_path_factory.mktemp("sound")
    export(ExportOptions(f"{text_to_sound_network.__file__}:make", folder / "bundle", verify="quick"))
    calibrate(CalibrateOptions(folder / "bundle", SOUND_PLAN, trajectories=4, target=("cpu-x86",)))
    for precision in ("float32", "int8"):
        bake(BakeOptions(folder / "bundle", SOUND_PLAN, folder / f"{precision}.onnx", precision, guidance=GUIDANCE))
    return folder


def test_a_text_of_another_length_in_cpp(sound_case: Path, tmp_path: Path) -> None:
    program, paths = compile_program("sample", tmp_path)
    check_sound([program], sound_case, tmp_path, env=paths)


def test_a_text_of_another_length_in_node(sound_case: Path, tmp_path: Path) -> None:
    packages = require("NODE_PACKAGES", "a folder in which npm installed onnxruntime-node")
    check_sound(["node", EXAMPLES / "sample.mjs"], sound_case, tmp_path, cwd=packages)


def check_sound(program: list[str | Path], folder: Path, work: Path, **how: Any) -> None:
    """Samples of a file of numbers at a length that is not the default equal Python's; what does not fit is one
    line."""
    texts, output = np.random.default_rng(0).uniform(-1, 1, (len(SEEDS), 6, 40)).astype(np.float32), work / "x.f32"
    for name, values in (("each", texts), ("one", texts[:1])):
        values.tofile(work / f"{name}.f32")
        values = np.broadcast_to(values, texts.shape)
        for precision in ("float32", "int8"):
            sampler = load(folder / "bundle", precision).with_options(frames=40)
            expected = sampler.sample(SOUND_PLAN, SEEDS, {"text": values}, GUIDANCE)
            command = [*program, folder / f"{precision}.onnx", output, f"text=@{work / name}.f32", "frames=40"]
            np.testing.assert_allclose(run(command, expected, output, **how), expected, rtol=0, atol=TOLERANCE)
    file = folder / "float32.onnx"
    assert "sample is bitwise that" in (said := check_vector([*program, "--check", file], **how)) or "the same" in said
    (work / "wrong.f32").write_bytes(np.full((6, 40), np.nan, np.float32).tobytes())
    for given, said in {
        ("text=0", "frames=65"): "frames",
        ("text=0", "frames=7"): "frames",
        ("text=0", "frame=40"): "it takes no frame: it takes text",
        (f"text=@{work}/one.f32",): "text ",  # at the default length
        (f"text=@{work}/absent.f32", "frames=40"): "",
        (f"text=@{work}/wrong.f32", "frames=40"): "",
    }.items():
        done = subprocess.run([*map(str, [*program, file, output, *given, 0])], capture_output=True, text=True, **how)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith(f"{file}: {said}")) == (1, True), done.stderr


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A baked file of a token denoiser in int8 with guidance, and its tokens of the seeds."""
    folder = tmp_path_factory.mktemp("baked_tokens")
    export(ExportOptions(f"{token_denoiser.__file__}:make", folder / "bundle", verify="quick"))
    calibrate(CalibrateOptions(folder / "bundle", trajectories=4, target=("cpu-x86",)))
    bake(BakeOptions(folder / "bundle", "remdm(cap=0.3):6", folder / "tokens.onnx", "int8", guidance=GUIDANCE))
    condition = {"class": [TOKENS_LABEL] * len(SEEDS)}
    return folder / "tokens.onnx", load(folder / "bundle", "int8").sample(
        "remdm(cap=0.3):6", SEEDS, condition, GUIDANCE
    )


def test_tokens_in_cpp(tokens: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    program, paths = compile_program("sample", tmp_path)
    check_tokens([program], tokens, tmp_path / "x.i64", env=paths)


def test_tokens_in_node(tokens: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    packages = require("NODE_PACKAGES", "a folder in which npm installed onnxruntime-node")
    check_tokens(["node", EXAMPLES / "sample.mjs"], tokens, tmp_path / "x.i64", cwd=packages)


def check_tokens(program: list[str | Path], tokens: tuple[Path, np.ndarray], output: Path, **how: Any) -> None:
    file, expected = tokens
    subprocess.run([*map(str, [*program, file, output, f"class={TOKENS_LABEL}"]), *map(str, SEEDS)], check=True, **how)
    np.testing.assert_array_equal(np.fromfile(output, np.int64).reshape(expected.shape), expected)
    said = check_vector([*program, "--check", file], **how)
    assert "the same: 24 of 24 tokens are equal" in said or "bitwise that of where it was baked" in said


@pytest.fixture(scope="module")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the web page, with its networks."""
    packages = require("NODE_PACKAGES", "a folder in which npm installed onnxruntime-web and playwright-core")
    bundle = require("BUNDLE_NO_VNNI", "a bundle of the shipped model that has the body int8-cpu-x86-no-vnni")
    folder = tmp_path_factory.mktemp("page") / "web"
    subprocess.run([sys.executable, EXAMPLES / "web.py", bundle, packages / "node_modules", folder], check=True)
    return folder


@pytest.fixture
def page(web_folder: Path) -> Iterator[str]:
    """The address of the page."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(web_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no chromium")
    return found


def test_a_browser(page: str, chromium: str, tmp_path: Path) -> None:
    screenshot = Path(os.environ.get("SCREENSHOT", tmp_path / "page.png"))
    command = ["node", PAGE_RUN, page, chromium, screenshot]
    done = subprocess.run(command, check=True, cwd=os.environ["NODE_PACKAGES"], capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["errors"] == []
    assert said["status"].startswith("16 samples in")
    assert int(said["differing"]) == 0 or float(said["psnr"]) >= LEAST_PSNR
    assert screenshot.stat().st_size > 10_000


def sample_in(chromium: str, page: str, network: str, value: int, *engines: str) -> dict[str, Any]:
    """Return the sample of seed 0 by the page's worker, for each engine: its values, or the reason of a failure."""
    command = ["node", STEPS_RUN, page, chromium, network, 0, value, *engines]
    done = subprocess.run([*map(str, command)], check=True, cwd=os.environ["NODE_PACKAGES"], capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("network", ["float32", "int8-weights"])
def test_steps_on_webgpu(page: str, web_folder: Path, chromium: str, network: str) -> None:
    """The page refuses a step with a node on the CPU."""
    facts = json.loads((web_folder / "expected.json").read_text())
    found = sample_in(chromium, page, network, facts["values"][0], "wasm", "webgpu")
    assert "values" in found["webgpu"], found
    np.testing.assert_allclose(found["webgpu"]["values"], found["wasm"]["values"], rtol=0, atol=WEBGPU_TOLERANCE)
    np.testing.assert_allclose(found["webgpu"]["values"], facts["samples"][network][0], rtol=0, atol=WEBGPU_TOLERANCE)
    assert found["webgpu"]["progress"] == [f"{done} of 8" for done in range(1, 9)]
    assert found["webgpu"]["previews"] == found["wasm"]["previews"] == 7


def test_float16_on_webgpu(page: str, web_folder: Path, chromium: str) -> None:
    """`.ci/webgpu_float16` names a WebGPU with shader-f16; SwiftShader has none."""
    if "WEBGPU_FLAGS" not in os.environ:
        pytest.skip("WEBGPU_FLAGS does not select a WebGPU with shader-f16")
    facts = json.loads((web_folder / "expected.json").read_text())
    found = sample_in(chromium, page, "float16", facts["values"][0], "webgpu")
    assert "values" in found["webgpu"], found
    error = np.subtract(found["webgpu"]["values"], facts["samples"]["float32"][0])
    assert 10 * np.log10(4 / np.mean(np.square(error))) > LEAST_PSNR_FLOAT16


def test_int8_weights_are_close_to_float32(web_folder: Path) -> None:
    samples = json.loads((web_folder / "expected.json").read_text())["samples"]
    error = np.subtract(samples["int8-weights"], samples["float32"])
    assert 10 * np.log10(4 / np.mean(np.square(error))) > LEAST_PSNR_INT8_WEIGHTS
    step = "step-0.onnx"
    sizes = [(web_folder / network / step).stat().st_size for network in ("int8-weights", "float32")]
    assert sizes[0] < 0.3 * sizes[1]


def test_a_step_with_a_node_on_the_cpu_is_refused(page: str, web_folder: Path, chromium: str) -> None:
    shutil.copytree(web_folder / "float32", web_folder / "quantized")
    file = web_folder / "quantized/step-0.onnx"
    model = onnx.load(file)
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "before_rounding"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.01), "code_scale"))
    model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["before_rounding", "code_scale"], ["code"]))
    model.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["code", "code_scale"], [output]))
    onnx.save(model, file)
    description = web_folder / "quantized/run.json"
    run = json.loads(description.read_text())
    run["sha256"][file.name] = file_sha256(file)
    description.write_text(json.dumps(run))
    found = sample_in(chromium, page, "quantized", 0, "webgpu")["webgpu"]
    assert found == {"failed": "quantized/step-0.onnx has an operation that WebGPU lacks: choose WebAssembly"}
