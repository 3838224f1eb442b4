"""Distillation of a policy that LeRobot trained, without LeRobot: the loss, and the folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.policy import lerobot_distill
from benchmarks.policy.fetch import FETCH
from benchmarks.policy.verdicts import Contender
from fewstep.models.training import generator_of
from fewstep.plans.noise import normal_batch

LAST = 99  # the time of noise alone, of 100


class Copying(torch.nn.Module):
    """A U-Net that predicts the noise that it is given, and remembers when and with what it is asked."""

    def forward(self, x: torch.Tensor, time: torch.Tensor, global_cond: torch.Tensor) -> torch.Tensor:
        self.time, self.known = time, global_cond
        return x


def loss_of(done: np.ndarray, network: Copying) -> float:
    known = torch.arange(len(done), dtype=torch.float32)[:, None]
    pairs = {"seeds": np.arange(len(done)), "done": done}
    return lerobot_distill.distillation_loss(pairs, known, LAST, 64)(network, generator_of(0, 0)).item()


def test_the_loss_is_zero_for_the_teacher_s_actions_of_the_same_noise() -> None:
    assert loss_of(normal_batch(range(8), 0, (16, 4)), Copying()) == 0


def test_later_actions_count_less() -> None:
    """An error of 1 in all actions: 10 with a weight of 1, and 6 of 0.3."""
    loss = loss_of(normal_batch(range(8), 0, (16, 4)) + np.float32(1), Copying())
    assert loss == pytest.approx((10 + 0.3 * 6) / 16, rel=1e-5)


def test_one_step_begins_at_the_time_of_noise() -> None:
    network = Copying()
    loss_of(normal_batch(range(8), 0, (16, 4)), network)
    assert {*network.time.tolist()} == {LAST} and {*network.known.flatten().tolist()} == {*range(8)}


def test_the_folder_has_the_encoders_of_the_old_policy_and_the_new_u_net(tmp_path: Path) -> None:
    folder, unet, made = tmp_path / "policy", tmp_path / "unet.safetensors", tmp_path / "made"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    old = {"diffusion.rgb_encoder.a": torch.ones(2), "diffusion.unet.b": torch.zeros(2)}
    save_file(old, folder / "model.safetensors")
    save_file({"b": torch.full((2,), 3.0).half()}, unet)
    lerobot_distill.write_policy(folder, unet, made)
    tensors = load_file(made / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "diffusion.rgb_encoder.a": [1.0, 1.0],
        "diffusion.unet.b": [3.0, 3.0],
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32} and (made / "config.json").exists()


def test_the_student_of_a_policy_that_predicts_noise_predicts_the_sample(tmp_path: Path) -> None:
    folder, unet, made = tmp_path / "policy", tmp_path / "unet.safetensors", tmp_path / "made"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"prediction_type": "epsilon", "horizon": 16}))
    save_file({"diffusion.unet.b": torch.zeros(2)}, folder / "model.safetensors")
    save_file({"b": torch.ones(2)}, unet)
    lerobot_distill.write_policy(folder, unet, made)
    assert json.loads((made / "config.json").read_text()) == {"prediction_type": "sample", "horizon": 16}


@pytest.mark.parametrize(
    ("prediction", "plans"), [("epsilon", ["dpmpp_2m:4"]), ("sample", ["dpmpp_2m:2", "dpmpp_2m:1"])]
)
def test_one_step_of_a_policy_that_predicts_noise_is_not_watched(
    prediction: str, plans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its actions lie at the limits of the clip."""
    watched = list[str]()

    def observe(world: object, sampler: object, contenders: tuple[Contender, ...]) -> dict[str, np.ndarray]:
        watched.extend(contender.plan or "" for contender in contenders)
        return {"state": np.zeros((3, 2, 4), np.float32)}

    class Sampler:
        bundle = SimpleNamespace(manifest=SimpleNamespace(prediction=prediction))

        def compile(self, plan: str, shaping: object) -> str:
            return plan

        def sample(self, plan: str, seeds: list[int], conditions: object) -> np.ndarray:
            assert plan == plans[0]
            return np.zeros((len(seeds), 16, 4), np.float32)

    monkeypatch.setattr(lerobot_distill, "observe", observe)
    assert lerobot_distill.make_pairs(FETCH, Sampler())["done"].shape == (3, 16, 4)  # type: ignore[arg-type]
    assert watched == plans
