"""fewstep.runtime with only numpy, msgspec, safetensors and onnxruntime installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKER = """
import runpy, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = {"torch", "onnx", "onnxscript", "typer", "click", "rich", "PIL", "polygraphy", "tensorrt_rtx", "scipy"}
BLOCKED |= {"tokenizers", "transformers", "diffusers"}
sys.meta_path.insert(0, Nothing())
"""
SCRIPT = Path(__file__).parent.parent / "environments/runtime_only.py"


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", BLOCKER + code, *arguments], capture_output=True, text=True)


def test_the_runtime_imports_and_samples(tiny_bundle: Path) -> None:
    code = f"import importlib.util; importlib.util.find_spec = lambda name: None; runpy.run_path({str(SCRIPT)!r})"
    done = python(code, str(tiny_bundle))
    assert done.returncode == 0, done.stderr
    assert "sampled" in done.stdout


def test_importing_the_runtime_loads_no_engine() -> None:
    done = python("import fewstep.runtime; assert 'onnxruntime' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_importing_spectrograms_loads_no_sampler() -> None:
    done = python("import fewstep.runtime.spectrogram; assert 'fewstep.runtime.sampling.sampler' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_without_onnxruntime_loading_names_the_pip_command(tiny_bundle: Path) -> None:
    code = "BLOCKED.add('onnxruntime'); import fewstep.runtime; fewstep.runtime.load(sys.argv[1])"
    done = python(code, str(tiny_bundle))
    assert "no inference engine" in done.stderr and "pip install 'fewstep[cpu]'" in done.stderr


def test_the_command_without_typer_names_the_pip_command() -> None:
    done = python("from fewstep.cli.main import main; sys.exit(main(['--help']))")
    assert done.returncode == 1
    assert done.stderr == "fewstep: this needs typer, which is not installed; pip install 'fewstep[cli]'\n"


def quiet(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Return the output of a program that sets nothing about telemetry, with `folder` as its cache folder."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"XDG_CACHE_HOME": str(folder), **variables}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_that_loads_a_bundle_leaves_no_record_of_its_use(tiny_bundle: Path, tmp_path: Path) -> None:
    call = "fewstep.runtime.load(sys.argv[1]).evaluate([[[[0] * 4] * 4]], 0, {'class': [0]})"
    code = f"import sys, fewstep.runtime; print({call}.shape)"
    assert quiet(code, tmp_path, str(tiny_bundle)) == "(1, 1, 4, 4)\n"
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file() and "onnxruntime" in str(path)] == []


IMPORTING = """
import os, sys

class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
            sys.exit()

sys.meta_path.insert(0, Told())
"""


DOCTOR = "from fewstep.report.diagnosis import DoctorOptions, diagnose; diagnose(DoctorOptions())"
MODULES = ("graph.session", "calibration.checkpoint", "calibration.lowering.coverage", "export.sources.onnx_file")


@pytest.mark.parametrize("code", [*(f"import fewstep.{module}" for module in MODULES), DOCTOR])
def test_telemetry_is_off_before_onnxruntime_is_imported(code: str, tmp_path: Path) -> None:
    assert quiet(IMPORTING + code, tmp_path) == "1\n"


def test_who_wants_telemetry_says_so(tmp_path: Path) -> None:
    assert quiet(IMPORTING + "import fewstep.graph.session", tmp_path, ORT_DISABLE_TELEMETRY="0") == "0\n"
