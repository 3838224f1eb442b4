"""A bundle of fewstep as a policy of LeRobot."""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from fewstep.plans.argument_checks import check_integer
from fewstep.robots.control import History, SequenceRequest, compile_policy_plan, sample_sequences, with_prompt
from fewstep.runtime import load
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.kinds.policies import policy_of
from fewstep.runtime.text import load_text_encoder
from lerobot_policy_fewstep.configuration_fewstep import FewstepConfig


class FewstepPolicy(PreTrainedPolicy):
    """Samples a bundle. A batch of observations, as of several environments, is sampled as one batch.

    It has no weights of torch. Its processors leave observations and actions in the robot's units.
    """

    config_class = FewstepConfig
    name = "fewstep"

    def __init__(self, config: FewstepConfig, **_: Any) -> None:
        super().__init__(config)
        if config.pretrained_path is None:
            raise ValueError("no bundle is given: --policy.path=BUNDLE")
        path = Path(config.pretrained_path)
        self._sampler = load(path, config.precision, backend=create_backend(config.backend, config.threads))
        manifest = self._sampler.bundle.manifest
        self._plan = compile_policy_plan(self._sampler, config.plan)
        self._text = None if manifest.text is None else load_text_encoder(self._sampler.bundle)
        policy = policy_of(manifest)
        steps = policy.actions if config.n_action_steps is None else config.n_action_steps
        self._executed = check_integer("n_action_steps", steps, 1, manifest.x_shape[0] - policy.first)
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: FewstepConfig | None = None, **_: Any
    ) -> "FewstepPolicy":
        """Open the bundle of a folder."""
        config = config or FewstepConfig.from_pretrained(pretrained_name_or_path)
        config.pretrained_path = Path(pretrained_name_or_path)
        return cls(config).eval()

    def reset(self) -> None:
        """Begin an episode."""
        self._histories: list[History] = []
        self._actions: deque[Tensor] = deque()
        self._calls = 0

    def get_optim_params(self) -> dict[str, Any]:
        return {}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        raise NotImplementedError("a bundle cannot be trained")

    def supports_rtc(self) -> bool:
        """LeRobot's real-time chunking passes the rest of the last sequence, whose first actions are held."""
        return True

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the actions [B, elements] of this step."""
        self._observe(batch)
        if not self._actions:
            self._actions.extend(self._sample(batch).unbind(1)[: self._executed])
        return self._actions.popleft()

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the actions [B, n, elements] from this step on. The steps since the last call were not observed, so
        for a policy of several observations this one stands for the earlier ones too.

        inference_delay: the number of actions of `prev_chunk_left_over` that are executed during the call.
        """
        self._histories = []
        self._observe(batch)
        return self._sample(batch, prev_chunk_left_over, inference_delay)

    def _observe(self, batch: dict[str, Tensor]) -> None:
        """Take an observation of each row of a batch."""
        if not self._histories:
            self._histories = [History(self._sampler) for _ in range(_rows(batch))]
        values = {name: _values(batch[name]) for name in self._histories[0].tick_conditions if name in batch}
        for row, history in enumerate(self._histories):
            history.add({name: value[row] for name, value in values.items()})

    def _sample(self, batch: dict[str, Any], former: Tensor | None = None, decided: int = 0) -> Tensor:
        requests = []
        for row, history in enumerate(self._histories):
            window = history.window()
            if self._text is not None:
                task = batch.get("task", "")
                window = with_prompt(self._text, window, task if isinstance(task, str) else task[row])
            before = None
            if former is not None and len(former):
                before = np.asarray(former.cpu().reshape(-1, former.shape[-2], former.shape[-1])[row], np.float32)
            held = 0 if before is None else min(decided, len(before))
            seed = self.config.seed + self._calls * len(self._histories) + row
            requests.append(SequenceRequest(window, seed, before, held))
        self._calls += 1
        actions, _ = sample_sequences(self._sampler, self._plan, requests)
        return torch.from_numpy(np.ascontiguousarray(actions))


def _rows(batch: dict[str, Any]) -> int:
    return next(
        len(value) for name, value in batch.items() if name.startswith("observation.") and torch.is_tensor(value)
    )


def _values(tensor: Tensor) -> np.ndarray:
    """Return a batch of observations. LeRobot's pictures are floats from 0 to 1, and those of a bundle are bytes."""
    if tensor.ndim == 4 and tensor.is_floating_point():
        tensor = (255 * tensor).round().clamp(0, 255).to(torch.uint8)
    return tensor.cpu().numpy()
