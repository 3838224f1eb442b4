"""`fewstep run --memory`: its plan, its limits, and stages that are released before the next one begins."""

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import onnxruntime
from fewstep.runtime.backends.onnxruntime import Session
from tests.runtime.text_bundle import with_companions


@pytest.mark.parametrize(
    "options", [{"tiles": "8:2"}, {"chosen": True}, {"backend": "openvino"}, {"image": Path("x.png"), "strength": 0.5}]
)
def test_options_whose_memory_is_not_planned_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--memory"):
        RunOptions(tmp_path, memory="2GB", **options)


@pytest.mark.parametrize("memory", ["2", "much"])
def test_a_budget_has_a_unit(tmp_path: Path, memory: str) -> None:
    with pytest.raises(UserError, match="as 2GB or 800MB"):
        RunOptions(tmp_path, memory=memory)


def test_each_stage_is_closed_before_the_next_opens(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, weakref.ref[Session]]] = []
    open_session, open_when = onnxruntime._open_session, []

    def watch(engine: Any, model: Any, name: str, options: Any) -> Session:
        open_when.append((name, [other for other, session in opened if session() is not None]))
        session = open_session(engine, model, name, options)
        opened.append((name, weakref.ref(session)))
        return session

    monkeypatch.setattr(onnxruntime, "_open_session", watch)
    bundle, output = with_companions(tiny_bundle), tmp_path / "x.png"
    run(RunOptions(bundle, "ddim:2", prompt=("a cat",), output=output))
    (text, no_others), *denoiser, (decoder, before_it) = open_when
    assert (text, no_others, decoder, before_it) == ("text.onnx", [], "decoder.onnx", [])
    assert all("text.onnx" not in others for _, others in denoiser) and denoiser


@pytest.mark.slow
def test_the_true_peak_is_at_most_the_expected_one(tiny_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fewstep.cli", "run", with_companions(tiny_bundle), "--plan", "ddim:2"]
    command += ["-p", "a cat", "-o", tmp_path / "x.png", "--memory", "1GB", "--json"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    value = json.loads(made.stdout)
    assert value["peak_bytes"] <= value["expected_peak_bytes"] <= 1.5 * value["peak_bytes"]
    assert "memory, one stage after the other: text encoder" in made.stderr
