"""Files of users import modules of their own folders, as the files are now, and replace no other module."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import fewstep
from fewstep.plans.names.user_code import load_function

INSTALLED = "a_module_that_is_installed"  # and not imported before a test does


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a module whose OWN is "installed"."""
    write(tmp_path / "site" / f"{INSTALLED}.py", "OWN = 'installed'\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, INSTALLED, raising=False)


def write(file: Path, text: str) -> Path:
    """Write a file at one fixed time: Python would take code that was compiled before for up to date."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    os.utime(file, ns=(10**18, 10**18))
    return file


@pytest.mark.parametrize("module", [np, fewstep, pytest])
def test_a_file_named_like_an_imported_module_does_not_replace_it(tmp_path: Path, module: object) -> None:
    name = module.__name__  # type: ignore[attr-defined]
    file = write(tmp_path / f"{name}.py", "def own():\n    return 'mine'\n")
    assert load_function(str(file), "own")() == "mine"
    assert sys.modules[name] is module


def test_a_file_named_like_an_installed_module_does_not_replace_it(tmp_path: Path, installed: None) -> None:
    file = write(tmp_path / "mine" / f"{INSTALLED}.py", "def own():\n    return 'mine'\n")
    assert load_function(str(file), "own")() == "mine"
    assert importlib.import_module(INSTALLED).OWN == "installed"


def test_a_sibling_named_like_an_installed_module_does_not_replace_it(tmp_path: Path, installed: None) -> None:
    write(tmp_path / "mine" / f"{INSTALLED}.py", "OWN = 'mine'\n")
    file = write(tmp_path / "mine" / "solver.py", f"from {INSTALLED} import OWN\ndef own():\n    return OWN\n")
    assert load_function(str(file), "own")() == "mine"
    assert importlib.import_module(INSTALLED).OWN == "installed"


def test_a_file_of_a_name_of_its_own_is_imported_by_that_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a_solver_of_this_test.py", "def own():\n    return __name__\n")
    assert load_function(str(file), "own")() == "a_solver_of_this_test"


@pytest.mark.parametrize("folder", ["mine", "another"])
def test_a_module_that_was_installed_is_left_to_other_code(tmp_path: Path, installed: None, folder: str) -> None:
    """Otherwise a second load drops it, and code that imports it later gets another copy of its classes."""
    for each in ("mine", folder):
        write(tmp_path / each / f"{INSTALLED}.py", f"OWN = {each!r}\n")
        file = write(tmp_path / each / "solver.py", f"from {INSTALLED} import OWN\ndef own():\n    return OWN\n")
        imported = sys.modules.get(INSTALLED)
        load_function(str(file), "own")
        assert sys.modules.get(INSTALLED) is imported
        imported = importlib.import_module(INSTALLED)
    write(file, f"from {INSTALLED} import OWN\ndef own():\n    return OWN + '!'\n")
    assert load_function(str(file), "own")() == f"{folder}!"
    assert sys.modules[INSTALLED] is imported


def test_a_dataclass_of_a_file_named_like_a_module_finds_its_types(tmp_path: Path) -> None:
    code = """from __future__ import annotations
from dataclasses import dataclass
from typing import get_type_hints

class Share: ...

@dataclass
class Options:
    share: Share

def hints():
    return get_type_hints(Options)["share"] is Share
"""
    assert load_function(str(write(tmp_path / "numpy.py", code)), "hints")() is True


def test_a_module_of_a_folder_is_run_again_after_an_edit(tmp_path: Path) -> None:
    file = write(tmp_path / "with_sibling.py", "from numbers_of_it import SHARE\ndef share():\n    return SHARE\n")
    write(tmp_path / "numbers_of_it.py", "SHARE = 0.25\n")
    assert load_function(str(file), "share")() == 0.25
    write(tmp_path / "numbers_of_it.py", "SHARE = 0.75\n")
    assert load_function(str(file), "share")() == 0.75


def test_a_file_is_run_again_after_an_edit_in_the_same_second(tmp_path: Path) -> None:
    for share in (0.25, 0.75):
        file = write(tmp_path / "edited.py", f"def share():\n    return {share}\n")
        assert load_function(str(file), "share")() == share


def test_a_module_of_a_package_in_the_folder_is_run_again(tmp_path: Path) -> None:
    file = write(tmp_path / "of_package.py", "from parts_of_it.one import SHARE\ndef share():\n    return SHARE\n")
    write(tmp_path / "parts_of_it" / "__init__.py", "")
    for share in (0.25, 0.75):
        write(tmp_path / "parts_of_it" / "one.py", f"from . import __name__\nSHARE = {share}\n")
        assert load_function(str(file), "share")() == share


def test_two_files_of_a_folder_share_their_sibling(tmp_path: Path) -> None:
    """Otherwise isinstance fails between a model's file and a file of --change."""
    write(tmp_path / "shared_class.py", "class Shared: ...\n")
    files = [
        write(tmp_path / f"{one}.py", "from shared_class import Shared\ndef get():\n    return Shared\n")
        for one in "ab"
    ]
    assert load_function(str(files[0]), "get")() is load_function(str(files[1]), "get")()
