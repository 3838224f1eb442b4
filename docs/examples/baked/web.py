"""Make the folder of docs/web: the networks of a bundle in the forms that the page uses, samples made by Python for
comparison, and onnxruntime-web.

    python docs/examples/baked/web.py BUNDLE NODE_MODULES FOLDER
    python -m http.server --directory FOLDER

BUNDLE must have the bodies float32 and int8-cpu-x86-no-vnni of a model of grey pictures with one condition, an integer,
such as the shipped Fashion-MNIST model. NODE_MODULES is the folder into which npm installed onnxruntime-web.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime

from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.draws import draw_input
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.write_parts import write_parts
from fewstep.plans.errors import UserError, quote_path
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle

PAGE = Path(__file__).parents[2] / "web"
NOISE = Path(__file__).with_name("noise.mjs")
SCRIPTS = ("index.html", "page.mjs", "worker.mjs", "run_steps.mjs")
RUNTIME = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
BODY, PLAN, GUIDANCE = "int8-cpu-x86-no-vnni", "dpmpp_2m:8", 2.0
FORMS = {
    "float32": "stored",
    "float16": "float16",
    "int8-weights": "int8-weights",
}  # folders of parts, and the networks in them
SEEDS = (0, 1, 2, 3)


def main(bundle: Path, node_modules: Path, folder: Path) -> None:
    runtime = runtime_files(node_modules)
    condition = only_condition(bundle)
    check_body(bundle)
    names = condition.labels or [str(number) for number in range(int(condition.low), int(condition.high) + 1)]
    values = [int(condition.low) + place * (len(names) - 1) // (len(SEEDS) - 1) for place in range(len(SEEDS))]
    (folder / "ort").mkdir(parents=True, exist_ok=True)
    for file in (*(PAGE / name for name in SCRIPTS), NOISE):
        shutil.copyfile(file, folder / file.name)
    for file in runtime:
        shutil.copyfile(file, folder / "ort" / file.name)
    whole = BakeOptions(bundle, PLAN, folder / "sampler.onnx", "int8", BODY, GUIDANCE)
    bake(whole)
    with load(bundle, "int8", body=BODY) as sampler:
        samples = {"int8": sampler.sample(PLAN, SEEDS, {condition.name: values}, GUIDANCE)}
    for name in FORMS:
        parts = replace(whole, precision=None, body=name)
        write_parts(replace(parts, parts=True, output=folder / name))
        samples[name] = sample_by_file(parts, {condition.name: values[:1]})
    expected = {
        "model": f"The denoiser {open_bundle(bundle).manifest.name} along {PLAN} with guidance of weight {GUIDANCE:g}",
        "shape": samples["int8"].shape[1:],
        "condition": condition.name,
        "names": names,
        "low": int(condition.low),
        "seeds": SEEDS,
        "values": values,
        "samples": {name: [list_numbers(sample) for sample in each] for name, each in samples.items()},
    }
    (folder / "expected.json").write_text(json.dumps(expected))


def sample_by_file(options: BakeOptions, conditions: dict[str, list[int]]) -> np.ndarray:
    """Return the sample of the first seed, made in Python by a baked file."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "run.onnx"
        made, _ = bake(replace(options, output=file))
        shape = [int(size) for size in made.output.shape[1:]]
        feeds = {"noise": draw_input("noise", (), SEEDS[:1], shape)}
        feeds |= {"draws": draw_input("draws", made.draws, SEEDS[:1], shape)} if made.draws else {}
        feeds |= {name: np.array(numbers) for name, numbers in conditions.items()}
        return onnxruntime.InferenceSession(file).run(["sample"], feeds)[0]


def list_numbers(sample: np.ndarray) -> list[float]:
    return [float(f"{number:.9g}") for number in sample.reshape(-1)]


def only_condition(bundle: Path) -> Condition:
    """Return the only condition of a bundle, whose values the page lists. Exits with a message if it does not fit the
    page."""
    conditions = open_bundle(bundle).manifest.conditions
    whole = [each for each in conditions if each.dtype.startswith("int") and not each.shape]
    if len(conditions) != 1 or not whole or whole[0].low is None or whole[0].high is None:
        names = ", ".join(each.name for each in conditions) or "none"
        sys.exit(f"the page chooses one condition, a whole number between limits; {bundle} has conditions: {names}")
    return whole[0]


def check_body(bundle: Path) -> None:
    """Exit with the command that makes the int8 body of the page, if the bundle lacks it."""
    if BODY not in open_bundle(bundle).manifest.bodies:
        calibrate = f"fewstep calibrate {quote_path(bundle)} --plan {PLAN} --guidance {GUIDANCE:g}"
        sys.exit(f"{bundle} has no body {BODY}; make it: {calibrate} --target {BODY.removeprefix('int8-')}")


def runtime_files(node_modules: Path) -> tuple[Path, ...]:
    """Return the files of onnxruntime-web. Exits with a message if one is missing."""
    folder = node_modules / "onnxruntime-web/dist"
    if missing := [name for name in RUNTIME if not (folder / name).is_file()]:
        sys.exit(f"{folder} has no {missing[0]}; give the folder in which npm install onnxruntime-web put it")
    return tuple(folder / name for name in RUNTIME)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python docs/examples/baked/web.py BUNDLE NODE_MODULES FOLDER")
    try:
        main(*map(Path, sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
