"""fewstep.runtime where only numpy, msgspec, safetensors and onnxruntime can be imported."""

import subprocess
import sys
from pathlib import Path

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
SCRIPT = Path(__file__).parent.parent / "empty_environment.py"


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


def test_without_onnxruntime_loading_names_the_pip_command(tiny_bundle: Path) -> None:
    code = "BLOCKED.add('onnxruntime'); import fewstep.runtime; fewstep.runtime.load(sys.argv[1])"
    done = python(code, str(tiny_bundle))
    assert "no inference engine" in done.stderr and "pip install 'fewstep[cpu]'" in done.stderr


def test_the_command_without_typer_names_the_pip_command() -> None:
    done = python("from fewstep.cli.main import main; sys.exit(main(['--help']))")
    assert done.returncode == 1
    assert done.stderr == "fewstep: this needs typer, which is not installed; pip install 'fewstep[cli]'\n"
