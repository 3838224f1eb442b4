"""benchmarks/quantization/making.py and tools/: tools get every row, and one that fails says why."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.quantization import compare, making
from benchmarks.quantization.contenders import TOOLS, Contender
from benchmarks.quantization.making import quantize, reason
from benchmarks.quantization.material import Material
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import denoiser


def test_nncf_is_given_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("nncf", "nncf.quantization", "nncf.quantization.range_estimator", "onnx")
    for name in parts:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[parts[2]], "RangeEstimatorParametersSet", object, raising=False)
    script = runpy.run_path(str(making.SCRIPTS / "nncf_ptq.py"))
    np.savez(tmp_path / "0.npz", x=np.arange(6).reshape(3, 2), row=np.arange(3))
    np.savez(tmp_path / "1.npz", x=np.arange(6, 10).reshape(2, 2), row=np.arange(3, 5))
    rows = [script["one_row"](item) for item in script["rows"](tmp_path)]
    assert [row["row"].tolist() for row in rows] == [[0], [1], [2], [3], [4]]
    assert [row["x"].tolist() for row in rows[2:4]] == [[[4, 5]], [[6, 7]]]


def test_a_python_is_found_from_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nncf/bin").mkdir(parents=True)
    (tmp_path / "nncf/bin/python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert compare.environments(["nncf_ptq=nncf/bin/python"])["nncf_ptq"] == str(tmp_path / "nncf/bin/python")
    assert compare.environments(["nncf_ptq=sh"])["nncf_ptq"].endswith("/sh")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('of /here/float.onnx')", "ValueError: of /here/float.onnx"),
        ("raise SystemExit(3)", "its process ended with 3"),
        ("import time; time.sleep(60)", "took more than 2 s"),
        (None, "its Python does not start: No such file or directory"),
    ],
)
def test_a_tool_that_fails_says_why_without_advice(
    code: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ort_static.py").write_text(code or "")
    monkeypatch.setattr(making, "SCRIPTS", tmp_path)
    if "sleep" in (code or ""):
        monkeypatch.setattr(making, "TIMEOUT", 2.0)
    line = Contender("onnxruntime", TOOLS["ort_static"], "defaults")
    with pytest.raises(UserError) as raised:
        quantize(line, Material(tmp_path, denoiser()), sys.executable if code else "/no/python")
    assert raised.value.what == reason(raised.value, ()) == said
    assert list(tmp_path.iterdir()) == [tmp_path / "ort_static.py"]


def test_reasons_have_no_paths_of_this_machine(tmp_path: Path) -> None:
    material, environment = tmp_path / "work/0a1b", tmp_path / "nncf"
    error = ValueError(f"[{material}/float.onnx] and {environment}/lib/x.py of node /down/conv\nmore")
    found = reason(error, [material, environment, Path("/")])
    assert found == "[0a1b/float.onnx] and nncf/lib/x.py of node /down/conv"
    assert reason(UserError("it broke", "do this"), []) == "it broke" and reason(KeyError(), []) == "KeyError"
