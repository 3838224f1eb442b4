"""The promises of docs/bundle.md about the whole: nothing unpickles or evaluates, and reading writes nothing."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fewstep.runtime
from fewstep.report.integrity import VerifyOptions, verify
from tests.packages import ONE_PROCESS, PACKAGES, nodes, parse_source

ROOT = Path(__file__).parent.parent
SOURCES = (*PACKAGES, "benchmarks", "lab", "zoo", "docs/examples")
UNPICKLING = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
# Workers take jobs from the process that started them, over its own pipes. No file is unpickled there.
BETWEEN_PROCESSES = {f"measure/workers/{name}.py" for name in ("child", "job", "worker_process")}
LOADING = ("torch.load", "load_state_dict_from_url")
EVALUATING = {"eval", "exec", "compile", "__import__"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in SOURCES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), parse_source(path)


def keywords(call: ast.Call) -> dict[str | None, Any]:
    return {word.arg: getattr(word.value, "value", ...) for word in call.keywords}


@ONE_PROCESS
def test_nothing_can_unpickle() -> None:
    for name, module in modules():
        for node in nodes(module):
            if isinstance(node, ast.Import):
                imported = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {(node.module or "").partition(".")[0]}
            else:
                imported = set()
            allowed = {"pickle"} if name in BETWEEN_PROCESSES else set()
            assert imported.isdisjoint(UNPICKLING - allowed), f"{name}:{node.lineno}"
            if isinstance(node, ast.Call):
                given, called = keywords(node), getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert given.get("allow_pickle") in (None, False), f"{name}:{node.lineno}"
                if called in ("load", "load_state_dict_from_url") and ast.unparse(node.func) in LOADING:
                    assert given.get("weights_only") is True, f"{name}:{node.lineno}"


@ONE_PROCESS
def test_nothing_evaluates_text() -> None:
    for name, module in modules():
        for node in nodes(module):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in EVALUATING, f"{name}:{node.lineno}: {node.func.id}"


def test_sampling_does_not_even_touch_pickle(tiny_bundle: Path) -> None:
    code = """
import pickle, sys

def refuse(*_, **__):
    raise SystemExit("unpickled")

pickle.load = pickle.loads = refuse
import fewstep.runtime
with fewstep.runtime.load(sys.argv[1]) as sampler:
    sampler.sample("ddim:2", seeds=[0], condition={"class": [0]})
print("sampled")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], capture_output=True, text=True)
    assert done.stdout == "sampled\n", done.stderr


_watching: list[Path] = []
_written: list[str] = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and (event in CHANGES or event == "open" and (arguments[2] or 0) & WRITES):
        _written.append(f"{event} {arguments[0]}")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List the files that Python opened for writing, or changed, in a test. An audit hook stays, but stops
    recording.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.addaudithook(_hook)
    _written.clear()
    _watching.append(Path())
    yield _written
    _watching.clear()


def test_reading_a_bundle_writes_nothing_so_one_on_a_read_only_disk_runs(tiny_bundle: Path, written: list[str]) -> None:
    for precision in ("float32", "int8"):
        with fewstep.runtime.load(tiny_bundle, precision) as sampler:
            sampler.sample("ddim:2", seeds=[0], condition={"class": [0]}, guidance=2.0)
    assert verify(VerifyOptions(tiny_bundle)).is_whole
    assert written == []
    (tiny_bundle / "seen").write_bytes(b"")
    assert written
