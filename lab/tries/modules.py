"""Exported networks of unusual operations against torch, at batches, times and values that export did not visit."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import Sampler, load
from lab.tries.attempt import Attempt, check_close
from lab.tries.odd_networks import OPS, build

INPUTS = ("batch of 5", "one row", "large", "zeros", "late", "rows alone")


def make_bundle(folder: Path, ops: tuple[str, ...], width: int, seed: int) -> Path:
    (folder / "own.py").write_text(
        f"from lab.tries.odd_networks import build\n\ndef make():\n    return build({ops!r}, {width}, {seed})\n"
    )
    export(ExportOptions(f"{folder / 'own.py'}:make", folder / "bundle", verify="quick"))
    return folder / "bundle"


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    names = list(OPS)
    for index in range(-(-number // len(INPUTS))):
        ops = (names[index % len(names)], str(random.choice(names)))
        width, seed = int(random.choice([8, 12])), int(random.integers(2**31))
        folder = Path(tempfile.mkdtemp())
        opened: list[Sampler | Exception] = []

        def open_one(ops=ops, width=width, seed=seed, folder=folder, opened=opened) -> Sampler:  # type: ignore[no-untyped-def]
            if not opened:
                try:
                    opened.append(load(make_bundle(folder, ops, width, seed)))
                except Exception as error:
                    opened.append(error)
            if isinstance(opened[0], Exception):
                raise opened[0]
            return opened[0]

        for what in INPUTS:
            if what == "zeros" and "top" in ops:
                continue  # of equal values, torch does not say which places are the largest

            def run(what=what, open_one=open_one, ops=ops, width=width, seed=seed) -> None:  # type: ignore[no-untyped-def]
                sampler, (module, _) = open_one(), build(ops, width, seed)
                own = np.random.default_rng(seed + 1)
                rows = 1 if what == "one row" else 5
                x = own.standard_normal((rows, 2, 8, 8)).astype(np.float32) * {"large": 6, "zeros": 0}.get(what, 1)
                time = {"late": 999.0, "zeros": 0.0}.get(what, float(own.integers(1, 998)))
                label, words = own.integers(0, 5, rows), own.standard_normal((rows, 3)).astype(np.float32)
                with torch.no_grad():
                    right = module(*map(torch.from_numpy, (x, np.full(rows, time, np.float32), label, words))).numpy()
                if what == "rows alone":
                    value = np.concatenate(
                        [
                            sampler.evaluate(x[i : i + 1], time, {"label": label[i : i + 1], "words": words[i : i + 1]})
                            for i in range(rows)
                        ]
                    )
                else:
                    value = sampler.evaluate(x, time, {"label": label, "words": words})
                check_close(value, right, 5e-5)

            yield Attempt(f"{ops} of width {width}, {what}, seed {seed}", run, may_refuse=True)
