"""Write a baked run: the file, its weights and its test vector."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fewstep.graph.bake.metadata import Baked, encode_metadata
from fewstep.graph.bake.seal import seal
from fewstep.graph.files import io, weights
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.onnx_references import external_data_files
from fewstep.runtime.interrupts import check_interrupted
from fewstep.runtime.progress import Progress

MESSAGE_LIMIT = 2**31 - 2**24  # bytes of weights in one ONNX file, with room for the graph
# Bytes of weights inside loops. More are stored in a separate file, since onnxruntime would hold them twice.
SEPARATE_FILE_ABOVE = 2**23


def write_run(
    graph: Graph, output: Path, baked: Baked, sizes: Mapping[str, int], one_file: bool, progress: Progress
) -> tuple[Baked, tuple[Path, ...]]:
    """Write the files. Return the description with the test vector and the checksum, and the files' paths.

    The old graph and all its weights stay until the new graph is in place.
    """
    folder = output.parent
    try:
        with TemporaryDirectory(dir=folder, prefix=".fewstep-bake-") as scratch:
            written = io.save(
                graph, Path(scratch) / output.name, _limit(graph, one_file), metadata=encode_metadata(baked)
            )
            progress("test vector", 0, 1)
            baked = seal(written, baked, sizes)
            progress("test vector", 1, 1)
            previous = _weight_files(output)
            check_interrupted()
            for file in reversed(written):  # the graph last, since it names the others
                os.replace(file, folder / file.name)
        for name in previous - {file.name for file in written}:
            with suppress(OSError):  # on Windows another program may have it open
                (folder / name).unlink()
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror or error})",
            "check its folder, the permissions and the space left, or give another path",
        ) from None
    return baked, tuple(folder / file.name for file in written)


def _weight_files(output: Path) -> frozenset[str]:
    """Return the names of weight files of an earlier bake with this output."""
    ours = re.compile(rf"{re.escape(output.stem)}-[0-9a-f]{{12}}{re.escape(output.suffix)}\.data")
    try:
        return frozenset(name for name in external_data_files(output) if ours.fullmatch(name))
    except (OSError, ValueError):  # no such file, or not an ONNX file
        return frozenset()


def _limit(graph: Graph, one_file: bool) -> int:
    """Return the limit of weight bytes above which weights go to a separate file."""
    in_loops = weights.weight_bytes(graph) - sum(array.nbytes for array in graph.constants.values())
    if one_file:
        return MESSAGE_LIMIT
    return 0 if in_loops > SEPARATE_FILE_ABOVE else io.EXTERNAL_ABOVE
