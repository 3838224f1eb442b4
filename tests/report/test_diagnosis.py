"""Each lack of a machine is named with the command that ends it."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fewstep.plans.errors import UserError
from fewstep.report.diagnosis import LEAST_RUNTIME, Diagnosis, DoctorOptions, diagnose, findings
from fewstep.runtime.machine.cpu import usable_cores
from fewstep.runtime.machine.gpu import Gpu, parse_jetson
from fewstep.runtime.machine.packages import OnnxRuntimeImport

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
GPU = Gpu("NVIDIA RTX A4000", "sm86", "550.54", 16376, 15000)


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    """A machine on which everything is there."""
    seen = diagnose(DoctorOptions())
    cpu = msgspec.structs.replace(seen.cpu, int8_instructions=("avx2", "avx512_vnni"), cores=8, quota=None)
    space = msgspec.structs.replace(seen.space, memory_free=2**34, disk_free=2**34, temporary_free=2**34)
    return msgspec.structs.replace(
        seen,
        cpu=msgspec.structs.replace(cpu, architecture="x86_64"),
        space=space,
        gpus=(),
        jetson=None,
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
    assert note.what == f"there is no folder {folder}: the space is that of {tmp_path}, where it would be made"
    assert note.fix == f"mkdir -p '{folder}', or check the path"
    assert note not in diagnose(DoctorOptions(tmp_path)).findings
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is no folder"):
        diagnose(DoctorOptions(tmp_path / "file" / "bundles"))


def test_nothing_is_said_of_a_healthy_machine(healthy: Diagnosis) -> None:
    assert said(healthy) == []


def test_no_engine_is_a_problem(healthy: Diagnosis) -> None:
    seen = msgspec.structs.replace(healthy, engine=None, packages={})
    assert said(seen)[0] == (
        "problem",
        "no inference engine: onnxruntime is not installed",
        "pip install 'fewstep[cpu]'",
    )
    assert not msgspec.structs.replace(seen, findings=tuple(findings(seen))).is_usable


def test_two_packages_of_one_module_are_a_problem(healthy: Diagnosis) -> None:
    seen = msgspec.structs.replace(healthy, packages={"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"})
    level, what, fix = said(seen)[0]
    assert level == "problem" and "write over each other" in what
    assert fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'fewstep[cpu]'"


def test_an_old_or_broken_engine_is_a_problem(healthy: Diagnosis) -> None:
    old = msgspec.structs.replace(healthy, engine=OnnxRuntimeImport("1.19.2", (), ""))
    assert said(old)[0][2] == "pip install --upgrade 'onnxruntime>=1.21'"
    broken = msgspec.structs.replace(healthy, engine=OnnxRuntimeImport("", (), "libcudart.so.12: cannot open"))
    assert said(broken)[0][1] == "onnxruntime cannot be imported: libcudart.so.12: cannot open"


def test_the_oldest_engine_is_the_one_that_the_packages_ask_for() -> None:
    extras = PROJECT["optional-dependencies"]
    floor = ".".join(map(str, LEAST_RUNTIME))
    assert (extras["cpu"], extras["gpu"]) == ([f"onnxruntime>={floor}"], [f"onnxruntime-gpu>={floor}"])


def test_an_unused_gpu_is_named_with_the_swap(healthy: Diagnosis) -> None:
    seen = msgspec.structs.replace(healthy, gpus=(GPU,))
    assert said(seen)[0][:2] == ("missing", "NVIDIA RTX A4000 is not used: no GPU backend")
    assert said(seen)[0][2] == "pip uninstall -y onnxruntime && pip install 'fewstep[gpu]'"


def test_tensorrt_runs_engines_with_cuda_bindings_of_the_drivers_cuda(healthy: Diagnosis) -> None:
    packages = {**healthy.packages, "tensorrt": "10.13"}
    seen = msgspec.structs.replace(healthy, gpus=(GPU,), packages=packages)
    assert said(seen) == [
        (
            "missing",
            "tensorrt builds engines and cannot run them: cuda-bindings is not installed",
            "pip install 'cuda-bindings==12.*'",
        )
    ]
    assert msgspec.structs.replace(GPU, driver="580.65.06").cuda == 13


def test_a_cpu_without_vnni_and_a_small_container_are_noted(healthy: Diagnosis) -> None:
    cpu = msgspec.structs.replace(healthy.cpu, int8_instructions=("avx2",), quota=1.5)
    notes = said(msgspec.structs.replace(healthy, cpu=cpu))
    assert "saturate" in notes[0][1]
    assert notes[1] == (
        "note",
        "this container may keep 1.5 of 8 cores busy; more threads wait for each other",
        "give --threads 1",
    )


def test_tensorrt_11_does_not_go_with_jetpack_6(healthy: Diagnosis) -> None:
    jetson = parse_jetson("NVIDIA Jetson AGX Orin", "# R36 (release), REVISION: 4.3, GCID: 1", "")
    seen = msgspec.structs.replace(healthy, jetson=jetson, packages={"tensorrt": "11.4.1"})
    assert said(seen)[0][0] == "problem"


def test_on_a_jetson_tensorrt_is_that_of_jetpack(healthy: Diagnosis) -> None:
    jetson = parse_jetson("NVIDIA Jetson AGX Orin", "# R36 (release), REVISION: 4.3, GCID: 1", "")
    lacking = {"tensorrt": ("tensorrt", "polygraphy")}
    last = said(msgspec.structs.replace(healthy, missing=lacking))[-1]
    assert last == (
        "optional",  # which this machine does not lack
        "engines of TensorRT, and their check: tensorrt, polygraphy not installed",
        "pip install 'fewstep[tensorrt]'",
    )
    on_jetson = said(msgspec.structs.replace(healthy, jetson=jetson, missing=lacking))[-1]
    assert on_jetson[2].startswith("TensorRT is JetPack's: apt install python3-libnvinfer; the rest: pip install")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, fewstep.report.diagnosis as doctor; this = doctor.diagnose(doctor.DoctorOptions())\n"
        "heavy = {'torch', 'onnx', 'typer', 'rich', 'PIL', 'polygraphy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
