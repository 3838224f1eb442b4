"""The page and the programs for baked files name the wrong folder, seed or argument."""

import http.server
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from tests.export.networks import labelled_denoiser
from tests.runtime.text_bundle import with_companions

ROOT = Path(__file__).parents[2]
EXAMPLES, PAGE = ROOT / "docs/examples/baked", ROOT / "docs/web"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WITH_A_FALSE_PAGE = """
const made = {};
const shown = [];
globalThis.document = {
  getElementById: (id) => (made[id] ??= {
    value: id === "engine" ? "wasm" : "0", dataset: {}, getContext: () => ({}), replaceChildren() {},
  }),
};
globalThis.Option = class {};
globalThis.location = { search: "" };
globalThis.Worker = class {
  constructor() { made.worker = this; }
  postMessage(asked) { if (!("engine" in asked)) shown.push(asked.seed); }
};
await import(process.argv[1]);
await new Promise(setImmediate); // the worker is made after the question for a GPU
made.worker.onmessage({ data: { kind: "ready", condition: "kind", names: ["dress"], low: 0 } });
for (const seed of ["-1", "1.5", "", "9007199254740992", "7"]) {
  document.getElementById("seed").value = seed;
  made.sample.onclick();
  shown.push(made.status.textContent);
}
made.worker.onerror({});
shown.push(made.status.textContent);
console.log(JSON.stringify(shown));
"""


@pytest.mark.skipif(NODE is None, reason="there is no node")
def test_seeds_that_are_no_whole_numbers_are_refused_by_the_page() -> None:
    command = [str(NODE), "--input-type=module", "-e", WITH_A_FALSE_PAGE, (PAGE / "page.mjs").as_uri()]
    *refused, drawn, sampling, failed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert refused == ["The seed is a whole number from 0 to 9007199254740975."] * 4
    assert (drawn, sampling) == (7, "Sampling.")
    assert failed == "The worker cannot be loaded: a file of the page is missing."


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_the_page_without_its_runtime_says_so(tmp_path: Path) -> None:
    shutil.copytree(PAGE, tmp_path / "web")
    shutil.copy(EXAMPLES / "noise.mjs", tmp_path / "web")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        how = ["--headless", "--no-sandbox", f"--user-data-dir={tmp_path}/user", "--virtual-time-budget=1000000"]
        for _ in range(3):  # on a busy machine Chromium may print the page before its script has run
            done = subprocess.run(
                [str(CHROMIUM), *how, "--dump-dom", address], check=True, capture_output=True, text=True
            )
            if "is missing" in done.stdout:
                break
        server.shutdown()
    assert "the folder ort/ with onnxruntime-web is missing" in done.stdout


def test_the_maker_of_the_page_ends_in_one_line(tmp_path: Path) -> None:
    program = [sys.executable, str(EXAMPLES / "web.py")]
    bare = subprocess.run(program, capture_output=True, text=True)
    assert (bare.returncode, bare.stderr) == (
        1,
        "usage: python docs/examples/baked/web.py BUNDLE NODE_MODULES FOLDER\n",
    )
    command = [*program, "bundle", str(tmp_path), str(tmp_path / "page")]
    wrong = subprocess.run(command, capture_output=True, text=True)
    (line,) = wrong.stderr.splitlines()
    assert wrong.returncode == 1 and "has no ort.wasm.min.mjs; give the folder in which npm install" in line
    assert not (tmp_path / "page").exists()


def refusal_by_the_maker_of_the_page(folder: Path, bundle: Path) -> str:
    """Return the line with which web.py refuses a bundle, with empty files of onnxruntime-web."""
    runtime = folder / "onnxruntime-web/dist"
    runtime.mkdir(parents=True)
    for name in ("ort.wasm.min.mjs", "ort.webgpu.min.mjs"):
        (runtime / name).touch()
    for name in ("ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"):
        (runtime / f"{name}.mjs").touch()
        (runtime / f"{name}.wasm").touch()
    command = [sys.executable, str(EXAMPLES / "web.py"), *map(str, (bundle, folder, folder / "page"))]
    (line,) = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    return line


def test_the_maker_of_the_page_names_the_command_of_a_body_that_is_missing(tiny_bundle: Path, tmp_path: Path) -> None:
    line = refusal_by_the_maker_of_the_page(tmp_path, tiny_bundle)
    assert "has no body int8-cpu-x86-no-vnni; make it: fewstep calibrate " in line
    assert line.endswith(" --plan dpmpp_2m:8 --guidance 2 --target cpu-x86-no-vnni")


def test_the_maker_of_the_page_names_conditions_that_it_has_no_choice_for(tmp_path: Path) -> None:
    """The page shows one list of choices for each condition."""
    export(ExportOptions(f"{labelled_denoiser.__file__}:make", tmp_path / "bundle", verify="quick"))
    line = refusal_by_the_maker_of_the_page(tmp_path, tmp_path / "bundle")
    assert line.endswith("a whole number between limits; " + f"{tmp_path}/bundle has conditions: label, strength")


def test_the_maker_of_the_parts_of_a_run_ends_in_one_line(tmp_path: Path) -> None:
    program = [sys.executable, str(EXAMPLES / "steps.py"), str(tmp_path / "none"), str(tmp_path / "parts")]
    done = subprocess.run(program, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("steps: there is no bundle")


@pytest.mark.skipif(NODE is None, reason="there is no node")
def test_the_program_of_node_ends_in_one_line() -> None:
    done = subprocess.run([str(NODE), str(EXAMPLES / "sample.mjs")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "usage: node sample.mjs FILE OUTPUT NAME=VALUE... SEED...\n       node sample.mjs --check"
    )


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("18446744073709551616", "the seed 18446744073709551616 is larger than 9007199254740991"),
        ("-1", "-1 is neither a seed, a whole number from 0 on, nor NAME=VALUE"),
        ("1.5", "1.5 is neither a seed, a whole number from 0 on, nor NAME=VALUE"),
        ("kind=1,kind=2,0", "kind is given twice"),
        ("speed= ,0", "speed=  is neither a seed, a whole number from 0 on, nor NAME=VALUE"),  # a blank would be 0
    ],
)
def test_node_refuses_other_seeds_and_a_second_value(given: str, said: str) -> None:
    command = [str(NODE), str(EXAMPLES / "sample.mjs"), "none.onnx", "out.f32", *given.split(",")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"sample.mjs: {said}\n")


def refusal_of_steps(bundle: Path, *given: str) -> str:
    """Return the message of steps.py for a bundle."""
    program = [sys.executable, str(EXAMPLES / "steps.py"), str(bundle), str(bundle.with_name("parts")), *given]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1 and not bundle.with_name("parts").exists()
    return done.stderr.splitlines()[-1]


def test_steps_refuse_the_prompts_of_a_text_bundle(tiny_bundle: Path) -> None:
    said = refusal_of_steps(with_companions(tiny_bundle), "--plan", "ddim:2")
    assert (
        said
        == "steps: the run takes 'text' (an encoded prompt), which steps.cpp does not provide; run the bundle in Python"
    )


def test_steps_refuse_the_noise_of_later_steps(tiny_bundle: Path) -> None:
    said = refusal_of_steps(tiny_bundle, "--plan", "ddim(eta=1):3")
    assert said == "steps: the run takes 'draws' (draws), which steps.cpp does not provide; run the bundle in Python"


def refusal_by_node(folder: Path, inputs: list[dict[str, object]], *given: str, engine: str = "{}") -> str:
    """Return the message of sample.mjs for a file with these inputs, a condition `pattern` from 0 to 3, and labels of
    `kind`. `engine` replaces onnxruntime-node.
    """
    package = folder / "node_modules/onnxruntime-node"  # a file is refused before the engine opens it
    package.mkdir(parents=True)
    (package / "index.js").write_text(f"module.exports = {engine};")
    limits = {
        "conditions": [
            {"name": "pattern", "low": 0, "high": 3},
            {"name": "strength", "low": None, "high": None},
            {"name": "kind", "low": 0, "high": 1, "labels": ["disc", "Square"]},
            {"name": "size", "low": 0, "high": 3, "null": 4.0},
        ]
    }
    about = json.dumps({"file_sha256": "0" * 64, "inputs": inputs, **limits}, separators=(",", ":")).encode()
    (folder / "baked.onnx").write_bytes(bytes([len(about) & 0x7F | 0x80, len(about) >> 7]) + about)
    command = [str(NODE), str(EXAMPLES / "sample.mjs"), "baked.onnx", "out.f32", *given, "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 1 and not (folder / "out.f32").exists()
    return done.stderr


def port(name: str, meaning: str, *shape: int) -> dict[str, object]:
    return {"name": name, "meaning": meaning, "shape": ["batch", *shape], "dtype": "int64"}


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize("given", [(), ("ids=1",)])
def test_node_refuses_a_file_that_takes_the_ids_of_a_prompt(tmp_path: Path, given: tuple[str, ...]) -> None:
    said = refusal_by_node(tmp_path, [port("noise", "noise", 4), port("ids", "ids", 77)], *given)
    assert said == (
        "baked.onnx: it takes the token ids of a prompt, ids [batch, 77], which this program does not make: "
        "see docs/bake.md\n"
    )


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pattern=9", "pattern=9 is not in 0 to 3"),
        ("pattern=-1", "pattern=-1 is not in 0 to 3"),
        (
            "class=1",
            "it takes no class: it takes pattern 0 to 3, strength, kind 0 disc, 1 Square, size 0 to 3, or 4 for none",
        ),
        ("pattern=a", "pattern=a is not in 0 to 3"),
        ("pattern=1e0", "pattern is int64, and not 1e0"),
        ("kind=7", "kind=7 is not in 0 disc, 1 Square"),
        ("kind=ring", "kind=ring is not in 0 disc, 1 Square"),
        ("size=5", "size=5 is not in 0 to 3, or 4 for none"),
        ("size=4.0", "size is int64, and not 4.0"),  # in range
    ],
)
def test_node_refuses_conditions_with_what_the_file_takes(tmp_path: Path, given: str, said: str) -> None:
    conditions = [port(name, "condition") for name in ("pattern", "strength", "kind", "size")]
    assert refusal_by_node(tmp_path, [port("noise", "noise", 4), *conditions], given) == f"baked.onnx: {said}\n"


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize("value", ["yes", "2"])
def test_node_takes_0_or_1_for_a_bool(tmp_path: Path, value: str) -> None:
    mask = {**port("strength", "condition"), "dtype": "bool"}
    said = refusal_by_node(tmp_path, [port("noise", "noise", 4), mask], f"strength={value}")
    assert said == f"baked.onnx: strength is bool: give 0 or 1, and not {value}\n"


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize(("content", "said"), [(b"\1\2", "mask.u8: 2 is not 0 or 1"), (b"\1\0", "it ran")])
def test_node_takes_bytes_of_0_and_1_for_a_bool(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "mask.u8").write_bytes(content)
    mask = {**port("strength", "condition", 2), "dtype": "bool"}
    session = "{ run() { throw new Error('it ran'); } }"
    engine = f"{{ InferenceSession: {{ create: async () => ({session}) }}, Tensor: class {{}} }}"
    assert refusal_by_node(tmp_path, [mask], "strength=@mask.u8", engine=engine) == f"baked.onnx: {said}\n"


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize("value", ["1", "True"])
def test_node_takes_true_for_a_bool(tmp_path: Path, value: str) -> None:
    mask = {**port("strength", "condition"), "dtype": "bool"}
    said = refusal_by_node(tmp_path, [port("noise", "noise", 4), mask], f"strength={value}")
    assert "create" in said and "strength" not in said  # the engine, which is missing here, is the next step


@pytest.mark.skipif(NODE is None, reason="there is no node")
def test_node_says_that_a_file_may_be_cut(tmp_path: Path) -> None:
    (tmp_path / "baked.onnx").write_bytes(b"half of a file")
    command = [str(NODE), str(EXAMPLES / "sample.mjs"), "--check", "baked.onnx"]
    (tmp_path / "node_modules/onnxruntime-node").mkdir(parents=True)
    (tmp_path / "node_modules/onnxruntime-node/index.js").write_text("module.exports = {};")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "baked.onnx: it has no checksum, or is cut: copy it again" in done.stderr and done.returncode == 1
