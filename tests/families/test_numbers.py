"""Numbers of another version of onnxruntime are compared, those of int8 too."""

import shutil
from pathlib import Path

import pytest

from fewstep.runtime.backends.onnxruntime import Session
from tests.families.numbers import compare, store


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A family of one bundle, and its numbers."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "families" / "tiny" / "bundle")
    store(bundle)
    return bundle.parents[1]


def test_the_same_version_agrees(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folder) == 0
    assert "3 graphs compared, 0 differ" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "differ"), [(1e-6, 0), (0.01, 2), (0.1, 3)])
def test_another_number_is_named(
    change: float, differ: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Session.__call__
    monkeypatch.setattr(
        Session, "__call__", lambda *given: {name: value * (1 + change) for name, value in right(*given).items()}
    )
    assert compare(folder) == differ
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "tiny, denoiser" in line]) == differ
