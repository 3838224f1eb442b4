"""Write a run for a program that contains the loop itself, such as steps.cpp: the part before the loop, one step, and
the part after it.

    python docs/examples/baked/steps.py BUNDLE FOLDER [--body int8-qnn] [--plan dpmpp_2m:8] [--guidance 2] [--batch 1]

The files are before.onnx, step.onnx, after.onnx and steps.txt in FOLDER. The step has fixed shapes, as processors of
phones require. It contains the network, guidance and the update; the coefficients of all steps are in a table, in which
the index of the step selects a row. steps.txt has the number of steps, the name of the input for the index, and one
line for each row of the state with its names before the loop, before a step, after it, and after the loop.
"""

import argparse
import sys
from pathlib import Path

from fewstep.graph.bake.assemble import BakedRun
from fewstep.graph.bake.bake import assemble_run
from fewstep.graph.bake.example_inputs import example_inputs
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.split_run import fix_shapes, split_run
from fewstep.graph.files.io import save
from fewstep.graph.graph import BATCH
from fewstep.graph.session import open_session
from fewstep.runtime import UserError
from fewstep.runtime.bundle.reading import open_bundle


def write(bundle: Path, folder: Path, body: str | None, plan: str, guidance: float | None, batch: int) -> None:
    """Write the parts of a run. A body with several graphs has several kinds of steps, which steps.cpp does not
    support."""
    run, holds = assemble_run(
        BakeOptions(bundle, plan, folder / "run.onnx", body=body, guidance=guidance, latents=True)
    )
    _check_inputs(bundle, run)
    parts = split_run(run)
    (steps,) = parts.steps
    feeds = example_inputs(holds, {BATCH: batch})
    values = {**feeds, **open_session(parts.before)(feeds)}
    for before, state in zip(parts.start, steps.state, strict=True):
        values[state] = values[before]
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in (("before", parts.before), ("step", fix_shapes(steps, values)), ("after", parts.after)):
        save(graph, folder / f"{name}.onnx")
    rows = zip(parts.start, steps.state, steps.nexts, steps.after, strict=True)
    lines = [str(steps.count), steps.number, *map(" ".join, rows)]
    (folder / "steps.txt").write_text("\n".join(lines) + "\n")


def _check_inputs(path: Path, run: BakedRun) -> None:
    """Raise UserError for an input that steps.cpp does not provide. It provides noise, and conditions of one number."""
    text = open_bundle(path).manifest.text
    encoded = () if text is None else tuple(value.name for value in text.graph.outputs)
    for port in run.inputs:
        if port.meaning not in ("noise", "condition") or port.name in encoded:
            what = "an encoded prompt" if port.name in encoded else port.meaning
            raise UserError(
                f"the run takes {port.name!r} ({what}), which steps.cpp does not provide", "run the bundle in Python"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--body", help="by default float32")
    parser.add_argument("--plan", default="dpmpp_2m:8")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    write(given.bundle, given.folder, given.body, given.plan, given.guidance, given.batch)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"steps: {error}")
