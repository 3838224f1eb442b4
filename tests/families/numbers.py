"""The numbers of all families in another version of onnxruntime on the same machine, as `.ci/oldest` compares them.

python -m tests.families.numbers make FOLDER      exports and calibrates each family, and stores the outputs of its
                                                  graphs; needs what tests need
python -m tests.families.numbers compare FOLDER   compares them with the outputs here; needs fewstep[cpu] only
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import RUN_ONCE, Arrays, find_graph, graph_names
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, version
from fewstep.runtime.backends.openvino_agreement import relative_difference
from fewstep.runtime.backends.probe import CALLS, probe_feeds, sizes_of_probe
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle, open_bundle

ROWS = 32  # int8 products of this number of rows were wrong in onnxruntime 1.21 to 1.24 on CPUs with AMX
LIMITS = {"float32": 1e-4, "int8": 2e-2}  # of the difference relative to the largest output; a rounding may flip
INT8 = "int8-cpu-x86"


def parts_of(path: Path) -> Iterator[tuple[str, Bundle]]:
    """Yield each network of a bundle with its name."""
    bundle = open_bundle(path)
    for name in networks(bundle.manifest):
        yield name, bundle.select_network(name)


def graphs_of(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Yield the names of the graphs that onnxruntime runs, each with its precision."""
    yield from ((name, "float32") for name in RUN_ONCE if getattr(bundle.manifest, name) is not None)
    for name, body in bundle.manifest.bodies.items():
        if name in ("float32", INT8):
            yield from ((graph, body.precision) for graph in graph_names(name, body))


def outputs(bundle: Bundle, name: str) -> list[Arrays]:
    """Return the outputs of a graph for synthetic inputs. Raises UserError if it is refused."""
    network, graph = OnnxRuntime(threads=1).load(bundle, name), find_graph(bundle, name)
    return [network(probe_feeds(graph, {"batch": ROWS, **sizes_of_probe(bundle)}, seed)) for seed in range(CALLS)]


def output_file(path: Path, network: str, graph: str) -> Path:
    return path.with_name(f"{path.name}-{network}-{graph.replace('/', '-')}.npz")


def say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def make(folder: Path) -> None:
    """Write the bundles, and the outputs of their graphs."""
    from fewstep.calibration.calibrate import calibrate
    from fewstep.calibration.options import CalibrateOptions
    from tests.families.chain import TRAJECTORIES, Chain, export_family, families

    for family in families():
        export = export_family(family, folder / family.stem)
        chain, rows = Chain(family, folder / family.stem, export), None
        if chain.conditions:
            rows = folder / family.stem / "conditions.npz"
            np.savez(rows, **chain.conditions)  # type: ignore[arg-type]
        if INT8 not in family.no:
            plan, target = family.module.PLAN, (INT8.removeprefix("int8-"),)
            calibrate(CalibrateOptions(export.bundle, plan, target, TRAJECTORIES, chain.guidance, conditions=rows))
        store(export.bundle)


def store(path: Path) -> None:
    """Write the outputs of a bundle's graphs."""
    for network, bundle in parts_of(path):
        for graph, _ in graphs_of(bundle):
            calls = enumerate(outputs(bundle, graph))
            values: dict[str, Any] = {f"{call} {name}": output for call, all in calls for name, output in all.items()}
            np.savez(output_file(path, network, graph), **values)


def compare(folder: Path) -> int:
    """Print the graphs that differ or that are refused. Return the number of those that differ."""
    different, compared, refused = 0, 0, set[str]()
    for path in sorted(folder.glob("*/bundle")):
        for network, bundle in parts_of(path):
            for graph, precision in graphs_of(bundle):
                with np.load(output_file(path, network, graph)) as expected:
                    try:
                        calls = enumerate(outputs(bundle, graph))
                    except UserError as error:
                        refused.add(error.what)
                        continue
                    outputs_of = {f"{call} {name}": output for call, all in calls for name, output in all.items()}
                    difference = relative_difference({name: expected[name] for name in outputs_of}, outputs_of)
                compared += 1
                if difference > LIMITS[precision]:
                    different += 1
                    say(f"{path.parent.name}, {network}, {graph}: differs by {difference:.2g} of the largest output")
    say(f"onnxruntime {version()}: {compared} graphs compared, {different} differ", *sorted(refused))
    return different


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        raise SystemExit(min(compare(Path(sys.argv[2])), 1))
