"""The engine that `fewstep run` loads: the one that is named, or that of the last choice on this machine."""

from dataclasses import replace
from pathlib import Path
from typing import cast

from fewstep.report.choosing.chosen import Chosen
from fewstep.report.choosing.engines import for_rows
from fewstep.runtime.backends.named import named
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler


def opened(path: Path, precision: str, backend: str, threads: int, rows: int, choice: Chosen | None) -> Sampler:
    """The bundle, ready to run calls of the network on `rows` rows of x. A choice says whether waiting threads spin."""
    engine = for_rows(named(backend, threads), rows)
    if choice is not None and not choice.winner.engine.spinning:
        engine = replace(cast(OnnxRuntime, engine), spinning=False)
    return load(path, precision, backend=engine)
