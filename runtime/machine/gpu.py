"""NVIDIA GPUs as their driver reports them, and the properties of a Jetson. No GPU is opened for this."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

FIELDS = ("name", "compute_cap", "driver_version", "memory.total", "memory.free")
MODEL = Path("/proc/device-tree/model")
RELEASE = Path("/etc/nv_tegra_release")
JETSON_SM = {"Thor": "sm110", "Orin": "sm87", "Xavier": "sm72"}
CUDA_13_DRIVER, CUDA_13_L4T = 580, 38  # the first driver and the first L4T that run CUDA 13
SECONDS = 10  # limit on the time that a driver takes to answer

# The TensorRT of each JetPack: NVIDIA, "Migrating from TensorRT 10.x to 11.x: Jetson".
MATRIX = (
    ("5", "TensorRT 8.5", "too old: fewstep builds for TensorRT 10.3 and newer; install JetPack 6"),
    ("6", "TensorRT 10 (6.2 ships 10.3)", "stay on 10.x: TensorRT 11 does not run here; DLA up to 10.7"),
    (
        "7",
        "its TensorRT 10, or 11.4.1 (SBSA build) from JetPack 7.2.2 on",
        "no support in TensorRT 11.0 to 11.4.0; PyPI's 11.1 was reported to run on AGX Orin from 7.2 on, without DLA",
    ),
)


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU. `sm` is its compute capability in the form that `fewstep build --device` takes. Memory is None if the
    driver does not report it."""

    name: str
    sm: str
    driver: str
    memory_mib: int | None
    free_mib: int | None

    @property
    def cuda(self) -> int:
        """The newest major version of CUDA that its driver supports."""
        named, first = self.driver.startswith("L4T "), self.driver.removeprefix("L4T ").partition(".")[0]
        return 13 if first.isdigit() and int(first) >= (CUDA_13_L4T if named else CUDA_13_DRIVER) else 12


class Jetson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Jetson: its model, its L4T release, the JetPack version if that is installed as a package, and the Jetson's row
    of MATRIX."""

    model: str
    l4t: str
    jetpack: str
    tensorrt: str
    note: str


def these_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that `nvidia-smi` lists. The tuple is empty if it is not installed."""
    return parse_gpus(_output(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]))


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU that its driver reports, or is a Jetson."""
    return bool(these_gpus()) or this_jetson() is not None


def gpu_of(jetson: Jetson) -> Gpu:
    """Return the GPU of a Jetson whose `nvidia-smi` is missing or prints nothing, as on JetPack 5."""
    sm = next((sm for family, sm in JETSON_SM.items() if family in jetson.model), "")
    return Gpu(jetson.model, sm, f"L4T {jetson.l4t}", None, None)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Parse lines of comma-separated FIELDS."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(name, f"sm{capability.replace('.', '')}", driver, _mib(total), _mib(free))
        for name, capability, driver, total, free in (row for row in rows if len(row) == len(FIELDS))
    )


def this_jetson() -> Jetson | None:
    """Return the model and software versions of this machine if it is a Jetson, otherwise None."""
    if not RELEASE.is_file():
        return None
    model = MODEL.read_text(errors="replace").rstrip("\0\n") if MODEL.is_file() else "Jetson"
    jetpack = _output(["dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack"]).strip()
    return parse_jetson(model, RELEASE.read_text(errors="replace"), jetpack)


def parse_jetson(model: str, release: str, jetpack: str) -> Jetson:
    """Parse the model and the software versions of a Jetson.

    `release` is the first line of /etc/nv_tegra_release: "# R36 (release), REVISION: 4.3, ...".
    """
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    l4t = f"{match[1]}.{match[2]}" if match else ""
    major = jetpack.partition(".")[0] or {"35": "5", "36": "6", "38": "7", "39": "7"}.get(l4t.partition(".")[0], "")
    tensorrt, note = next(((t, n) for version, t, n in MATRIX if version == major), ("unknown", "not in our table"))
    return Jetson(model, l4t, jetpack or (f"{major}.x" if major else ""), tensorrt, note)


def _mib(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _output(command: Sequence[str]) -> str:
    """Return the text that a command prints; empty if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
