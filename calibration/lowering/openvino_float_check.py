"""Check that OpenVINO computes a large float graph as onnxruntime does, part by part, so that few weights are held
twice.

A part is a sequence of consecutive nodes. Both engines receive onnxruntime's results of the parts before, so a
difference is found in the part where it begins. Fusions across parts are not checked here; they are compared when the
whole body is loaded.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.openvino_kernels import open_compiled
from fewstep.graph.cuts.partition import partition_graph
from fewstep.graph.extents import fix_sizes
from fewstep.graph.files import io
from fewstep.graph.files.weights import release
from fewstep.graph.graph import Array, Graph
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.openvino import version
from fewstep.runtime.backends.openvino_agreement import FIX, LARGEST, random_feeds, relative_difference
from fewstep.runtime.backends.probe import CALLS
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes

SHARE = 16  # approximate number of parts of a graph
LEAST = 32 * 2**20  # smallest weights of a part, in bytes


def check_parts_agree(bundle: Bundle, entry: GraphEntry) -> None:
    """Raise UserError naming the nodes of a bundle's float graph that OpenVINO computes wrong or cannot compile."""
    graph = io.load(bundle.graph(entry), root=bundle.path)
    sizes = {"batch": 1, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    limit = max(LEAST, sum(array.nbytes for array in graph.constants.values()) // SHARE)
    pieces = list(partition_graph(fix_sizes(graph), limit))
    least: tuple[float, str] | None = None
    for seed in range(CALLS):  # one call may differ, if an input is at an edge of an argmax or of a rounding
        worst = _find_worst_part(pieces, random_feeds(entry, sizes, seed))
        if worst is None or worst[0] <= LARGEST:
            return
        least = min(least or worst, worst)
    if least is not None:
        difference, where = least
        raise UserError(
            f"OpenVINO {version()} computes {entry.file} incorrectly, {where}: it differs from onnxruntime by "
            f"{difference:.2g} of the largest output",
            FIX,
        )


def _find_worst_part(pieces: list[Graph], feeds: Mapping[str, Array]) -> tuple[float, str] | None:
    """Return the largest relative difference between the outputs of OpenVINO and of onnxruntime over all parts, and
    the nodes of that part. Return None if an output of onnxruntime is not finite."""
    held, worst = dict(feeds), (0.0, "")
    for number, cut in enumerate(pieces):
        piece = _fix_shape_inputs(cut, held, feeds)
        expected = run(piece, held)
        if not all(np.isfinite(value).all() for value in expected.values()):
            return None
        computed = open_compiled(piece, ())(held)
        release(piece)  # its mapped weights were read
        difference = relative_difference(expected, computed)
        if difference > worst[0] or np.isnan(difference):
            worst = (difference, f"between {piece.nodes[0].output!r} and {piece.nodes[-1].output!r}")
        later = {value.name for piece in pieces[number + 1 :] for value in piece.inputs}
        held = {name: value for name, value in (held | expected).items() if name in later}
    return worst


def _fix_shape_inputs(piece: Graph, held: Mapping[str, Array], feeds: Mapping[str, Array]) -> Graph:
    """Return the piece with integers from earlier pieces as constants. They are shapes, and OpenVINO 2026.4 fails if
    they are inputs."""
    shapes = {port.name: held[port.name] for port in piece.inputs if port.dtype.kind in "iu" and port.name not in feeds}
    inputs = tuple(value for value in piece.inputs if value.name not in shapes)
    return replace(piece, inputs=inputs, constants={**piece.constants, **shapes})
