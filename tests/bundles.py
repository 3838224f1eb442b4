"""The factory of bundles for tests: graphs of a few nodes, their manifest, and changes of a bundle."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from fewstep.graph.files.io import to_model
from fewstep.graph.graph import Graph, Node, Value
from fewstep.plans.plan import DENOISER
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import Sampler
from fewstep.runtime.bundle.manifest import SCHEMA, Body, GraphEntry, Manifest, Provenance, TensorEntry
from fewstep.runtime.bundle.reading import open_bundle

ROLES = {each: each for each in ("x", "time", "group", "output", "ids", "mask", "latent", "image")}
ROLES |= {"v": "output", "label": "condition", "class": "condition", "hole": "condition", "masked": "condition"}
OBSERVATIONS = ("observation.state", "observation.environment_state", "observation.images.cam0")
ROLES |= {name.replace(".", "_"): "condition" for name in OBSERVATIONS}


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    """node("Add", "x bias", "y"). "-" stands for an omitted input."""
    names = tuple("" if name == "-" else name for name in inputs.split())
    return Node(op, names, tuple(outputs.split()), attributes, outputs.split()[0])


def value(name: str, *shape: int | str, dtype: str = "float32") -> Value:
    return Value(name, np.dtype(dtype), shape)


def small(inputs: list[Value], outputs: list[Value], nodes: list[Node], **constants: Any) -> Graph:
    """A graph; constants given as Python floats or lists of them become float32."""
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    arrays = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}
    return Graph("small", tuple(inputs), tuple(outputs), tuple(nodes), arrays)


def content_of(graph: Graph) -> bytes:
    """Return the bytes of the file that an entry lists, after checking them."""
    made = to_model(graph)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def entry(file: str, graph: Graph, **roles: str) -> GraphEntry:
    """Return the manifest's entry of a graph. Roles are given by tensor name, or derived from it; other tensors are
    rows.
    """

    def tensor(value: Value) -> TensorEntry:
        role: Any = {**ROLES, **roles}.get(value.name, "row")
        return TensorEntry(value.name, role, value.shape, str(value.dtype))

    return GraphEntry(file, tuple(map(tensor, graph.inputs)), tuple(map(tensor, graph.outputs)))


def write_graphs(
    folder: Path,
    graphs: Mapping[str, Graph],
    bodies: Mapping[str, dict[str, Any]],
    files: Mapping[str, bytes] | None = None,
    **fields: Any,
) -> Path:
    """Write a bundle.

    graphs: "body", "prologue" and others, written to graphs/NAME.onnx. bodies: by name, such as "int8-cpu-x86", the
    name of the graph and the other fields of a Body. files: contents of other files. fields: fields of the manifest
    that differ from those of a v prediction on a cosine schedule without conditions.
    """
    graphs = {name: replace(graph, name=name) for name, graph in graphs.items()}
    entries = {name: entry(f"graphs/{name}.onnx", graph) for name, graph in graphs.items()}
    known = {}
    for name, of in bodies.items():
        precision, _, target = name.partition("-")
        rest = {key: each for key, each in of.items() if key != "graph"}
        known[name] = Body.from_graph(entries[of.get("graph", "body")], precision, target or "portable", **rest)
    shape = tuple(graphs["body"].inputs[0].shape[1:])
    contents = {f"graphs/{name}.onnx": content_of(graph) for name, graph in graphs.items()}
    made = manifest_of(known, **{"x_shape": shape, "prologue": entries.get("prologue"), **fields})
    return write(folder, made, {**contents, **(files or {})})


def manifest_of(bodies: Mapping[str, Body], **fields: Any) -> Manifest:
    """Return the manifest of a v prediction on a cosine schedule without conditions; `fields` replace its fields."""
    return Manifest(
        **{
            "schema": SCHEMA,
            "name": "tiny",
            "conditions": (),
            "prediction": "v",
            "schedule": ScheduleSpec("cosine"),
            "prologue": None,
            "bodies": bodies,
            "provenance": Provenance("tiny", "0" * 64, {}, ("fewstep export tiny -o BUNDLE",)),
            "files": {},
            **fields,
        }
    )


def change_bundle(bundle: Path, files: Mapping[str, bytes] | None = None, **fields: Any) -> Path:
    """Return the bundle with other contents of files, their hashes, and other fields of its manifest."""
    return write(bundle, msgspec.structs.replace(open_bundle(bundle).manifest, **fields), files)


def with_body(bundle: Path, name: str, **fields: Any) -> Path:
    """Return the bundle with other fields of one body."""
    bodies = open_bundle(bundle).manifest.bodies
    return change_bundle(bundle, bodies={**bodies, name: msgspec.structs.replace(bodies[name], **fields)})


def with_bodies(bundle: Path, *names: str) -> Path:
    """Return the bundle with these bodies only."""
    bodies = open_bundle(bundle).manifest.bodies
    return change_bundle(bundle, bodies={name: bodies[name] for name in names})


def with_manifest_fields(sampler: Sampler, network: str = DENOISER, **fields: Any) -> Sampler:
    """Return the sampler with a network whose manifest has other fields."""
    bundle = sampler.network(network).bundle
    return sampler.with_network_parts(
        network, bundle=replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, **fields))
    )


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes] | None = None) -> Path:
    """Write files, their hashes and the manifest."""
    contents = files or {}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    made = msgspec.structs.replace(manifest, files={**manifest.files, **hashes})
    (folder / "manifest.json").write_bytes(msgspec.json.encode(made))
    return folder
