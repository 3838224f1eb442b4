"""Times of kernels on this GPU. A builder that measures them starts from the times of the engines before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.graph.engines.builders import EngineBuilder
from fewstep.runtime.bundle.engine_key import EngineKey, Here
from fewstep.runtime.machine import cache


@contextmanager
def timings(builder: EngineBuilder, of: EngineKey | Here, file: Path) -> Iterator[Path | None]:
    """The file that a builder reads measurements from and writes them to; None if it measures nothing.

    The user's cache folder keeps them for this GPU and version, unless the builder fails.
    """
    if not builder.sees_gpu:
        yield None
        return
    name = f"{of.backend}-{of.backend_version}-{of.device}-{of.multiprocessors}.cache"
    if (content := cache.read("timing", name)) is not None:
        file.write_bytes(content)
    yield file
    if file.exists():
        cache.store("timing", name, file.read_bytes())
