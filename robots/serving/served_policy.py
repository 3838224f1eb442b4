"""A policy that is served: it samples one sequence of actions for each request of a robot."""

import itertools
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.robots.control.actions import sample_actions
from fewstep.robots.control.chunk import Float32
from fewstep.robots.control.history import History
from fewstep.robots.control.language import EpisodePrompt
from fewstep.robots.control.statistics import Quantiles, quantiles
from fewstep.robots.serving.observations import Observations
from fewstep.runtime.kinds.policies import action_shape, policy_of
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.text import TextEncoder

PROMPT = "stand still"  # of the calls before the first robot
LONGEST_PROMPT = 2**13  # characters; a longer one would be encoded for seconds, while other robots wait
KEPT = 100_000  # the last calls, whose latencies are summarised


class ServedPolicy:
    """A loaded policy. Call it from one thread at a time.

    Args:
        renamed: conditions by the names that clients give them, for those with other names.
        seed: the seed of the first sequence. Each further sequence increments it.
    """

    def __init__(
        self,
        sampler: Sampler,
        plan: Plan,
        text: TextEncoder | None = None,
        renamed: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.sampler, self.plan, self.text = sampler, plan, text
        history = History(sampler)
        self.observations = Observations({**history.tick_conditions, **history.episode_conditions}, renamed or {})
        self._first = seed
        self._forget_calls()

    def begin_episode(self) -> "Episode":
        return Episode(self)

    def describe(self) -> dict[str, object]:
        """Return what a client may want to know: the policy's name, its observations, and the shape of its actions."""
        manifest = self.sampler.bundle.manifest
        policy = policy_of(manifest)
        return {
            "server": "fewstep",
            "policy": manifest.name,
            "observations": {name: list(condition.shape) for name, condition in self.observations.conditions.items()},
            "prompt": self.text is not None,
            "actions": [manifest.x_shape[0] - policy.first, *action_shape(manifest)],
            "executed": policy.actions,
        }

    def warm_up(self) -> None:
        """Sample twice, from observations of zeros, so that the first call of a robot is not slow."""
        zeros = {
            name: np.zeros(condition.shape, condition.dtype) for name, condition in self.observations.conditions.items()
        }
        episode = self.begin_episode()
        for _ in range(2):
            episode.observe(zeros)
            episode.sample(PROMPT)
        self._forget_calls()

    @property
    def latencies(self) -> Quantiles:
        """The durations of the calls so far."""
        return quantiles(self._seconds)

    def sample(self, window: Mapping[str, Any]) -> Float32:
        """Return a sequence of actions [n, ...] in the robot's units, from the last observation of the window on."""
        began = time.perf_counter()
        actions = sample_actions(self.sampler, self.plan, window, next(self._seeds))
        self._seconds.append(time.perf_counter() - began)
        return actions

    def _forget_calls(self) -> None:
        self._seeds = itertools.count(self._first)
        self._seconds: deque[float] = deque(maxlen=KEPT)


class Episode:
    """The observations of one robot, and the task that it was given."""

    def __init__(self, policy: ServedPolicy) -> None:
        self._policy = policy
        self._history = History(policy.sampler)
        self._language, self._prompt = EpisodePrompt(policy.text), ""
        self._fixed: dict[str, Any] = {}
        self._step: int | None = None

    def observe(self, observation: Mapping[str, Any], step: int | None = None) -> None:
        """Take an observation: values by the names of conditions, also of those that do not change at each tick.

        step: the number of its tick. If it follows the previous one, the policy also sees the previous observation.
            Otherwise the observation stands for earlier ones too.

        Raises UserError for an observation that cannot be used.
        """
        if step is None or self._step is None or step != self._step + 1:
            self._history.clear()
        self._step = None  # a rejected observation leaves a gap
        self._history.add(observation)
        names = self._history.episode_conditions.keys() & observation.keys()
        self._fixed = {name: observation[name] for name in names}
        self._step = step

    def sample(self, prompt: str | None = None) -> Float32:
        """Return a sequence of actions [n, ...] in the robot's units, from the last observation on.

        prompt: the task in words. A policy without a text encoder ignores it.
        """
        encoded: Any = ()
        if self._policy.text is not None:
            if not prompt:
                raise UserError("the request has no prompt, which the policy needs", "send the task in words")
            if len(prompt) > LONGEST_PROMPT:
                raise UserError(f"the prompt has more than {LONGEST_PROMPT} characters", "send the task in words")
            encoded = self._language.condition_names(prompt)
            if prompt != self._prompt:
                self._language.begin(prompt)
                self._prompt = prompt
        fixed = self._history.copy_conditions(self._fixed, encoded)
        return self._policy.sample(self._language.add_to_window({**self._history.window(), **fixed}))
