"""Workers of a Dask cluster, on any number of machines. Dask replaces those that die.

Each thread of a worker does one item at a time, on one thread. Threads of a worker share the weights.
"""

from concurrent.futures import Future
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from fewstep.calibration.workers.job import Done, Order, Refusal, do
from fewstep.calibration.workers.sent_bundle import Piece, SentBundle
from fewstep.plans.errors import UserError

SECONDS = 30  # to wait for a scheduler, and for its first worker
START = "start it: dask scheduler, and on each machine dask worker ADDRESS"


class DaskWorkers:
    """`with DaskWorkers("tcp://host:8786") as workers:`; an open `distributed.Client` may be given instead."""

    threads = 1

    def __init__(self, cluster: Any) -> None:
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise UserError("this needs distributed, which is not installed", "pip install 'fewstep[dask]'") from error
        client: Any = distributed.Client  # which has no types
        self._owns = isinstance(cluster, str)
        try:
            self._client = client(cluster, timeout=SECONDS) if self._owns else cluster
            self._client.wait_for_workers(1, timeout=SECONDS)
        except (OSError, ValueError, distributed.TimeoutError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"no Dask cluster with workers at {cluster} ({reason})", START) from error
        self._executor = self._client.get_executor(pure=False)

    @property
    def count(self) -> int:
        """Threads of all workers, now."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Done[Any] | Refusal]":
        answer: Future[Done[Any] | Refusal] = self._executor.submit(do, order, item)
        return answer

    def deliver(self, bundle: SentBundle) -> None:
        """One worker of each machine that lacks it is sent the files."""
        lacking = {urlsplit(at).hostname: at for at, here in self._client.run(is_here, bundle).items() if not here}
        for piece in bundle.pieces() if lacking else ():
            self._client.run(keep, piece, workers=list(lacking.values()))

    def __enter__(self) -> "DaskWorkers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owns:
            self._client.close()


def is_here(bundle: SentBundle) -> bool:
    """Whether a worker has a bundle."""
    return bundle.is_here()


def keep(piece: Piece) -> None:
    """What a worker does with a part of a file."""
    piece.keep()
