"""Each missing part of a machine is named with the command that installs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fewstep.plans.errors import UserError
from fewstep.report import diagnosis
from fewstep.report.diagnosis import LEAST_RUNTIME, Diagnosis, DoctorOptions, diagnose, findings
from fewstep.runtime.machine.cpu import usable_cores
from fewstep.runtime.machine.cuda_code import CudaCode
from fewstep.runtime.machine.gpu import Gpu, gpu_of, parse_jetson
from fewstep.runtime.machine.packages import OnnxRuntimeImport
from tests.packages import toml

PROJECT = toml(Path(__file__).parents[2] / "pyproject.toml")["project"]
GPU = Gpu("NVIDIA RTX A4000", "sm86", "550.54", 16376, 15000)


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    """A machine without missing parts."""
    seen = diagnose(DoctorOptions())
    cpu = msgspec.structs.replace(seen.cpu, int8_instructions=("avx2", "avx512_vnni"), cores=8, quota=None)
    space = msgspec.structs.replace(seen.space, memory_free=2**34, disk_free=2**34, temporary_free=2**34)
    return msgspec.structs.replace(
        seen,
        cpu=msgspec.structs.replace(cpu, architecture="x86_64"),
        space=space,
        gpus=(),
        jetson=None,
        cuda_code=(),
        packages={"onnxruntime": "1.31.1"},
        engine=OnnxRuntimeImport("1.31.1", ("CPUExecutionProvider",), ""),
        backends=("onnxruntime",),
        missing={},
        findings=(),
    )


def said(seen: Diagnosis) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.what, finding.fix) for finding in findings(seen)]


def test_this_machine_can_run_bundles() -> None:
    seen = diagnose(DoctorOptions())
    assert seen.is_usable and "onnxruntime" in seen.backends
    assert seen.cpu.cores == usable_cores() >= 1
    assert seen.space.disk_free > 0


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "new here" / "bundles"
    note = diagnose(DoctorOptions(folder)).findings[-1]
    assert note.what == f"the folder {folder} does not exist: the free space is that of {tmp_path}"
    assert note.fix == f"mkdir -p '{folder}', or check the path"
    assert note not in diagnose(DoctorOptions(tmp_path)).findings
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        diagnose(DoctorOptions(tmp_path / "file" / "bundles"))


def test_nothing_is_said_of_a_healthy_machine(healthy: Diagnosis) -> None:
    assert said(healthy) == []


JETSON = parse_jetson("NVIDIA Jetson AGX Orin", "# R36 (release), REVISION: 4.3, GCID: 1", "")
BOTH = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
CUDA = {"onnxruntime": "1.31.1", "tensorrt": "10.13"}
TENSORRT = {"tensorrt": ("tensorrt", "polygraphy")}


@pytest.mark.parametrize(
    ("changes", "level", "what", "fix"),
    [
        ({"engine": None, "packages": {}}, "problem", "onnxruntime is not installed", "pip install 'fewstep[cpu]'"),
        (
            {"packages": BOTH},
            "problem",
            "overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip in",
        ),
        ({"engine": OnnxRuntimeImport("1.19.2", (), "")}, "problem", "1.19.2", "install --upgrade 'onnxruntime>=1.21'"),
        ({"engine": OnnxRuntimeImport("", (), "libcudart.so.12: cannot open")}, "problem", "libcudart.so.12", "reinst"),
        ({"gpus": (GPU,)}, "missing", "NVIDIA RTX A4000 is unused", "pip uninstall -y onnxruntime && pip install"),
        ({"gpus": (GPU,), "packages": CUDA}, "missing", "tensorrt can build engines but not", "'cuda-bindings==12.*'"),
        (
            {"cpu": {"int8_instructions": ("avx2",)}},
            "note",
            "openvino, openvino-bf16 saturate",
            "--target cpu-x86-no-vnni,openvino-no-vnni",
        ),
        (
            {"jetson": JETSON, "packages": {"tensorrt": "11.4.1"}},
            "problem",
            "TensorRT 11.4.1 does not run on JetPack 6",
            "10",
        ),
        ({"missing": TENSORRT}, "optional", "tensorrt, polygraphy not installed", "pip install 'fewstep[tensorrt]'"),
        ({"missing": TENSORRT, "jetson": JETSON}, "optional", "polygraphy not", "JetPack: apt install python3-libnv"),
    ],
)
def test_a_lack_is_named_with_what_ends_it(
    healthy: Diagnosis, changes: dict[str, Any], level: str, what: str, fix: str
) -> None:
    """`changes` of the healthy machine; those of its processor by name."""
    if "cpu" in changes:
        changes = {"cpu": msgspec.structs.replace(healthy.cpu, **changes["cpu"])}
    found, *others = said(seen := msgspec.structs.replace(healthy, **changes))
    assert [each for each, _, _ in others if each != "note"] == []
    assert found[0] == level and what in found[1] and fix in found[2]
    assert msgspec.structs.replace(seen, findings=tuple(findings(seen))).is_usable is (level != "problem")


THOR = parse_jetson("NVIDIA Jetson AGX Thor", "# R38 (release), REVISION: 4.0, GCID: 1", "7.1")
OLD = OnnxRuntimeImport("1.19.2", ("CUDAExecutionProvider",), "")


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        (
            {"packages": BOTH},
            "overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu; then install NVIDIA's",
        ),
        (
            {"engine": OLD, "packages": {"onnxruntime-gpu": "1.19.2"}},
            "is older than 1.21",
            "install NVIDIA's build for",
        ),
        (
            {"engine": OnnxRuntimeImport("", (), "libcudart.so.12"), "packages": {"onnxruntime-gpu": "1.23"}},
            "libcudart.so.12",
            "install NVIDIA's build for",
        ),
        ({"gpus": (gpu_of(JETSON),)}, "Orin is unused", "use JetPack's TensorRT: docs/jetson.md"),
    ],
)
def test_no_fix_on_a_jetson_installs_a_build_of_pypi(
    healthy: Diagnosis, changes: dict[str, Any], what: str, fix: str
) -> None:
    found = said(msgspec.structs.replace(healthy, jetson=JETSON, **changes))
    assert any(what in each and command.startswith(fix) for _, each, command in found), found
    assert not any("fewstep[gpu]" in command or "--force-reinstall" in command for _, _, command in found)


@pytest.mark.parametrize(
    ("version", "is_named"), [("10.16.1", False), ("11.1.0", True), ("11.4.0", True), ("11.4.1", False)]
)
def test_a_tensorrt_that_nvidia_supports_on_no_jetpack_is_a_note(
    healthy: Diagnosis, version: str, is_named: bool
) -> None:
    found = said(msgspec.structs.replace(healthy, jetson=THOR, packages={"tensorrt": version}))
    assert [(level, what) for level, what, _ in found if "on no JetPack" in what] == is_named * [
        ("note", f"NVIDIA supports TensorRT {version} on no JetPack; on AGX Orin with 7.2 it was reported to run")
    ]


def test_packages_of_an_extra_do_not_replace_onnxruntime_gpu(healthy: Diagnosis) -> None:
    seen = msgspec.structs.replace(
        healthy, packages={"onnxruntime-gpu": "1.31.1"}, missing={"calibration": ("onnx",), "text": ("tokenizers",)}
    )
    assert [fix for level, _, fix in said(seen) if level == "optional"] == [
        "pip install onnx",
        "pip install 'fewstep[text]'",
    ]


def test_the_oldest_engine_is_the_one_that_the_packages_ask_for() -> None:
    extras = PROJECT["optional-dependencies"]
    floor = ".".join(map(str, LEAST_RUNTIME))
    assert (extras["cpu"], extras["gpu"]) == ([f"onnxruntime>={floor}"], [f"onnxruntime-gpu>={floor}"])


def test_cuda_is_that_of_the_driver() -> None:
    assert msgspec.structs.replace(GPU, driver="580.65.06").cuda == 13


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, fewstep.report.diagnosis as doctor; this = doctor.diagnose(doctor.DoctorOptions())\n"
        "heavy = {'torch', 'onnx', 'typer', 'rich', 'PIL', 'polygraphy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ORIN = Gpu("Jetson AGX Orin", "sm87", "L4T 36.4.3", None, None)
PYPI = CudaCode("onnxruntime", ("libonnxruntime_providers_cuda.so",), (89, 90, 120, 121), ())  # aarch64, 1.31.1


def test_a_library_without_code_for_the_gpu_is_named(healthy: Diagnosis) -> None:
    jetson = parse_jetson("Jetson AGX Orin", "# R36 (release), REVISION: 4.3", "6.2")
    packages = {"onnxruntime-gpu": "1.31.1"}
    seen = msgspec.structs.replace(healthy, gpus=(ORIN,), jetson=jetson, packages=packages, cuda_code=(PYPI,))
    assert (
        "missing",
        "onnxruntime 1.31.1 has no code for sm87 (Jetson AGX Orin): its libraries have sm89, sm90, sm120, sm121",
        "install NVIDIA's build for this JetPack: docs/jetson.md has a table",
    ) in said(seen)


def test_a_library_without_code_for_a_desktop_gpu_is_named(healthy: Diagnosis) -> None:
    seen = msgspec.structs.replace(
        healthy, gpus=(GPU,), packages={"tensorrt": "11.4.0"}, cuda_code=(CudaCode("tensorrt", ("a",), (90,), ()),)
    )
    (finding,) = (each for each in said(seen) if "no code" in each[1])
    assert finding[1:] == (
        "tensorrt 11.4.0 has no code for sm86 (NVIDIA RTX A4000): its libraries have sm90",
        "install a version of tensorrt that was built for sm86",
    )


@pytest.mark.parametrize("code", [CudaCode("onnxruntime", ("a",), (80,), ()), CudaCode("onnxruntime", ("a",), (), ())])
def test_a_library_with_code_or_without_any_is_not_named(healthy: Diagnosis, code: CudaCode) -> None:
    seen = msgspec.structs.replace(healthy, gpus=(GPU,), cuda_code=(code,))
    assert not any("no code" in what for _, what, _ in said(seen))


@pytest.mark.parametrize(("code", "listed"), [((89, 90), False), ((87,), True)])
def test_an_engine_without_code_for_the_gpu_is_no_backend(
    monkeypatch: pytest.MonkeyPatch, code: tuple[int, ...], listed: bool
) -> None:
    monkeypatch.setattr(diagnosis, "these_gpus", lambda: (ORIN,))
    monkeypatch.setattr(diagnosis, "cuda_code_of_engines", lambda: (CudaCode("onnxruntime", ("a",), code, ()),))
    engine = OnnxRuntimeImport("1.31.1", ("CUDAExecutionProvider", "CPUExecutionProvider"), "")
    monkeypatch.setattr(diagnosis, "this_onnxruntime", lambda: engine)
    assert ("onnxruntime-cuda" in diagnose(DoctorOptions()).backends) is listed
