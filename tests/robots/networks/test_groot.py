"""The action heads of GR00T N1.5 to N1.7, compared with LeRobot's own (`groot_reference.py`)."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Spec
from fewstep.plans import noise
from fewstep.plans.spec import ScheduleSpec
from fewstep.robots.networks.groot import GrootHead, load_groot_head
from fewstep.runtime.bundle.manifest import Condition, Policy
from tests.robots.networks.groot_reference import (
    CONFIG,
    EMBODIMENT,
    FEATURES,
    FUTURE,
    HORIZON,
    STEPS,
    TOKENS,
    head_weight,
    inputs,
)

ACTIONS = {  # by model and text_every: actions of four steps in LeRobot 0.6.1, and 0.4.4 for N1.5
    ("N1.7", 2): [
        [0.6211119, 0.9249218, -0.0061429, -1.4015325, -1.9464657, 0.2460097],
        [0.4930382, 1.9621584, -0.2833778, -1.3423889, -0.9806983, 1.5933876],
        [0.5091243, -0.4318939, 0.0579581, 0.1048267, -2.7806609, 0.6821356],
        [-1.477268, -0.9609834, -1.6022999, -0.8586841, -2.673193, 1.3916564],
    ],
    ("N1.7", 0): [
        [0.5464951, 0.8768215, -0.0063939, -1.427595, -1.9408723, 0.2401841],
        [0.4152047, 1.9383602, -0.2675035, -1.4103974, -0.9817025, 1.5905681],
        [0.4398726, -0.4748324, 0.0542447, 0.0650153, -2.7857215, 0.6588051],
        [-1.538285, -0.9776343, -1.6057355, -0.9175735, -2.6835508, 1.3697019],
    ],
    ("N1.6", 2): [
        [0.5787747, -0.3377481, 0.76543, -0.2972349, -1.1673553, -0.5468719],
        [0.5603191, 0.5953982, 0.4609062, -0.0953882, -0.023008, 0.9484579],
        [0.4894328, -1.6265703, 0.7962663, 0.8568845, -1.9081969, 0.1768745],
        [-1.3300942, -1.9296552, -0.9045027, -0.1110314, -2.138816, 0.9010149],
    ],
    ("N1.5", 2): [  # whose checkpoints decide that all blocks read all features
        [0.535669, 0.8946992, -0.0085276, -1.4255475, -1.9908853, 0.2166764],
        [0.4080788, 1.948564, -0.2762417, -1.379499, -1.0388123, 1.553978],
        [0.4465554, -0.4645815, 0.0484053, 0.0906737, -2.8230133, 0.6269642],
        [-1.5403548, -0.9775038, -1.5981795, -0.9033446, -2.7206066, 1.3327746],
    ],
}
HEADS = {"head": 8, "feature_head": 16}
EMBODIMENTS, POSITIONS = CONFIG["max_num_embodiments"], CONFIG["max_seq_len"]


def checkpoint(model: str = "N1.7") -> dict[str, torch.Tensor]:
    """Return weights by the names and shapes of a checkpoint, which has those of all embodiments."""
    state, action, hidden, width = CONFIG["max_state_dim"], CONFIG["max_action_dim"], 24, 16
    shapes: dict[str, tuple[int, ...]] = {"position_embedding.weight": (POSITIONS, width)}

    def layer(name: str, inputs: int, outputs: int, *, all_robots: bool = False) -> None:
        shapes[f"{name}.{'W' if all_robots else 'weight'}"] = (
            (EMBODIMENTS, inputs, outputs) if all_robots else (outputs, inputs)
        )
        shapes[f"{name}.{'b' if all_robots else 'bias'}"] = (EMBODIMENTS, outputs) if all_robots else (outputs,)

    for name, sizes in {
        "state_encoder.layer1": (state, hidden),
        "state_encoder.layer2": (hidden, width),
        "action_encoder.W1": (action, width),
        "action_encoder.W2": (2 * width, width),
        "action_encoder.W3": (width, width),
        "action_decoder.layer1": (hidden, hidden),
        "action_decoder.layer2": (hidden, action),
    }.items():
        layer(name, *sizes, all_robots=True)

    def block(name: str, width: int, memory: int) -> None:
        for part, read in (("to_q", width), ("to_k", memory), ("to_v", memory), ("to_out.0", width)):
            layer(f"{name}.attn1.{part}", read, width)
        layer(f"{name}.ff.net.0.proj", width, 4 * width)
        layer(f"{name}.ff.net.2", 4 * width, width)

    for number in range(6):
        block(f"model.transformer_blocks.{number}", width, width if number % 2 else FEATURES)
        layer(f"model.transformer_blocks.{number}.norm1.linear", width, 2 * width)
    if model == "N1.5":
        shapes["future_tokens.weight"] = (FUTURE, width)
    if model == "N1.6":
        shapes["mask_token"] = (1, 1, width)
    for number in range(0 if model == "N1.6" else 2):
        block(f"vl_self_attention.transformer_blocks.{number}", FEATURES, FEATURES)
        for norm in ("norm1", "norm3"):
            name = f"vl_self_attention.transformer_blocks.{number}.{norm}"
            shapes |= {f"{name}.weight": (FEATURES,), f"{name}.bias": (FEATURES,)}
    shapes |= {"vlln.weight": (FEATURES,), "vlln.bias": (FEATURES,)}
    layer("model.timestep_encoder.timestep_embedder.linear_1", 256, width)
    layer("model.timestep_encoder.timestep_embedder.linear_2", width, width)
    layer("model.proj_out_1", width, 2 * width)
    layer("model.proj_out_2", width, hidden)
    return {f"action_head.{name}": head_weight(name, shape) for name, shape in shapes.items()}


def euler(head: GrootHead) -> torch.Tensor:
    """Return the actions of Euler's method from the noise."""
    fed = {name: torch.from_numpy(value) for name, value in inputs().items()}
    x = fed.pop("noise")
    if not head.shape.text_every:
        del fed["pictures"]
    with torch.no_grad():
        for step in range(STEPS):
            x = x - head(x, torch.tensor([1 - step / STEPS]), *fed.values()) / STEPS
    return x[0]


@pytest.mark.parametrize(("model", "text_every"), ACTIONS)
def test_actions_are_those_of_lerobot(model: str, text_every: int) -> None:
    head = load_groot_head(checkpoint(model), EMBODIMENT, HORIZON, text_every=text_every, **HEADS)
    theirs = np.array(ACTIONS[model, text_every])
    assert np.abs(euler(head).numpy() - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_weights_may_have_names_before_the_heads() -> None:
    renamed = {f"_groot_model.{name}": weight for name, weight in checkpoint().items()}
    head = load_groot_head({**renamed, "_groot_model.backbone.w": torch.zeros(2)}, EMBODIMENT, HORIZON, **HEADS)
    assert np.abs(euler(head).numpy() - np.array(ACTIONS["N1.7", 2])).max() < 3e-4


def test_a_head_that_reads_pictures_apart_needs_to_know_them() -> None:
    head = load_groot_head(checkpoint(), EMBODIMENT, HORIZON, **HEADS)
    fed = [torch.from_numpy(inputs()[name]) for name in ("state", "features", "seen")]
    with pytest.raises(ValueError, match="give `pictures`"):
        head(torch.zeros(1, HORIZON, CONFIG["max_action_dim"]), torch.ones(1), *fed)


def make_of(model: str) -> tuple[GrootHead, Spec]:
    masks = ("seen",) if model == "N1.5" else ("seen", "pictures")
    conditions = (
        Condition("state", "state", (CONFIG["max_state_dim"],), "float32", typical=(-1.0, 1.0)),
        Condition("features", "features", (TOKENS, FEATURES), "float32", typical=(-3.0, 3.0)),
        *(Condition(name, name, (TOKENS,), "int64", low=0, high=1) for name in masks),
    )
    x_shape = HORIZON, CONFIG["max_action_dim"]
    flow = ScheduleSpec("flow", timesteps=1)
    head = load_groot_head(checkpoint(model), EMBODIMENT, HORIZON, **HEADS)
    return head, Spec("groot", x_shape, conditions, "flow", flow, policy=Policy(1, 0, 2))


def make_n15() -> tuple[GrootHead, Spec]:
    return make_of("N1.5")


def make_n16() -> tuple[GrootHead, Spec]:
    return make_of("N1.6")


def make_n17() -> tuple[GrootHead, Spec]:
    return make_of("N1.7")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["N1.5", "N1.6", "N1.7"])
def test_a_bundle_of_the_head_samples_actions_of_lerobot(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = f"make_{model.lower().replace('.', '')}"
    export(ExportOptions(f"{__file__}:{function}", tmp_path / "bundle", verify="quick"))
    fed = inputs()
    monkeypatch.setattr(noise, "normal_batch", lambda *_: fed["noise"])
    with fewstep.runtime.load(tmp_path / "bundle") as sampler:
        named = {condition.name: fed[condition.name] for condition in sampler.bundle.manifest.conditions}
        actions = sampler.sample("euler:4", [0], named)[0]
    theirs = np.array(ACTIONS[model, 2])
    assert np.abs(actions - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("embodiment", [-1, 3])
def test_an_unknown_embodiment_is_refused(embodiment: int) -> None:
    with pytest.raises(ValueError, match=f"embodiment {embodiment}; give a number from 0 to 2"):
        load_groot_head(checkpoint(), embodiment, HORIZON, **HEADS)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"horizon": POSITIONS + 1}, f"horizon {POSITIONS + 1}, and {POSITIONS} positions"),
        ({"horizon": 0}, f"horizon 0, and {POSITIONS} positions"),
        ({"head": 48}, "head 48 does not divide 16"),
        ({"feature_head": 5}, f"feature_head 5 does not divide {FEATURES}"),
    ],
    ids=str,
)
def test_sizes_that_the_weights_do_not_have_are_refused(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_groot_head(checkpoint(), EMBODIMENT, **{"horizon": HORIZON, **HEADS, **sizes})


@pytest.mark.parametrize("missing", ["action_head.state_encoder.layer1.W", "action_head.model.proj_out_1.bias"])
def test_weights_of_another_network_are_refused(missing: str) -> None:
    weights = checkpoint()
    del weights[missing]
    with pytest.raises(ValueError, match=r"the weights are not those of an action head of GR00T \("):
        load_groot_head(weights, EMBODIMENT, HORIZON, **HEADS)
