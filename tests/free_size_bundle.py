"""The tiny bundle with a body whose height and width are free, and a picture that follows them."""

from pathlib import Path

import numpy as np

from fewstep.graph.graph import Graph
from fewstep.runtime.bundle.manifest import Body, Condition, Size
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, content_of, entry, node, small, value

HEIGHT, WIDTH = Size("height", 1, low=2, high=12, multiple=2), Size("width", 2, low=4, high=8, multiple=4)
PICTURE = Condition("picture", "picture", (1, 8, 4), "float32", follows={1: "height*2", 2: "width"})


def body() -> Graph:
    """v = x / 2 + row + the upper half of the picture."""
    return small(
        [
            value("x", "batch", 1, "height", "width"),
            value("row", "batch", 1),
            value("picture", "batch", 1, "height*2", "width"),
        ],
        [value("v", "batch", 1, "height", "width")],
        [
            node("Mul", "x half", "halved"),
            node("Reshape", "row planes", "plane"),
            node("Add", "halved plane", "sum"),
            node("Split", "picture", "upper lower", axis=2, num_outputs=2),
            node("Add", "sum upper", "v"),
        ],
        half=0.5,
        planes=np.array([-1, 1, 1, 1]),
    )


def free(folder: Path, **changes: object) -> Path:
    """Change the tiny bundle in this folder, and fields of its manifest."""
    graph = entry("graphs/body.onnx", body(), picture="condition")
    fields = {
        "bodies": {"float32": Body.from_graph(graph, "float32", "portable")},
        "conditions": (*open_bundle(folder).manifest.conditions, PICTURE),
        "sizes": (HEIGHT, WIDTH),
    }
    return change_bundle(folder, {"graphs/body.onnx": content_of(body())}, **{**fields, **changes})
