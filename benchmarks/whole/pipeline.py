"""A folder of Stable Diffusion 1.5 at its real sizes with random weights: `python -m benchmarks.whole.pipeline FOLDER`.

The text encoder has 123 M weights, the U-Net 860 M and the autoencoder 84 M, all in float16 as they are published.
CLIP's vocabulary is that of open_clip_torch: `pip install --no-deps open_clip_torch==2.32.0`. Pictures are noise; times
and memory are those of the real pipeline.
"""

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.large.networks import NETWORKS
from benchmarks.large.pipeline import SCHEDULER
from benchmarks.options import parser_of

TOKENS = 49_408  # of CLIP
MERGES = TOKENS - 2 * 256 - 2
CHANNELS = (128, 256, 512, 512)


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
    size: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    parts: dict[str, Any] = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=TOKENS, **size)),
        "unet": NETWORKS["sd15"].make(NETWORKS["sd15"].width, NETWORKS["sd15"].latent),
        "vae": AutoencoderKL(
            block_out_channels=CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
            up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
            latent_channels=4,
            layers_per_block=2,
            sample_size=512,
        ),
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


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    write_pipeline(parser.parse_args().folder)


if __name__ == "__main__":
    main()
