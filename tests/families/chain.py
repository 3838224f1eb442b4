"""Take a family of denoisers through everything that fewstep does, and keep what was found at each step.

A family is a file of this folder, or of one in it, that says NAME. It is made tiny, with random weights:

    NAME = "UNet2DModel (diffusers)"      its row in lab/families.md
    PLAN = "dpmpp_2m:2"                   what it is run with
    GUIDANCE: float | None = None
    NO: dict[str, str] = {}               step of `COLUMNS` -> why it cannot be, in a few words
    def make()                            returns (module, Spec): the file itself is what `fewstep export` takes. Or
    SOURCE: str                           what it takes, from the root of the clone. Or
    def make(folder: Path) -> ...         writes a model; returns what it takes, as text, or a dict of fields of
                                          ExportOptions
"""

import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.options import CalibrateOptions
from fewstep.export import export as verb
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Source, TracedDenoiser
from fewstep.graph.describe import describe
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.seeds import draw_condition
from fewstep.runtime.backends import RUN_ONCE
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.conditions import random_range
from fewstep.runtime.bundle.engine_key import Sidecar
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load

FOLDER = Path(__file__).parent
SEEDS = (0, 1)
TRAJECTORIES = 4
DEVICE = "sm89"
COLUMNS: Mapping[str, str] = {  # step -> the column's title, in the order of the chain
    "export": "export",
    "float32": "float32",
    "float16": "float16",
    "prologue": "prologue",
    "plan": "plan",
    "onnxruntime": "prologue once",
    "openvino": "OpenVINO",
    "int8-cpu-x86": "int8 cpu-x86",
    "int8-tensorrt": "int8 tensorrt",
    "tensorrt-rtx": "TensorRT-RTX",
}
LIMITS: Mapping[str, float] = {  # of the largest difference, relative to the largest value; int8: of the RMS of both,
    # and of likeliest tokens that differ
    "float32": 1e-4,
    "float16": 2e-2,
    "onnxruntime": 1e-5,
    "openvino": 1e-3,
    "int8-cpu-x86": 0.2,
    "int8-tensorrt": 0.2,
}
OPTIONAL: Mapping[str, str] = {"openvino": "openvino", "tensorrt-rtx": "tensorrt_rtx"}  # step -> the module it needs


@dataclass(frozen=True)
class Found:
    """The result of a step: a difference, a remark, or both."""

    difference: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Family:
    """A file of this folder."""

    stem: str
    module: ModuleType = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.module.NAME)

    @property
    def no(self) -> Mapping[str, str]:
        return getattr(self.module, "NO", {})

    def source(self, folder: Path) -> str | dict[str, Any]:
        """Return the source for `fewstep export`, which may be written to a folder."""
        if (source := getattr(self.module, "SOURCE", None)) is not None:
            return str(FOLDER.parents[1] / source) if ":" in source else source
        return self.module.make(folder) if signature(self.module.make).parameters else f"{self.module.__file__}:make"


def families() -> list[Family]:
    """Return all families, by the name of the row."""
    files = [path for path in sorted(FOLDER.rglob("*.py")) if "\nNAME = " in path.read_text()]
    return sorted((Family(path.stem, _load(path)) for path in files), key=lambda family: family.name.lower())


def available(step: str) -> bool:
    """Return whether the packages of a step are installed."""
    return step not in OPTIONAL or importlib.util.find_spec(OPTIONAL[step]) is not None


@dataclass(frozen=True)
class Exported:
    """The source of a family, its bundle, and its trace."""

    source: str | dict[str, Any]
    bundle: Path
    traced: tuple[TracedDenoiser, ...]


def export_family(family: Family, folder: Path) -> Exported:
    """Export to `folder`/bundle by the verb, and record its trace, so that the exported graph can run uncut."""
    folder.mkdir(parents=True, exist_ok=True)
    source, kept = family.source(folder), []
    options = source if isinstance(source, dict) else {"source": source}
    loaded = verb.load_changed_source  # as the options change it

    def watch(*arguments: Any, **named: Any) -> Source:
        return _Watched(loaded(*arguments, **named), kept)  # type: ignore[return-value]

    verb.load_changed_source = watch
    try:
        export(ExportOptions(output=folder / "bundle", **options))
    finally:
        verb.load_changed_source = loaded
    return Exported(source, folder / "bundle", tuple(kept))


def prove(family: Family, folder: Path, made: Exported | None = None) -> dict[str, Found]:
    """Run the chain in a folder and return the result of each step, without steps whose engine is not installed.

    Fails if a step fails that is not in NO, or if one in NO works. `made`: an existing export, which is not changed.
    """
    chain, found = Chain(family, folder, made), {}
    for step, run in STEPS.items():
        if not available(step):
            continue
        try:
            found[step] = run(chain)
        except Exception:
            if step not in family.no:
                raise
        else:
            assert step not in family.no, f"{family.name}: {step} works; take it out of NO"
    return found


@dataclass
class Chain:
    """A family in the chain: each step finds the bundle that the previous step left."""

    family: Family
    folder: Path
    made: Exported | None = None

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def manifest(self) -> Manifest:
        return open_bundle(self.bundle).manifest

    @cached_property
    def float32(self) -> NDArray[np.float32]:
        return self.sample()

    def graph(self, name: str = "float32") -> Graph:
        bundle = open_bundle(self.bundle)
        graph = getattr(bundle.manifest, name) if name in RUN_ONCE else bundle.body(name).graph
        return io.load(bundle.graph(graph), root=bundle.path)

    @cached_property
    def conditions(self) -> dict[str, NDArray[Any]]:
        """Return as many rows of each condition as calibration takes: drawn from the bundle's range, or else normal."""
        rng = np.random.default_rng(0)
        return {
            condition.name: rng.standard_normal((TRAJECTORIES, *condition.shape)).astype(condition.dtype)
            if random_range(condition) is None
            else np.stack([draw_condition(condition, number, seed) for seed in range(TRAJECTORIES)])
            for number, condition in enumerate(self.manifest.conditions)
        }

    def sample(self, bundle: Path | None = None, **how: Any) -> NDArray[np.float32]:
        """Return two samples."""
        condition = {name: rows[: len(SEEDS)] for name, rows in self.conditions.items()}
        with load(bundle or self.bundle, **how) as sampler:
            return sampler.sample(self.family.module.PLAN, SEEDS, condition, self.guidance)

    @property
    def guidance(self) -> float | None:
        return getattr(self.family.module, "GUIDANCE", None)


def _export(chain: Chain) -> Found:
    if chain.made is None:
        chain.made = export_family(chain.family, chain.folder)
    else:
        shutil.copytree(chain.made.bundle, chain.bundle)
    return Found(text=f"{len(chain.graph().nodes)} nodes")


@dataclass(frozen=True)
class _Watched:
    """A source that keeps its trace."""

    source: Source
    kept: list[TracedDenoiser]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def trace(self) -> TracedDenoiser:
        self.kept.append(self.source.trace())
        return self.kept[-1]


def _worst_comparison(*stages: str, has_edges: bool = True) -> Callable[[Chain], Found]:
    """Return the worst comparison in the bundle's table, with or without the edges of conditions."""

    def read(chain: Chain) -> Found:
        table = json.loads(open_bundle(chain.bundle).read(chain.manifest.verification or ""))
        compared = [
            each for each in table["comparisons"] if each["stage"] in stages and (has_edges or not each["edge"])
        ]
        return Found(max(each["relative"] for each in compared))

    return read


def _prologue(chain: Chain) -> Found:
    """Return the prologue's rows, and the share of the multiplications and of the weights that leave the loop."""
    ahead = [chain.graph(name) for name in RUN_ONCE if getattr(chain.manifest, name) is not None]
    assert ahead
    work = [sum(count_operation_macs(graph).values()) for graph in (*ahead, chain.graph())]
    size = [sum(array.nbytes for array in graph.constants.values()) for graph in (*ahead, chain.graph())]
    shares = [100 * sum(parts[:-1]) / max(sum(parts), 1) for parts in (work, size)]
    rows = len({tensor.name for tensor in chain.manifest.bodies["float32"].graph.inputs if tensor.role == "row"})
    return Found(text=f"{rows} row{'s' * (rows > 1)}, {shares[0]:.0f} % of MACs, {shares[1]:.0f} % of weights")


def _plan(chain: Chain) -> Found:
    assert np.isfinite(chain.float32).all()
    weight = "" if chain.guidance is None else f", guidance {chain.guidance:g}"
    return Found(text=f"`{chain.family.module.PLAN}`{weight}")


def _uncut(chain: Chain) -> Found:
    """Run the plan on the graph as exported, without prologue and rewrites, in a copy of the bundle."""
    uncut = chain.folder / "uncut"
    shutil.copytree(chain.bundle, uncut)
    assert chain.made is not None
    graph, inputs = chain.made.traced[0].graph, [condition.input for condition in chain.manifest.conditions]
    with open_for_update(uncut, must_exist=True) as writer:
        whole = Body.from_graph(
            describe(graph, *io.store(writer, graph, "whole"), conditions=inputs), "float32", "portable"
        )
        writer.commit(
            msgspec.structs.replace(chain.manifest, conditioner=None, prologue=None, bodies={"float32": whole})
        )
    return Found(_distance(chain.sample(uncut), chain.float32))


def _openvino(chain: Chain) -> Found:
    return Found(_distance(chain.sample(backend=OpenVino(cached=False)), chain.float32))


def _int8(target: str) -> Callable[[Chain], Found]:
    """Calibrate for both targets at the first request. The body of tensorrt is simulated."""

    def run(chain: Chain) -> Found:
        wanted = tuple(name for name in ("cpu-x86", "tensorrt") if f"int8-{name}" not in chain.family.no)
        if f"int8-{target}" not in chain.manifest.bodies:
            rows = None
            if chain.conditions:
                rows = chain.folder / "conditions.npz"
                np.savez(rows, **chain.conditions)  # type: ignore[arg-type]
            plan = chain.family.module.PLAN
            calibrate(CalibrateOptions(chain.bundle, plan, wanted, TRAJECTORIES, chain.guidance, conditions=rows))
        covered = chain.manifest.bodies[f"int8-{target}"].graph.coverage
        assert covered is not None and covered.int8_macs > 0
        share = f"{100 * covered.int8_macs / covered.total_macs:.0f} % of MACs"
        (trial,) = chain.manifest.bodies[f"int8-{target}"].trials
        samples = chain.sample(body=f"int8-{target}")
        if trial.tokens is not None:
            return Found(trial.tokens.disagreement, share)
        difference = samples - chain.float32
        return Found(float(np.linalg.norm(difference) / np.linalg.norm(chain.float32)), share)

    return run


def _tensorrt_rtx(chain: Chain) -> Found:
    """Build engines of the int8 body and of the prologue for one GPU. Return the types in which their convolutions
    multiply.
    """
    precision = "float16" if "int8-tensorrt" in chain.family.no else "int8"
    built = build(BuildOptions(chain.bundle, device=(DEVICE,), precision=precision))  # type: ignore[arg-type]
    bundle = open_bundle(chain.bundle)
    types: Counter[str] = Counter()
    for engine in built.built:
        if engine.body not in RUN_ONCE:
            types.update(msgspec.json.decode(bundle.read(engine.sidecar), type=Sidecar).convolutions)
    assert not types["float32"]
    count = len(built.built)
    return Found(text=f"{count} engine{'s' * (count > 1)}")


def _distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference, relative to the largest value; for tokens, the share of different ones."""
    if expected.dtype.kind == "i":
        return float((found != expected).mean())
    return float(np.abs(found - expected).max() / np.abs(expected).max())


STEPS: Mapping[str, Callable[[Chain], Found]] = {
    "export": _export,
    "float32": _worst_comparison("exported", "prepared"),
    # without edges: under an empty mask of -10000, which diffusers adds, float16 cannot tell scores from each other
    "float16": _worst_comparison("float16", has_edges=False),
    "prologue": _prologue,
    "plan": _plan,
    "onnxruntime": _uncut,
    "openvino": _openvino,
    "int8-cpu-x86": _int8("cpu-x86"),
    "int8-tensorrt": _int8("tensorrt"),
    "tensorrt-rtx": _tensorrt_rtx,
}


def _load(path: Path) -> ModuleType:
    """Load the file as a module."""
    spec = importlib.util.spec_from_file_location(f"family_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
