"""Make the folder of docs/web: a baked file of a bundle, Python's samples to compare with, and onnxruntime-web.

    python examples/baked/web.py BUNDLE NODE_MODULES FOLDER
    python -m http.server --directory FOLDER

BUNDLE has the body int8-cpu-x86-7bit of the shipped Fashion-MNIST model. NODE_MODULES is where npm put onnxruntime-web.
"""

import json
import shutil
import sys
from pathlib import Path

from fewstep.graph.bake.bake import BakeOptions, bake
from fewstep.runtime import load

PAGE = Path(__file__).parents[2] / "docs/web"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
BODY, PLAN, GUIDANCE = "int8-cpu-x86-7bit", "dpmpp_2m:8", 2.0
SEEDS, LABELS = (0, 1, 2, 3), (0, 3, 7, 9)


def main(bundle: Path, node_modules: Path, folder: Path) -> None:
    (folder / "ort").mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "page.mjs", "worker.mjs", "noise.mjs"):
        shutil.copyfile(PAGE / name, folder / name)
    for name in RUNTIME:
        shutil.copyfile(node_modules / "onnxruntime-web/dist" / name, folder / "ort" / name)
    bake(BakeOptions(bundle, PLAN, folder / "sampler.onnx", "int8", BODY, GUIDANCE))
    with load(bundle, "int8", body=BODY) as sampler:
        samples = sampler.sample(PLAN, SEEDS, {"class": LABELS}, GUIDANCE)
        (condition,) = sampler.bundle.manifest.conditions
    expected = {
        "shape": samples.shape[1:],
        "names": condition.labels,
        "seeds": SEEDS,
        "labels": LABELS,
        "samples": [[float(f"{number:.9g}") for number in sample.reshape(-1)] for sample in samples],
    }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
