"""Bundles, plans and data with changed fields, bytes and lengths: a refusal in one line within 3 s, or the samples of
before."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.runtime import load
from lab.tries.attempt import Attempt
from lab.tries.modules import make_bundle

OPS = ("attention", "norm_layers")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    2**63,
    0.5,
    1e308,
    -1e-320,
    "",
    "x",
    "../x",
    "/etc/passwd",
    "a\x00b",
    [],
    [1],
    {},
    {"a": 1},
    [[[]]],
    "NaN",
    "9" * 300,
)
SECONDS = 3.0
FREE = (
    "name",
    "licence",
    "provenance",
    "range",
    "data_range",
    "units",
    "default",
    "null",
    "low",
    "high",
    "typical",
    "labels",
    "schedule",
    "scheduler",
    "grid",
    "verified",
    "coverage",
    "macs",
    "trials",
    "time",
    "beta",
    "tolerance",
    "difference",
    "created",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    folder = Path(tempfile.mkdtemp())
    original = make_bundle(folder, OPS, 8, 5)
    manifest = json.loads((original / "manifest.json").read_text())
    sampler = load(original)
    c = {"label": np.array([1, 2]), "words": np.ones((2, 3), np.float32)}
    plan = json.loads(encode(sampler.compile("dpmpp_2m:4@trailing")))
    right = sampler.sample("dpmpp_2m:4@trailing", [0, 1], c)
    listed = [path for path in places(manifest) if path and path[0] != "provenance"]
    of_plan = [path for path in places(plan) if path]
    graphs = [name for name in manifest["files"] if name.endswith(".onnx")]
    files = [name for name in manifest["files"] if (original / name).stat().st_size < 10**7]
    for index in range(number):
        kind = ("manifest", "plan", "bytes", "cut", "signed bytes", "graph")[index % 6]
        draw = int(random.integers(2**31))

        def run(kind=kind, draw=draw, index=index) -> None:  # type: ignore[no-untyped-def]
            own = np.random.default_rng(draw)
            made = folder / f"b{index}"
            shutil.copytree(original, made)
            started, where = time.process_time(), ""
            try:
                asked: str | Path = "dpmpp_2m:4@trailing"
                document, path = manifest, tuple[Any, ...]()
                if kind == "manifest":
                    path = listed[own.integers(len(listed))]
                    new = VALUES[own.integers(len(VALUES))]
                    where, document = f"{path} = {new!r}", put(manifest, path, new)
                elif kind == "plan":
                    path, new = of_plan[own.integers(len(of_plan))], VALUES[own.integers(len(VALUES))]
                    where, asked = f"{path} = {new!r}", made / "plan.json"
                    asked.write_text(json.dumps(put(plan, path, new)))
                else:
                    name = (graphs if kind == "graph" else files)[
                        own.integers(len(graphs if kind == "graph" else files))
                    ]
                    data = bytearray((made / name).read_bytes())
                    if kind == "cut":
                        data = data[: own.integers(len(data))]
                    elif kind == "graph":
                        model = onnx.load_from_string(bytes(data))
                        node = model.graph.node[own.integers(len(model.graph.node))]
                        change = int(own.integers(5))
                        if change == 0:
                            node.op_type = str(own.choice(["Loop", "If", "Add", "Nothing", "Scan", "MatMul"]))
                        elif change == 1 and node.input:
                            node.input[own.integers(len(node.input))] = str(
                                own.choice(["x", "", "none", node.output[0]])
                            )
                        elif change == 2:
                            node.domain = str(own.choice(["com.microsoft", "evil", "ai.onnx.ml"]))
                        elif change == 3 and node.attribute:
                            node.attribute[0].i = int(own.choice([-(2**40), 2**40, 0, 7]))
                        else:
                            del model.graph.node[own.integers(len(model.graph.node))]
                        where, data = f"{name} {node.op_type} {change}", bytearray(model.SerializeToString())
                    else:
                        for place in own.integers(0, len(data), 3):
                            data[place] ^= 1 << int(own.integers(8))
                    where = where or name
                    (made / name).write_bytes(bytes(data))
                    if kind in ("signed bytes", "graph"):
                        document = put(manifest, ("files", name), hashlib.sha256(bytes(data)).hexdigest())
                (made / "manifest.json").write_text(json.dumps(document))
                try:
                    with load(made) as changed:
                        value = changed.sample(asked, [0, 1], c)
                except UserError as error:
                    assert "\n" not in str(error) and len(str(error)) < 1000, f"{where}: a long message"
                    assert time.process_time() - started < SECONDS, f"{where}: slow"
                    raise
                assert time.process_time() - started < SECONDS, f"{where}: slow"
                is_free = kind in ("plan", "signed bytes", "graph") or any(
                    str(part).split("_")[0] in FREE for part in path
                )
                assert np.isfinite(value).all() or is_free, f"{where}: not finite"
                assert is_free or np.abs(value - right).max() < 1e-6, f"{where}: other samples"
            finally:
                shutil.rmtree(made)

        yield Attempt(f"{kind} {draw}", run, may_refuse=True)
