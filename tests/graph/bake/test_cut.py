"""A baked run in parts: what each part takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fewstep.graph.bake.bake import BakeOptions, assembled
from fewstep.graph.bake.cut import cut
from fewstep.graph.graph import Value


def test_a_part_keeps_the_optional_inputs_that_it_reads(tiny_bundle: Path, tmp_path: Path) -> None:
    run, _ = assembled(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run.onnx", guidance=2.0))
    graph, whole = run.graph, cut(run)
    loop = next(node for node in graph.nodes if node.op == "Loop")
    body = loop.attributes["body"]
    name = next(name for name, array in body.constants.items() if array.dtype == np.float32 and array.ndim > 1)
    weight = body.constants[name]
    inner = replace(body, constants={other: array for other, array in body.constants.items() if other != name})
    nodes = [
        replace(node, attributes={**node.attributes, "body": inner}) if node is loop else node for node in graph.nodes
    ]
    optional = (Value(name, weight.dtype, weight.shape),)
    parts = cut(replace(run, graph=replace(graph.with_nodes(nodes), optional=optional)))
    assert parts.steps[0].graph.optional == optional and parts.steps[0].fixed == whole.steps[0].fixed
    assert parts.ahead.outputs == whole.ahead.outputs and parts.behind.inputs == whole.behind.inputs
