"""Workers of a Dask cluster, on any number of machines. Dask replaces those that die.

Each thread of a worker does one item at a time, on as many threads as are asked for. Threads of a worker share the
weights. The order of a job may hold tables and samples. It is sent to each worker once, and to a new one before its
first item.
"""

from asyncio import CancelledError as AsyncCancelledError
from collections.abc import Awaitable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from fewstep.plans.errors import UserError, first_line
from fewstep.workers.job import Done, Order, Refusal, do_kept, is_kept, keep
from fewstep.workers.sent_bundle import Piece, SentBundle, kept

PLUGIN = "fewstep-"  # with the name of an order: what workers run when they start
SECONDS = 30  # to wait for a scheduler, and for its first worker
START = "start it: dask scheduler, and on each machine dask worker ADDRESS"
LOOK = (
    "read the workers' logs: each needs fewstep as it is here, and memory for the weights; then run the command again"
)


class DaskWorkers:
    """`with DaskWorkers("tcp://host:8786") as workers:`; an open `distributed.Client` may be given instead."""

    def __init__(self, cluster: Any, threads: int = 1) -> None:
        self.threads = threads
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise UserError("this needs distributed, which is not installed", "pip install 'fewstep[dask]'") from error
        connect: Any = distributed.Client  # which has no types
        self._owns = isinstance(cluster, str)
        self._client: Any = None
        self._sent = ""  # the name of the order that was sent last
        try:
            self._client = connect(cluster, timeout=SECONDS) if self._owns else cluster
            self._client.wait_for_workers(1, timeout=SECONDS)
        except Exception as error:
            self._close()
            raise UserError(f"no Dask cluster with workers at {cluster} ({_reason(error)})", START) from error

    @property
    def count(self) -> int:
        """Threads of all workers, now."""
        with _reached():
            return max(1, sum(map(int, self._client.nthreads().values())))

    def submit(self, order: Order[Any, Any], item: Any) -> "Future[Done[Any] | Refusal]":
        if order.name != self._sent:
            self._tell(order)
        with _reached():
            asked = self._client.submit(attempt, order.name, item, pure=False)
        answer: Future[Done[Any] | Refusal] = Future()
        answer.add_done_callback(lambda _: asked.cancel() if answer.cancelled() and not asked.cancelled() else None)
        self._client.loop.add_callback(_pass_on, asked, answer)
        return answer

    def deliver(self, order: Order[Any, Any]) -> None:
        """Send the files to one worker of each machine and cache folder that lacks the bundle."""
        bundle = order.job.bundle
        with _reached():
            if not all(self._client.run(is_kept, order.name, on_error="ignore").values()):
                self._tell(order)
            places = self._client.run(missing, bundle, on_error="ignore")
        receivers = {(urlsplit(at).hostname, place): at for at, place in places.items() if place is not None}
        for piece in bundle.pieces() if receivers else ():
            with _reached():
                self._client.run(keep_piece, piece, workers=list(receivers.values()))

    def _tell(self, order: Order[Any, Any]) -> None:
        """Send an order to all workers, and let the scheduler send it to those that come."""
        import distributed

        self._forget()
        knows: Any = type("Knows", (distributed.WorkerPlugin,), {"setup": lambda _, worker: keep(order)})
        with _reached():
            self._client.register_plugin(knows(), name=PLUGIN + order.name)
        self._sent = order.name

    def _forget(self) -> None:
        """Let the scheduler forget the last order; workers forget theirs as others come."""
        if self._sent:
            with suppress(Exception):  # the cluster may be gone
                self._client.unregister_worker_plugin(PLUGIN + self._sent)
        self._sent = ""

    def __enter__(self) -> "DaskWorkers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._forget()
        if self._owns and self._client is not None:
            self._client.close()


@dataclass(frozen=True)
class Raised:
    """An error of the job itself. Any other error of a future of Dask is the cluster's."""

    error: Exception


def attempt(name: str, item: Any) -> Done[Any] | Refusal | Raised:
    """Do an item of the order of that name, in a worker."""
    try:
        return do_kept(name, item)
    except Exception as error:
        return Raised(error)


def missing(bundle: SentBundle) -> str | None:
    """The folder in which a worker would keep a bundle, or None where it has the bundle."""
    return None if bundle.is_here() else str(kept(bundle.digest))


def keep_piece(piece: Piece) -> None:
    """Keep a part of a file, in a worker."""
    piece.keep()


async def _pass_on(asked: Awaitable[Done[Any] | Refusal | Raised], answer: "Future[Done[Any] | Refusal]") -> None:
    """Answer with a worker's result, the job's error, or the cluster's error in one line.

    The executor of distributed (2026.8) is no help here: it reads the status of a future after its result. Where the
    worker that held the result dies in between, the executor takes the result for an error.
    """
    result: Done[Any] | Refusal | Raised
    try:
        with _reached():
            result = await asked
    except (CancelledError, AsyncCancelledError):
        answer.cancel()
        answer.set_running_or_notify_cancel()
        return
    except UserError as error:
        result = Raised(error)
    if not answer.set_running_or_notify_cancel():
        return
    if isinstance(result, Raised):
        answer.set_exception(result.error)
    else:
        answer.set_result(result)


@contextmanager
def _reached() -> Iterator[None]:
    """UserError for a cluster that fails: workers lost each time, a closed connection, a scheduler without fewstep."""
    try:
        yield
    except (UserError, CancelledError):
        raise
    except Exception as error:
        raise UserError(f"the Dask cluster failed ({_reason(error)})", LOOK) from error


def _reason(error: Exception) -> str:
    """The first line of an error's first cause."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)
