"""What OpenVINO holds of a body, by its settings: `python benchmarks/large/openvino_memory.py BUNDLE [BODY ...]`.

Each row is a process that reads the graph of a body, compiles it for one sample and runs it twice, as the runtime does.
It has the most that was resident, pages mapped from files and without them, the seconds of the processor until the
first result, and those of the second one. "kept" is CACHE_DIR, when it is filled and when it is there. Linux only.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np

from fewstep.machine.memory import give_back, held, peak
from fewstep.runtime.backends.openvino import OpenVino, read
from fewstep.runtime.bundle.reading import open_bundle

BODIES = ("int8-openvino", "float32")
KEPT = "kept, "
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "compiled each time": {},
    "ENABLE_MMAP off": {"ENABLE_MMAP": False},
    "DYNAMIC_QUANTIZATION_GROUP_SIZE 0": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    f"{KEPT}first": {},
    f"{KEPT}again": {},
    f"{KEPT}CACHE_MODE OPTIMIZE_SIZE, first": {"CACHE_MODE": "OPTIMIZE_SIZE"},
    f"{KEPT}CACHE_MODE OPTIMIZE_SIZE, again": {"CACHE_MODE": "OPTIMIZE_SIZE"},
}


def measure(bundle: Path, name: str, settings: Mapping[str, object]) -> tuple[float, ...]:
    """Of this process: MB at the peak, MB beside files behind the second run, and seconds of both runs."""
    opened = open_bundle(bundle)
    entry = opened.body(name).graph
    file, backend, before = opened.graph(entry), OpenVino(threads=1, cached=False), process_time()
    core = backend.core()
    core.set_property({key: value for key, value in settings.items() if key == "ENABLE_MMAP"})
    model = read(core, file)
    shapes = {each.name: [1 if isinstance(size, str) else size for size in each.shape] for each in entry.inputs}
    model.reshape(shapes)
    told = {key: value for key, value in settings.items() if key != "ENABLE_MMAP"}
    request = core.compile_model(model, backend.device, backend.settings() | told).create_infer_request()
    feeds = {each.name: np.zeros(shapes[each.name], each.dtype) for each in entry.inputs}
    request.infer(feeds)
    first = process_time()
    request.infer(feeds)
    second = process_time()
    give_back()
    return (peak() or 0) / 1e6, held() / 1e6, first - before, second - first


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("bodies", nargs="*", default=BODIES)
    parser.add_argument("--settings", help=argparse.SUPPRESS)  # JSON, of one process
    given = parser.parse_args(arguments)
    if given.settings is not None:
        print(json.dumps(measure(given.bundle, given.bodies[0], json.loads(given.settings))))
        return
    print(f"{'':<56} {'peak MB':>8} {'no files':>8} {'first s':>8} {'next s':>8}")
    for body in given.bodies:
        with TemporaryDirectory() as cache:
            for name, settings in SETTINGS.items():
                folder = Path(cache) / name.rpartition(", ")[0]
                kept = {"CACHE_DIR": str(folder)} if name.startswith(KEPT) else {}
                told = json.dumps({**settings, **kept})
                command = (sys.executable, __file__, str(given.bundle), body, "--settings", told)
                made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"{body + ', ' + name:<56} " + " ".join(f"{value:8.1f}" for value in made), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
