"""LeRobot's own policy, and its bundle, each in a closed loop of its own.

`python -m tests.clients.closed_loop KIND [steps]`, with KIND pi0 or pi05, in an environment with LeRobot and
fewstep[cpu,export,text]. With `steps`, the statistics of actions differ for each step of a sequence.

Both begin with fewstep's noise. An arm moves a third of the way to its target in each tick, and each sequence is used
for four ticks. Actions are relative to the state, except the gripper's. Prints one line of JSON: the largest difference
of the actions, relative to the largest action of an element.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from lerobot.processor import tokenizer_processor
from numpy.typing import NDArray

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans import noise
from fewstep.robots.control import History, sample_actions, with_prompt
from fewstep.runtime.text import load_text_encoder
from tests.robots.lerobot import reference

TICKS, EXECUTED, TASK = 100, 4, "push the cube"
Array = NDArray[np.float32]
Predict = Callable[[dict[str, Array], int], Array]  # an observation and the seed of the noise to a sequence of actions


def drive(predict: Predict) -> Array:
    """Return the actions of a loop [TICKS, elements]."""
    rng, state, sent = np.random.default_rng(3), np.float32([0.5, 50.0, 1.0]), list[Array]()
    while len(sent) < TICKS:
        pictures = rng.integers(0, 256, (2, 3, *reference.SIZE)).astype(np.uint8)
        observation = {f"observation.images.cam{number}": picture for number, picture in enumerate(pictures)}
        for action in predict({**observation, "observation.state": state}, len(sent))[:EXECUTED]:
            sent.append(action)
            state = state + np.float32([*(action - state[:2]) / 3, 0.0])
    return np.stack(sent)


def for_each_step(statistics: dict[str, Any]) -> dict[str, Any]:
    """Return statistics whose actions have wider ranges at later steps of a sequence [CHUNK, elements]."""
    wider = torch.linspace(1.0, 2.0, reference.CHUNK)[:, None]
    return {**statistics, "action": {name: values * wider for name, values in statistics["action"].items()}}


def main(kind: str, of_steps: bool, folder: Path) -> float:
    policy, make, words = getattr(reference, kind)()
    reference.fill(policy.eval())
    policy.config.use_relative_actions = True
    policy.config.action_feature_names = ["shoulder", "gripper"]
    with mock.patch.object(tokenizer_processor, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *_: words)):
        statistics = reference.statistics(2)
        before, after = make(policy.config, for_each_step(statistics) if of_steps else statistics)

    def theirs(observation: dict[str, Array], seed: int) -> Array:
        batch: dict[str, Any] = {
            name: torch.from_numpy(value.astype(np.float32) / (255 if "images" in name else 1))
            for name, value in observation.items()
        }
        drawn = noise.normal_batch([seed], 0, (reference.CHUNK, reference.PADDED))
        with torch.no_grad():
            sequence = policy.predict_action_chunk(before({**batch, "task": TASK}), noise=torch.from_numpy(drawn))
        actions: Array = after(sequence)[0].numpy()
        return actions

    for part in (policy, before, after):
        part.save_pretrained(folder / "policy")
    words.save_pretrained(folder / "policy/tokenizer")
    export(ExportOptions(str(folder / "policy"), folder / "bundle", verify="quick"))
    text = load_text_encoder(folder / "bundle")
    with fewstep.runtime.load(folder / "bundle") as sampler:

        def ours(observation: dict[str, Array], seed: int) -> Array:
            history = History(sampler)
            history.add(observation)
            return sample_actions(sampler, "euler:10", with_prompt(text, history.window(), TASK), seed)

        actions, control = drive(ours), drive(theirs)
    return float((np.abs(actions - control) / np.abs(control).max(axis=0)).max())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        difference = main(sys.argv[1], "steps" in sys.argv[2:], Path(name))
    print(json.dumps({"difference": difference}))
    assert difference < 1e-4, "the actions differ from LeRobot's"
