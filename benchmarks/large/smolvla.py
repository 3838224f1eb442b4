"""SmolVLA at its real size, with random weights: `python -m benchmarks.large.smolvla FOLDER`.

The folder gets a policy as LeRobot writes it, of SmolVLM2-500M's sizes with 16 layers, two cameras and ten steps. Each
row of the first table is a process of its own: the export, and four calls of the bundle. The second table counts the
products with weights in each graph of the bundle. Linux only. It needs 4 GB on disk.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.command_cost import Cost, Unfinished, measure
from benchmarks.options import parser_of
from benchmarks.policy.call import counts
from fewstep.runtime.bundle.reading import open_bundle

FIXTURE = Path("tests/robots/lerobot/smolvla.npz")  # LeRobot's own files of a smaller one
GB, STEPS, LAYERS = 1e9, 10, 16
WIDTH, KEYS, HIDDEN = 960, 320, 2560  # of the language model
EXPERT, EXPERT_HIDDEN = 720, 2048
VISION, VISION_HIDDEN, VISION_LAYERS, PATCH, MERGED = 768, 3072, 12, 16, 4
ROOT = "model.vlm_with_expert."
CALL = """
import sys, time
import numpy as np
from fewstep.robots.control import History, sample_actions, with_prompt
from fewstep.runtime import load
from fewstep.runtime.text import load_text_encoder
with load(sys.argv[1]) as sampler:
    history = History(sampler)
    conditions = [each for each in sampler.bundle.manifest.conditions if each.shape[0] == 1]
    history.add({each.name: np.zeros(each.shape[1:], each.dtype) for each in conditions})
    words = {"words": np.zeros((48, 960), np.float32), "words_mask": np.ones(48, np.int64)}
    for _ in range(4):
        sampler.forget()  # pictures change
        started = time.perf_counter()
        sample_actions(sampler, "euler:10@trailing", {**history.window(), **words})
        print(f"{1000 * (time.perf_counter() - started):.0f} ms a call", file=sys.stderr)
"""


def write_policy(folder: Path) -> int:
    """Write the folder; returns the bytes of its weights that an action depends on."""
    with np.load(FIXTURE) as file:
        for name in file.files:
            if name.startswith("file/"):
                path = folder / name.removeprefix("file/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file[name].tobytes())
    config = json.loads((folder / "config.json").read_text())
    for name, feature in config["input_features"].items():
        if "images" in name:
            feature["shape"] = [3, 480, 640]
    config |= {"chunk_size": 50, "n_action_steps": 50, "max_state_dim": 32, "max_action_dim": 32}
    (folder / "config.json").write_text(json.dumps(config | {"resize_imgs_with_padding": [512, 512]}))
    preprocessor = folder / "policy_preprocessor.json"
    preprocessor.write_text(preprocessor.read_text().replace('"max_length": 20', '"max_length": 48'))
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) / max(shape[-1], 9) ** 0.5 for name, shape in shapes()}
    for name, tensor in tensors.items():
        if "norm" in name and name.endswith("weight"):
            tensor.fill_(1.0)
    save_file(tensors, folder / "model.safetensors")
    return sum(4 * tensor.numel() for tensor in tensors.values())


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, as LeRobot has them."""
    vision, text = f"{ROOT}vlm.model.vision_model.", f"{ROOT}vlm.model.text_model."
    yield f"{vision}embeddings.patch_embedding.weight", (VISION, 3, PATCH, PATCH)
    yield f"{vision}embeddings.patch_embedding.bias", (VISION,)
    yield f"{vision}embeddings.position_embedding.weight", ((512 // PATCH) ** 2, VISION)
    for number in range(VISION_LAYERS):
        layer = f"{vision}encoder.layers.{number}."
        linears = {f"self_attn.{each}_proj": (VISION, VISION) for each in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (VISION_HIDDEN, VISION), "mlp.fc2": (VISION, VISION_HIDDEN)}
        for name, shape in linears.items():
            yield from ((f"{layer}{name}.weight", shape), (f"{layer}{name}.bias", shape[:1]))
        for norm in ("layer_norm1", "layer_norm2"):
            yield from ((f"{layer}{norm}.{part}", (VISION,)) for part in ("weight", "bias"))
    yield from ((f"{vision}post_layernorm.{part}", (VISION,)) for part in ("weight", "bias"))
    yield f"{ROOT}vlm.model.connector.modality_projection.proj.weight", (WIDTH, VISION * MERGED**2)
    yield f"{text}embed_tokens.weight", (49280, WIDTH)
    for number in range(LAYERS):
        yield from decoder(f"{text}layers.{number}.", WIDTH, WIDTH, HIDDEN)
        yield from decoder(f"{ROOT}lm_expert.layers.{number}.", EXPERT, KEYS if number % 2 else EXPERT, EXPERT_HIDDEN)
    yield from ((f"{text}norm.weight", (WIDTH,)), (f"{ROOT}lm_expert.norm.weight", (EXPERT,)))
    projections = {
        "state_proj": (WIDTH, 32),
        "action_in_proj": (EXPERT, 32),
        "action_out_proj": (32, EXPERT),
        "action_time_mlp_in": (EXPERT, 2 * EXPERT),
        "action_time_mlp_out": (EXPERT, EXPERT),
    }
    for name, shape in projections.items():
        yield from ((f"model.{name}.weight", shape), (f"model.{name}.bias", shape[:1]))


def decoder(start: str, width: int, seen: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A layer whose keys and values are made of `seen` numbers."""
    yield from ((f"{start}{norm}_layernorm.weight", (width,)) for norm in ("input", "post_attention"))
    yield from ((f"{start}self_attn.{each}_proj.weight", (KEYS, seen)) for each in ("k", "v"))
    yield f"{start}self_attn.q_proj.weight", (WIDTH, width)
    yield f"{start}self_attn.o_proj.weight", (width, WIDTH)
    yield from ((f"{start}mlp.{each}_proj.weight", (hidden, width)) for each in ("gate", "up"))
    yield f"{start}mlp.down_proj.weight", (width, hidden)


def line(name: str, cost: Cost, weights: int) -> str:
    ratio = cost.peak / weights
    return f"{name:<10} {cost.seconds / 60:8.1f} {cost.processor / 60:10.1f} {cost.peak / GB:9.2f} {ratio:9.2f}"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="what is made stays here")
    folder: Path = parser.parse_args().folder
    weights = write_policy(folder / "policy")
    print(f"{weights / GB:.2f} GB of weights, with the table of words")
    print(f"{'':<10} {'minutes':>8} {'processor':>10} {'peak, GB':>9} {'weights':>9}")
    bundle = str(folder / "bundle")
    export = (sys.executable, "-m", "fewstep.cli", "export", str(folder / "policy"), "-o", bundle, "--verify", "quick")
    for name, command in (("export", export), ("call", (sys.executable, "-c", CALL, bundle))):
        try:
            print(line(name, measure(command), weights), flush=True)
        except Unfinished as error:
            print(f"{name} failed: {error}")
            return 1
    print(counts(open_bundle(bundle), STEPS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
