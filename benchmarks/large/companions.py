"""Text encoder, tokenizer and autoencoder beside a U-Net, of the sizes that Stable Diffusion 1.5 has.

Weights are random: CLIP ViT-L/14's text encoder of 123 M, and an autoencoder of 84 M that enlarges eight times. A
narrower U-Net has smaller ones. The vocabulary has all bytes and no word, so that a prompt is its letters. Its length
costs nothing: texts are padded.
"""

import json
from pathlib import Path

TOKENS = 77
VOCABULARY = 49408  # rows of the embedding, of which a few are used
WIDTH = 320  # of the first block of the U-Net that they belong to
START, END = "<|startoftext|>", "<|endoftext|>"


def write_companions(pipeline: Path, latent: int, width: int = WIDTH) -> None:
    """Add them to a pipeline's folder, whose x is [4, latent, latent]; `width` is of the U-Net's first block."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    end = _write_tokenizer(pipeline / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=max(1, 12 * width // WIDTH),
        num_attention_heads=12,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    CLIPTextModel(config).save_pretrained(pipeline / "text_encoder")
    channels = max(32, 128 * width // WIDTH // 32 * 32)
    AutoencoderKL(
        block_out_channels=tuple(channels * factor for factor in (1, 2, 4, 4)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=8 * latent,
    ).save_pretrained(pipeline / "vae")
    index = json.loads((pipeline / "model_index.json").read_text())
    index |= {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (pipeline / "model_index.json").write_text(json.dumps(index, indent=2))


def _write_tokenizer(folder: Path) -> int:
    """CLIP's files with one token a byte; returns the id of the end."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [*map(chr, seen), *(chr(256 + place) for place in range(256 - len(seen)))]  # as byte-level BPE has them
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    named = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary) - 1
