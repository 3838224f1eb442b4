"""Calls of a form and of its portable graph, in a module with few imports, since their processes import it."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.plans.errors import UserError


def agree(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    return {"": lambda: {"v": np.ones(2)}}


def differ(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    return {"": lambda: {"v": np.ones(2) + is_form}}


def refuse_form(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    if is_form:
        raise UserError("no such operation", "")
    return {"": lambda: {"v": np.ones(2)}}


def die(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    if is_form:
        os._exit(9)
    return {"": lambda: {"v": np.ones(2)}}


def lack_memory_to_open(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    if is_form:
        raise UserError("CUDA failure 2: out of memory", "")
    return {"": lambda: {"v": np.ones(2)}}


def lack_memory(path: Path, network: str, name: str, is_form: bool, rows: int) -> Any:
    def run() -> Any:
        if is_form:
            raise RuntimeError("CUDA failure 2: out of memory")
        return {"v": np.ones(2)}

    return {"": run}
