"""The text encoders and tokenizers of a diffusers folder, which turn a prompt into the denoiser's conditions.

A `TextRecipe` defines the encoders of a pipeline, and which of their outputs it uses. The denoiser and the encoders in
the folder determine the recipe. For a folder with other encoders only the denoiser is exported: the bundle then takes
encoded texts.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from fewstep.export.companions.companion import Companion
from fewstep.export.companions.text import TextSource, TokenInput, tokenize_prompts
from fewstep.export.companions.tokenizer import (
    TokenizerFile,
    import_transformers,
    read_tokenizer,
    tokens_of_several_embeddings,
)
from fewstep.export.lora.merge import merge, refuse_added_doras
from fewstep.export.sources.model_files import CONFIG, TOKENIZER_CONFIG, find_weights, float_bytes
from fewstep.export.sources.remote_code import NO_CODE
from fewstep.export.tracing.weights.stored_halves import restore_parameters
from fewstep.pipelines.companions import text_modules as modules
from fewstep.pipelines.files.folder import INDEX, Folder
from fewstep.pipelines.files.loading import load_pretrained
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition, TensorEntry
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import Component
from fewstep.runtime.token_ids import Ids

LOG = logging.getLogger("fewstep")
CLIP, PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
CLIP_LENGTH = 77
WEIGHTS = "model"  # stem of the weight files
UNREAD_SETTINGS = (("padding_side", "left"), ("truncation_side", "left"), ("split_special_tokens", True))
TEXT, POOLED = "text", "pooled_text"  # names of conditions in the denoiser's interface
TRIED = (
    "",
    "a photograph of a cat",
    "two dogs, playing; an oil painting in the style of the 19th century, 4k!",
    "naïve",
)

Make = Callable[[Sequence[nn.Module]], nn.Module]


@dataclass(frozen=True)
class TextRecipe:
    """How a pipeline uses its text encoders.

    `encoders` are the classes of the components, in order. `makes` are the names of the resulting conditions. `lengths`
    are the numbers of ids for each tokenizer: None means the number of tokens of the text. `make` is called with the
    loaded encoders.
    """

    denoiser: str
    encoders: Mapping[Component, str]
    makes: tuple[str, ...]
    lengths: tuple[int | None, ...]
    make: Make
    masked: bool = False


def read_text(folder: Folder, denoiser: str, conditions: Sequence[Condition]) -> TextSource | None:
    """Read the text encoders of a folder. Return None if it has none, or if fewstep does not support them, which is
    logged as a warning."""
    there: dict[str, str] = {name: folder.class_of(name) for name in (FIRST, SECOND, THIRD) if folder.has(name)}
    silent = [_tokenizer_of(name) for name in there if not folder.has(_tokenizer_of(name))]
    if silent:
        LOG.warning("%s has no %s: its text encoders are left out, give encoded texts", folder.path, silent[0])
    if silent or not there:
        return None
    takes = {condition.name: condition for condition in conditions}
    recipe = next((recipe for recipe in RECIPES if _suits(recipe, denoiser, there, takes)), None)
    if recipe is None:
        listed = ", ".join(f"{name} {kind}" for name, kind in there.items())
        LOG.warning("%s: text encoders %s of a %s are left out: give encoded texts", folder.path, listed, denoiser)
        return None
    if recipe.make is LAST and folder.config(FIRST).get("use_attention_mask"):
        recipe = replace(recipe, make=UNPADDED, masked=True)
    text = takes[TEXT].shape
    tokens = tuple(_read_token_inputs(folder, recipe, text))
    homes = [folder.path / name for name in recipe.encoders]
    files = [file for home in homes for file in (home / CONFIG, *find_weights(home, WEIGHTS).files)]
    inputs: list[TensorEntry] = []
    for token in tokens:
        inputs.append(TensorEntry(token.input, "ids", ("batch", token.length), "int64"))
        if token.mask is not None:
            inputs.append(TensorEntry(token.mask, "mask", ("batch", token.length), "int64"))
    outputs = [TensorEntry(n, "condition", ("batch", *takes[n].shape), takes[n].dtype) for n in recipe.makes]

    def feeds(batch: int) -> Mapping[str, Ids]:
        return tokenize_prompts(tokens, [TRIED[number % len(TRIED)] for number in range(batch)])

    load = partial(_load_encoders, folder, recipe)
    size = sum(float_bytes(find_weights(home, WEIGHTS).files) for home in homes)
    companion = Companion("text encoder", load, tuple(inputs), tuple(outputs), feeds, weights=size)
    t5 = find_t5({name: folder.config(name).get("model_type") for name in recipe.encoders})
    return TextSource(companion, tokens, tuple(files), tuple(recipe.encoders), load, t5=t5)


def find_t5(model_types: Mapping[Component, object]) -> Component | None:
    """Return the component that is a T5, among text encoders with these `model_type`s of transformers. None if there is
    none or several."""
    candidates = [component for component, model_type in model_types.items() if model_type in ("t5", "umt5")]
    return candidates[0] if len(candidates) == 1 else None


def _make_named_encoders(encode: modules.Encode, *names: str) -> Make:
    """Return a function that combines loaded encoders, under these names, into one module."""
    return lambda loaded: modules.TextEncoders(encode, **dict(zip(names, loaded, strict=False)))


def _make_penultimate_encoders(loaded: Sequence[nn.Module]) -> nn.Module:
    return modules.TextEncoders(modules.penultimate_hidden, encoders=nn.ModuleList(loaded))


UNET, FLUX = "UNet2DConditionModel", "FluxTransformer2DModel"
FIRST: Component = "text_encoder"
SECOND: Component = "text_encoder_2"
THIRD: Component = "text_encoder_3"
LAST, UNPADDED = (
    _make_named_encoders(encode, "encoder") for encode in (modules.last_hidden, modules.hidden_without_padding)
)
POOLED_AND_TOKENS = _make_named_encoders(modules.tokens_and_pooled, "clip", "t5")
RECIPES = (
    TextRecipe(UNET, {FIRST: CLIP}, (TEXT,), (None,), LAST),  # Stable Diffusion 1 and 2, LCM
    TextRecipe(UNET, {FIRST: CLIP, SECOND: PROJECTED}, (TEXT, POOLED), (None, None), _make_penultimate_encoders),  # XL
    TextRecipe(UNET, {SECOND: PROJECTED}, (TEXT, POOLED), (None,), _make_penultimate_encoders),  # its refiner
    TextRecipe(FLUX, {FIRST: CLIP, SECOND: T5}, (TEXT, POOLED), (CLIP_LENGTH, None), POOLED_AND_TOKENS),
)


def _suits(recipe: TextRecipe, denoiser: str, there: Mapping[str, str], takes: Mapping[str, Condition]) -> bool:
    """Return True if a recipe is for this denoiser and these encoders, and computes all text conditions of the
    denoiser."""
    texts = {name for name in (TEXT, POOLED) if name in takes}
    return (recipe.denoiser, recipe.encoders, set(recipe.makes)) == (denoiser, there, texts)


def _load_encoders(folder: Folder, recipe: TextRecipe, loras: Sequence[Lora] = ()) -> nn.Module:
    """Load the text encoders of a folder, with LoRA files merged into them, as one module."""
    loaded = []
    for component, kind in recipe.encoders.items():
        loaded.append(merge_loras(load_encoder(folder, component, kind), loras, component))
    return recipe.make(loaded)


def merge_loras(encoder: nn.Module, loras: Sequence[Lora], component: Component) -> nn.Module:
    """Merge the LoRA files that have layers of this encoder into it."""
    own = [lora for lora in loras if lora.layers(component)]
    if own:
        restore_parameters(encoder)
    refuse_added_doras(encoder, own, component)
    for lora in own:
        merge(encoder, lora, component)
    return encoder


def _read_token_inputs(folder: Folder, recipe: TextRecipe, text: tuple[int, ...]) -> Iterator[TokenInput]:
    """Yield the inputs of the text encoders, in the order of the encoders. Each attention mask belongs to the ids that
    it is yielded with."""
    converts = converts_prompts(folder.pipeline)
    for number, (component, length) in enumerate(zip(recipe.encoders, recipe.lengths, strict=True), 1):
        tokenizer = read_tokenizer(folder.path / _tokenizer_of(component))
        _check_tokenizer_config(folder, _tokenizer_of(component))
        _check_tokenizer_class(folder, _tokenizer_of(component), tokenizer)
        ids, mask = ("ids", "mask") if number == 1 else (f"ids_{number}", f"mask_{number}")
        count = text[0] if length is None else folder.token_length(_tokenizer_of(component), length)
        replaced = tokens_of_several_embeddings(tokenizer) if converts else {}
        yield TokenInput(ids, tokenizer, count, mask if recipe.masked else None, replaced)


def converts_prompts(pipeline: str) -> bool:
    """Return whether a pipeline replaces a token of textual inversion that has several embeddings by all of them. A
    class that diffusers does not have is taken for one that does."""
    import diffusers  # takes seconds, and --help does not need it

    made = getattr(diffusers, pipeline, None)
    return made is None or hasattr(made, "maybe_convert_prompt")


def _check_tokenizer_config(folder: Folder, tokenizer: str) -> None:
    """Raise UserError for a tokenizer that pads or cuts texts at their beginning, or reads special tokens as text."""
    for setting, value in UNREAD_SETTINGS:
        if folder.config(tokenizer).get(setting) == value:
            what = f"{folder.path / tokenizer / TOKENIZER_CONFIG} has {setting} {value!r}, which fewstep does not read"
            raise UserError(what, "remove the text encoders from model_index.json, and give encoded texts")


def _check_tokenizer_class(folder: Folder, component: str, tokenizer: TokenizerFile) -> None:
    """Raise UserError if the class that the index names reads texts differently from the tokenizer of the files."""
    from tokenizers import Tokenizer

    home = folder.path / component
    kind = getattr(import_transformers(home), folder.class_of(component), None)
    if kind is None:  # diffusers could not load it either
        return
    try:
        theirs = kind.from_pretrained(home, local_files_only=True, **NO_CODE)
        expected = [list(theirs(text.lower()).input_ids) for text in TRIED]
    except Exception:  # as above; transformers raises many unrelated classes
        return
    ours = Tokenizer.from_str(tokenizer.content.decode())
    for text, wanted in zip(TRIED, expected, strict=True):
        if ours.encode(text.lower()).ids != wanted:
            what = f"{folder.path / INDEX} says that {component} is a {kind.__name__}, which reads {text!r} as {wanted}"
            raise UserError(
                f"{what}, and its files as {ours.encode(text.lower()).ids}",
                "name the class that wrote the files, or write the folder again with save_pretrained",
            )


def _tokenizer_of(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")


def load_encoder(folder: Folder, component: str, kind: str) -> nn.Module:
    """Load a text encoder with its weights in float32. Its attention is "eager", which exports as written."""
    home = folder.path / component
    stored = find_weights(home, WEIGHTS)
    return load_pretrained(
        import_transformers(home), kind, home, stored, dtype=torch.float32, attn_implementation="eager"
    )
