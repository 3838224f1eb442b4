"""Local replacements for the tiny models that the tests of diffusers download: the same classes, with random weights
and vocabularies of single characters."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.tiny_pipelines import byte_characters  # before the checkout's package of the same name is imported

VISION_TOKENS = {  # of Qwen-VL, by the ids in its config
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
WIDTH = 32  # of the tiny text encoders in those tests
CHAT = (  # a template of messages with texts
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% elif c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}"
)
KINDS = {"llama": "LlamaConfig", "gemma": "Gemma2Config", "bert": "BertConfig", "qwen": "Qwen2Config"}
VISION = {"depth": 2, "embed_dim": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "fullatt_block_indexes": [1]}
LARGEST = 50 * 10**6  # weights of a tiny model
NARROW = {  # widths of the models that other networks expect
    "tiny-random-llama": 16,
    "tiny-random-qwen2vl": 16,
    "tiny-random-qwen3vl": 16,
}
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "vocab_size": 1000,
}


@contextmanager
def replace_hub() -> Iterator[None]:
    """Patch `from_pretrained` to return small replacements for names on the hub, without network access. Names of
    folders are still loaded. Raises LookupError for an unknown name."""
    import diffusers
    import transformers

    owners: dict[Any, Callable[..., Any]] = {
        diffusers.UNet2DModel: _make_unet,
        transformers.AutoConfig: make_config,
        transformers.PreTrainedModel: _make_model,
        transformers.AutoTokenizer: make_tokenizer,
        transformers.PreTrainedTokenizerBase: make_tokenizer,
        transformers.AutoProcessor: _make_processor,
        transformers.ProcessorMixin: _make_processor,
        transformers.ImageProcessingMixin: _make_default,
        transformers.FeatureExtractionMixin: _make_default,
    }
    with ExitStack() as stack:
        for owner, make in owners.items():
            stack.enter_context(patch.object(owner, "from_pretrained", _answer(owner.from_pretrained, make)))
        yield


def _answer(original: Any, make: Callable[..., Any]) -> Any:
    function = original.__func__

    def from_pretrained(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(str(name)).is_dir():
            return function(cls, name, *args, **kwargs)
        return make(cls, f"{name}/{kwargs.get('subfolder', '')}")

    return classmethod(from_pretrained)


def make_config(cls: Any, name: str) -> Any:
    """Return a tiny config for the model that a hub stores under this name."""
    import transformers

    lower = name.lower()
    if "t5" in lower:
        return _t5_config(transformers.UMT5Config if "umt5" in lower else transformers.T5Config)
    for part, kind in KINDS.items():
        if part in lower:
            return _small_config(getattr(transformers, kind))
    raise LookupError(f"no local config for {name}")


def _make_model(cls: Any, name: str) -> Any:
    import torch

    width = next((each for part, each in NARROW.items() if part in name.lower()), WIDTH)
    config = _t5_config(cls.config_class) if "T5" in cls.__name__ else _small_config(cls.config_class, width)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in cls(config).parameters())
    if count > LARGEST:
        raise LookupError(f"no local config for {name}: {cls.__name__} has {count} weights")
    torch.manual_seed(0)
    return cls(config).eval()


def _make_unet(cls: Any, name: str) -> Any:
    """Return a tiny U-Net, with labels if its name says so."""
    blocks = {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1}
    kinds = {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D")}
    kinds |= {"up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D")}
    labels = {"num_class_embeds": 10} if "class_cond" in name else {}
    return cls(sample_size=32, **blocks, **kinds, **labels).eval()


def _make_default(cls: Any, name: str) -> Any:
    """Return a processor of images or of sound with the defaults of its class."""
    return cls()


def _make_processor(cls: Any, name: str) -> Any:
    """Return a processor of images and texts for the model that a hub stores under this name."""
    import transformers

    if "mistral" in name.lower():
        tokenizer = make_tokenizer(transformers.LlamaTokenizer, name)
        tokenizer.add_tokens(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
        return transformers.PixtralProcessor(transformers.PixtralImageProcessor(), tokenizer, chat_template=CHAT)
    if "vl" not in name.lower():
        raise LookupError(f"no local processor for {name}")
    made = transformers.Qwen2VLProcessor if cls is transformers.AutoProcessor else cls
    tokenizer = make_tokenizer(transformers.Qwen2Tokenizer, name)
    patch_size = 16 if "qwen3" in name.lower() else 14
    sizes: dict[str, Any] = {"min_pixels": 4 * 28 * 28, "max_pixels": 16 * 28 * 28}  # few tokens
    return made(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=patch_size, **sizes),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT,
    )


def _t5_config(kind: Any) -> Any:
    return kind(vocab_size=1000, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0)


def _small_config(kind: Any, width: int = WIDTH) -> Any:
    return kind(**_resize(kind().to_dict(), width))


def _resize(known: dict[str, Any], width: int) -> dict[str, Any]:
    """Return tiny sizes for the fields of a config that define sizes, also in the configs inside of it."""
    inside = {
        name: _resize(each, width)
        for name, each in known.items()
        if name.endswith("_config") and isinstance(each, dict)
    }
    widths = {"hidden_size": width, "embed_dim": width, "out_hidden_size": width}
    sizes = {name: value for name, value in {**SIZES, **VISION, **widths}.items() if name in known} | inside
    is_vision = "_vl" in str(known.get("model_type"))
    if is_vision and "vocab_size" in known:
        sizes["vocab_size"] = max(VISION_TOKENS.values()) + 1
    rope = known.get("rope_parameters")
    if isinstance(rope, dict) and is_vision:  # half of a head's width, for time, height and width
        half = width // SIZES["num_attention_heads"] // 2
        sections = [half - 2 * (half // 3), half // 3, half // 3]
        sizes["rope_parameters"] = {**rope, "mrope_section": sections}
    return sizes


def make_tokenizer(cls: Any, name: str) -> Any:
    """Return a tokenizer of single characters for the model that a hub stores under this name."""
    import transformers
    from tokenizers.processors import TemplateProcessing

    lower, letters = f"{cls.__name__} {name}".lower(), byte_characters()
    if "t5" in lower:
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
        return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)  # type: ignore[attr-defined]
    if "clip" in lower:
        tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    if "qwen" in lower or "glm" in lower:
        vocabulary = {token: number for number, token in enumerate([*letters, "<|endoftext|>"])}
        if "vl" in lower:
            first = min(VISION_TOKENS.values())
            vocabulary |= {f"<unused{number}>": number for number in range(len(vocabulary), first)} | VISION_TOKENS
        made = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024)
        made.chat_template = CHAT
        if "vl" in lower:
            made.add_special_tokens({"additional_special_tokens": list(VISION_TOKENS)})
        if "glm" in lower:  # begins each text with a token
            made.backend_tokenizer.post_processor = TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", len(letters))]
            )
        return made
    if "llama" in lower or "gemma" in lower:
        kind = transformers.LlamaTokenizer if "llama" in lower else transformers.GemmaTokenizer
        ends = ["<pad>", "</s>", "<s>", "<unk>"] if "llama" in lower else ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        vocabulary = {token: number for number, token in enumerate([*ends, "▁", *letters])}
        sentencepiece = kind(vocab=vocabulary, merges=[], model_max_length=1024, pad_token="<pad>")
        sentencepiece.chat_template = CHAT
        return sentencepiece
    if "roberta" in lower:
        vocabulary = {
            token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])
        }
        return transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=64)  # of 77 places
    if "bert" in lower:
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
        return transformers.BertTokenizer(
            vocab={token: number for number, token in enumerate(tokens)}, model_max_length=77
        )
    raise LookupError(f"no local tokenizer for {name}")
