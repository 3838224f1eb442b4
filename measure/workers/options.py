"""The options of verbs whose samples processes may share."""

from dataclasses import dataclass, field

from fewstep.measure.rollouts.options import ConditionOptions
from fewstep.measure.workers.setup import WorkerSetup
from fewstep.runtime.backends.checks import check_threads


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(ConditionOptions):
    """Conditions and processes of a verb that samples. UserError for workers or threads that cannot be.

    workers: Processes of this machine that share the sampling, with bitwise the same result for any number from 1 on.
        Each has the weights in memory. 0 for this process alone, on all cores unless threads is 1.
    threads: Threads of one evaluation, on which its last bits may depend. 0 for one per worker, or, without workers,
        one for each core.
    cluster: Address of a Dask scheduler whose workers share the sampling instead, as tcp://host:8786. They have fewstep
        installed, and the bundle at the same path.
    """

    workers: int = field(default=0, metadata={"unrecorded": True})
    threads: int = 0
    cluster: str = field(default="", metadata={"unrecorded": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threads(self.threads)
        _ = self.setup  # workers that can be, or refused

    @property
    def setup(self) -> WorkerSetup:
        """The workers' setup."""
        return WorkerSetup(self.workers, self.threads, self.cluster)
