"""A folder of a published pipeline at its real sizes with random weights: `python -m benchmarks.whole.pipeline FOLDER`.

Stable Diffusion 1.5, in float16 as it is published: the text encoder has 123 M weights, the U-Net 860 M and the
autoencoder 84 M. CLIP's vocabulary is that of open_clip_torch: `pip install --no-deps open_clip_torch==2.32.0`.

With `--klein`, FLUX.2 klein in bfloat16: the transformer has 3.9 B weights, Qwen3 as the text model 4.0 B and the
autoencoder 84 M. Its tokenizer has characters only. With `--sdxl`, Stable Diffusion XL in float16: the U-Net has 2.6 B
weights, the text encoders 123 M and 695 M and the autoencoder 84 M, each in one file, which takes 6 GB of memory. The
networks of FLUX.2 klein are written shard by shard, in 3 GB.

Pictures are noise; times and memory are those of the real pipeline.
"""

import gzip
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.large.networks import NETWORKS
from benchmarks.large.pipeline import SCHEDULER
from benchmarks.options import parser_of
from tests.tiny_pipelines import qwen_tokenizer  # before the checkout's package of the same name is imported

TOKENS = 49_408  # of CLIP
MERGES = TOKENS - 2 * 256 - 2
CHANNELS = (128, 256, 512, 512)
SHARD = 1 << 30  # bytes of one file of weights
QWEN3_4B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
CLIP_L: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP_BIG_G: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
KL: dict[str, Any] = {
    "block_out_channels": CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * len(CHANNELS),
    "up_block_types": ("UpDecoderBlock2D",) * len(CHANNELS),
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
KLEIN_4B: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,  # three layers of Qwen3
    "guidance_embeds": False,
}


def printable_bytes() -> Iterator[str]:
    """Yield the characters that stand for the 256 bytes in CLIP's vocabulary, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, printable)
    yield from (chr(256 + index) for index in range(256 - len(printable)))


def make_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise SystemExit("CLIP's vocabulary is missing: pip install --no-deps open_clip_torch==2.32.0")
    packed = (Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode().split("\n")[1 : MERGES + 1]
    letters = list(printable_bytes())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:
        vocabulary, merged = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
        merged.write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        return CLIPTokenizer(str(vocabulary), str(merged), model_max_length=77)


def write_pipeline(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        "unet": NETWORKS["sd15"].make(NETWORKS["sd15"].width, NETWORKS["sd15"].latent),
        "vae": AutoencoderKL(**KL),
    }
    pipeline: Any = StableDiffusionPipeline(
        **parts,
        tokenizer=make_tokenizer(),
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    write_published_names(folder / "text_encoder/model.safetensors")


def write_published_names(file: Path) -> None:
    """Begin the names of a file of CLIP's weights with `text_model.`, as those of published folders do.

    transformers 5 reads both, and writes names without it, in which stable-diffusion.cpp finds no text encoder."""
    from safetensors.torch import load_file, save_file

    weights = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
    written = file.with_suffix(".new")  # the tensors may be pages of the file
    save_file(weights, written, metadata={"format": "pt"})
    written.replace(file)


def write_sdxl(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        texts = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIG_G)),
        }
        networks: dict[str, Any] = {
            "unet": NETWORKS["sdxl"].make(NETWORKS["sdxl"].width, NETWORKS["sdxl"].latent),
            "vae": AutoencoderKL(**KL, scaling_factor=0.13025),
        }
    for name, text in texts.items():
        text.config.dtype, text.config.architectures = torch.float16, [type(text).__name__]
        text.config.save_pretrained(folder / name)
        write_random_weights(text, folder / name / "model", torch.float16)
    write_published_names(folder / "text_encoder/model.safetensors")  # those of text_encoder_2 have them
    for name, network in networks.items():
        network.save_config(folder / name)
        write_random_weights(network, folder / name / "diffusion_pytorch_model", torch.float16)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder / "tokenizer_2")
    scheduler: Any = DDIMScheduler.from_config(SCHEDULER)
    scheduler.save_pretrained(folder / "scheduler")
    parts = {name: ["transformers", type(text).__name__] for name, text in texts.items()}
    parts |= {name: ["diffusers", type(network).__name__] for name, network in networks.items()}
    parts |= dict.fromkeys(("tokenizer", "tokenizer_2"), ["transformers", "CLIPTokenizer"])
    parts["scheduler"] = ["diffusers", "DDIMScheduler"]
    index = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True, **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def write_klein(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with torch.device("meta"):
        text = Qwen3ForCausalLM(Qwen3Config(**QWEN3_4B))
        transformer: Any = Flux2Transformer2DModel(**KLEIN_4B)
        autoencoder: Any = AutoencoderKLFlux2()
    text.config.dtype, text.config.architectures = torch.bfloat16, ["Qwen3ForCausalLM"]
    text.config.save_pretrained(folder / "text_encoder")
    write_random_weights(text, folder / "text_encoder/model", torch.bfloat16, SHARD)
    for name, network in (("transformer", transformer), ("vae", autoencoder)):
        network.save_config(folder / name)
        write_random_weights(network, folder / name / "diffusion_pytorch_model", torch.bfloat16, SHARD)
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    scheduler.save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    index = {"_class_name": "Flux2KleinPipeline", "is_distilled": True, **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def write_random_weights(network: Any, path: Path, dtype: Any, at_most: int | None = None) -> None:
    """Write random weights of 16 bits, of torch's type `dtype`, for a network on torch's device "meta", in one file, or
    in files of at most `at_most` bytes, whose names begin with `path`. Matrices have the range of torch's linear
    layers, and norms are the identity."""
    import torch
    from safetensors.torch import save_file

    tied = {"lm_head.weight"}
    stored = {name: tensor for name, tensor in network.state_dict().items() if name not in tied}
    groups: list[list[str]] = [[]]
    for name in stored:
        if at_most and groups[-1] and 2 * sum(stored[other].numel() for other in (*groups[-1], name)) > at_most:
            groups.append([])
        groups[-1].append(name)
    generator, files = torch.Generator().manual_seed(0), dict[str, str]()
    for number, names in enumerate(groups, 1):
        tensors = {}
        for name in names:
            shape, limit = stored[name].shape, 1 / math.sqrt(max(1, math.prod(stored[name].shape[1:])))
            if len(shape) > 1:
                tensors[name] = torch.empty(shape, dtype=dtype).uniform_(-limit, limit, generator=generator)
            else:
                is_one = name.endswith(("weight", "running_var"))
                tensors[name] = torch.full(shape, float(is_one)).to(stored[name].dtype if not shape else dtype)
        part = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
        file = f"{path.name}{part}.safetensors"
        save_file(tensors, path.with_name(file), metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
    if len(groups) > 1:
        index = {"metadata": {"total_size": 2 * sum(tensor.numel() for tensor in stored.values())}, "weight_map": files}
        path.with_name(f"{path.name}.safetensors.index.json").write_text(json.dumps(index))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--klein", action="store_true", help="FLUX.2 klein, 4 B, instead of Stable Diffusion 1.5")
    others.add_argument("--sdxl", action="store_true", help="Stable Diffusion XL instead of Stable Diffusion 1.5")
    options = parser.parse_args()
    (write_klein if options.klein else write_sdxl if options.sdxl else write_pipeline)(options.folder)


if __name__ == "__main__":
    main()
