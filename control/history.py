"""The last observations of a policy, as a window that does not change when more is seen."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.policies import policy_of
from fewstep.runtime.sampler import Sampler

Window = Mapping[str, NDArray[Any]]


class History:
    """The last observations, as many as the policy looks at. The first one stands for those before it.

    It keeps the conditions [observations, ...]. Others, such as the number of a task, are not observed at each tick:
    whoever samples adds them to the window.
    """

    def __init__(self, sampler: Sampler) -> None:
        manifest = sampler.bundle.manifest
        policy = policy_of(manifest)
        count, decided = policy.observations, (policy.prefix, policy.delay)
        self._shapes = {
            each.name: each.shape[1:]
            for each in manifest.conditions
            if each.shape[:1] == (count,) and each.name not in decided
        }
        if not self._shapes:
            raise UserError(
                f"bundle {manifest.name!r} has no condition of {count} observations",
                f"let the shape of what is observed begin with {count}, or the policy's observations be as many",
            )
        self._latest: deque[dict[str, NDArray[Any]]] = deque(maxlen=count)

    def add(self, observation: Mapping[str, ArrayLike]) -> None:
        """What is seen now: for each condition of the policy one value, e.g. numbers [n] or a picture [3, H, W].

        What else a robot measures may be among it, and is left out.
        """
        self.keep(self.arrays(observation))

    def arrays(self, observation: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """An observation as arrays of its own, each of its condition's shape. Nothing is kept."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, shape in self._shapes.items():
            if name not in observation:
                raise UserError(f"the observation has no {name!r}", f"give {', '.join(self._shapes)}")
            try:
                arrays[name] = np.array(observation[name])  # a copy: the caller may reuse its buffers
            except (TypeError, ValueError) as error:
                raise UserError(f"observation {name!r} is no array ({error})", f"give {list(shape)}") from error
            if arrays[name].shape != shape:
                raise UserError(f"observation {name!r} has the shape {list(arrays[name].shape)}", f"give {list(shape)}")
        return arrays

    def keep(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Add what `arrays` returned."""
        self._latest.append(arrays)

    def window(self) -> Window:
        """Arrays [observations, ...] by name, the latest last. They do not change when more is added."""
        if not self._latest:
            raise UserError("nothing has been observed", "add an observation first")
        missing = (self._latest.maxlen or 0) - len(self._latest)
        seen = [self._latest[0]] * missing + list(self._latest)
        return {name: np.concatenate([each[name][None] for each in seen]) for name in self._shapes}

    def clear(self) -> None:
        """Forget everything: at the start of an episode."""
        self._latest.clear()
