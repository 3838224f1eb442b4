"""The cost of the runtime on a device, compared with upper limits: `python -m benchmarks.footprint`.

The figures are size on disk, seconds to import and to the first sample, and resident memory, each from separate
processes, on the shipped bundle in int8. Exits with 1 if a limit is exceeded. Run it on an idle machine. Modules are
loaded from bytecode, as pip installs them, even if the environment forbids writing any.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from statistics import median

import fewstep.runtime
from benchmarks.options import parser_of
from fewstep.models import ready
from fewstep.runtime.bundle.reading import open_bundle

DEPENDENCIES = ("msgspec", "safetensors")  # besides numpy and onnxruntime, which a device is assumed to have
PROCESSES = 11
MB = 1e6

IMPORT = """
import sys, time
started = time.perf_counter()
import {module}
print(time.perf_counter() - started)
"""
SAMPLE = """
import json, time, sys
import fewstep.runtime.sampling.loading
started = time.perf_counter()
with fewstep.runtime.load(sys.argv[1], "int8") as sampler:
    sampler.sample("dpmpp_2m:8", seeds=[0], condition={"class": [0]}, guidance=2.0)
seconds = time.perf_counter() - started
kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, kib * 1024]))
"""


@dataclass(frozen=True)
class Bar:
    """A figure and its upper limit, in the same unit; None for a figure without a limit. NaN, if nothing could be
    compared, exceeds it.
    """

    name: str
    found: float
    bar: float | None
    unit: str

    @property
    def holds(self) -> bool:
        return self.bar is None or self.found <= self.bar

    def __str__(self) -> str:
        bar = "" if self.bar is None else f" of {self.bar:7.2f} {self.unit}"
        return f"{self.name:<48}{self.found:8.2f} {self.unit:<2}{bar}{'' if self.holds else '  MISSED'}"


def bytes_of_installation() -> int:
    """The size of fewstep without weights and bytecode, and of what it needs besides numpy and onnxruntime."""
    root = Path(fewstep.runtime.__file__).parent.parent
    packages = [typed.parent for typed in root.glob("*/py.typed")]  # each package has one
    own = (path for package in packages for path in package.rglob("*") if not _is_weights(path))
    others = (Path(str(file.locate())) for name in DEPENDENCIES for file in distribution(name).files or ())
    return sum(path.stat().st_size for path in (*own, *others) if path.is_file() and path.suffix != ".pyc")


def _is_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".onnx", ".data")


def import_seconds(processes: int = PROCESSES) -> float:
    """Return the seconds of importing `fewstep.runtime.load` in addition to `import numpy`: medians of processes
    that take turns. The package imports it lazily.
    """
    seconds: dict[str, list[float]] = {"numpy": [], "fewstep.runtime.sampling.loading": []}
    with tempfile.TemporaryDirectory() as bytecode:
        _run(bytecode, IMPORT.format(module="fewstep.runtime.sampling.loading"))
        for _ in range(processes):
            for module, found in seconds.items():
                found.append(float(_run(bytecode, IMPORT.format(module=module))))
    return median(seconds["fewstep.runtime.sampling.loading"]) - median(seconds["numpy"])


def first_sample(bundle: Path, processes: int = PROCESSES) -> tuple[float, float]:
    """Median seconds from a bundle on disk to the first sample (8 steps, guided), and the median of peak memory."""
    with tempfile.TemporaryDirectory() as bytecode:
        _run(bytecode, SAMPLE, str(bundle))
        found = [json.loads(_run(bytecode, SAMPLE, str(bundle))) for _ in range(processes)]
    return median(seconds for seconds, _ in found), median(peak for _, peak in found)


def weight_bytes(bundle: Path) -> int:
    """Return the bytes that `load` opens in int8: a body and the prologue."""
    manifest = open_bundle(bundle).manifest
    graphs = [manifest.bodies["int8-cpu-x86"].graph, *([manifest.prologue] if manifest.prologue else [])]
    return sum((bundle / name).stat().st_size for graph in graphs for name in (graph.file, *graph.data))


def figures(processes: int = PROCESSES) -> Iterator[Bar]:
    bundle = ready.fashion_mnist()
    yield Bar("installed, beyond numpy and onnxruntime", bytes_of_installation() / MB, 10.0, "MB")
    yield Bar("import, beyond import numpy", 1e3 * import_seconds(processes), 40.0, "ms")
    seconds, peak = first_sample(bundle, processes)
    yield Bar("load and the first sample of 8 steps", 1e3 * seconds, 500.0, "ms")
    yield Bar("resident at most, weights x 1.5 + 120 MB", peak / MB, weight_bytes(bundle) * 1.5 / MB + 120, "MB")


def _run(bytecode: str, code: str, *arguments: str) -> str:
    """Return the output of a process. It keeps bytecode in a temporary folder, for the processes after it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def main() -> int:
    parser_of(__doc__).parse_args()
    missed = 0
    for figure in figures():
        print(figure)
        missed += not figure.holds
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
