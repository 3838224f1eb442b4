"""The text encoder of a bundle: converts prompts to conditions.

    text = load_text_encoder("bundle")
    with fewstep.runtime.load("bundle") as sampler:
        x = sampler.sample("dpmpp_2m:20", seeds=[0], condition=text.encode(["a cat"]), guidance=7.5)

A negative prompt is the condition of the unconditional branch: branches={"uncond": text.encode_negative(["blurry"])}.
The text encoder is a separate network, often larger than the denoiser. To save memory, a program may keep its
conditions and release it before it loads the denoiser. The library `tokenizers` runs the tokenizers from files of the
bundle.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import reduce
from html import unescape
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.arrays import as_finite
from fewstep.runtime.backends import CompanionEngine, LoadedGraph
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import PromptForm, StateWords, Tokens
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.captions import QUOTES, clean_caption, clean_html_caption
from fewstep.runtime.kinds.companions import TEXT_ENCODER, Cleaning, ZerosForEmpty
from fewstep.runtime.kinds.policies import state_words
from fewstep.runtime.token_ids import Cut, Ids, TokenIds, refuse_places, shorten, token_ids

LOG = logging.getLogger("fewstep")
BATCH = 8  # prompts per run; with more, only the memory would grow

CLEANINGS: Mapping[Cleaning, Callable[[str], str]] = {
    "entities": lambda text: unescape(unescape(text)),  # pipelines of diffusers do it twice
    "quotes": lambda text: text.translate(QUOTES),
    "unquoted": lambda text: re.sub('["\u201c\u201d\u2018\u2019]', " ", text),
    "spaces": lambda text: re.sub(r"\s+", " ", text),
    "lower": str.lower,
    "ends": str.strip,
    "captions": clean_caption,
    "html captions": clean_html_caption,
}

NOTHING: Mapping[str, ArrayLike] = MappingProxyType({})


class TextForm(Protocol):
    """The fields of `Tokens` that complete a prompt."""

    @property
    def before(self) -> str: ...
    @property
    def after(self) -> str: ...
    @property
    def cleaning(self) -> tuple[Cleaning, ...]: ...
    @property
    def negative(self) -> tuple[str, str] | None: ...
    @property
    def negative_cleaning(self) -> tuple[Cleaning, ...] | None: ...


@dataclass(frozen=True, repr=False)
class TextEncoder:
    """A loaded text encoder, as `load_text_encoder` returns it. Any number of threads may share it."""

    bundle: Bundle
    tokens: tuple[Tokens, ...]
    tokenizers: tuple[Any, ...]  # `tokenizers.Tokenizer`, one for each of `tokens`
    network: LoadedGraph

    def __repr__(self) -> str:
        return f"<TextEncoder of {self.bundle.path}>"

    @property
    def state(self) -> StateWords | None:
        """The observation that prompts contain as words, such as the robot's state; None if they contain none."""
        return state_words(self.bundle.manifest)

    @property
    def conditions(self) -> frozenset[str]:
        """The names of the conditions that a prompt becomes."""
        text = self.bundle.manifest.text
        return frozenset() if text is None else text.encoded

    @property
    def has_lengths(self) -> bool:
        """Whether conditions have the length of their prompt, so that prompts of other lengths need other calls."""
        text = self.bundle.manifest.text
        return text is not None and bool(text.lengths)

    @property
    def nothing(self) -> str | None:
        """The negative prompt of a guided run that gives none; None if the conditions have null values for it."""
        text = self.bundle.manifest.text
        return None if text is None else text.nothing

    @property
    def form(self) -> PromptForm | None:
        """The template into which a policy's task is inserted before it is tokenized; None without a template."""
        text = self.bundle.manifest.text
        return None if text is None else text.form

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of conditions from which it encodes prompts besides their text, such as features of a picture."""
        text = self.bundle.manifest.text
        return () if text is None else text.reads

    def encode(
        self, prompts: Sequence[str], state: ArrayLike | None = None, conditions: Mapping[str, ArrayLike] = NOTHING
    ) -> dict[str, NDArray[Any]]:
        """Encode prompts to conditions [len(prompts), *shape] by name.

        A prompt that is too long for its tokenizer is truncated, with a warning that shows the dropped text. The empty
        prompt means "nothing in particular". `state` [n] is for policies whose prompts contain it. `conditions`
        [len(prompts), *shape] has those that it `reads`. Raises UserError if one is missing.
        """
        return self._encode(prompts, state, self._zeros_for_empty == "always", conditions)

    def encode_negative(
        self, prompts: Sequence[str], of: Sequence[str] = (), conditions: Mapping[str, ArrayLike] = NOTHING
    ) -> dict[str, NDArray[Any]]:
        """Encode negative prompts as `encode` does. Some pipelines have zeros in place of an empty one only. In some,
        the texts of both branches have as many tokens as the prompts, which `of` has in the same order."""
        of_prompt = {size.name for size in self.bundle.manifest.sizes if size.of_prompt}
        if of_prompt and len(of) != len(prompts):
            what = f"negative prompts of {self.bundle.path} have the length of their prompts"
            raise UserError(what, "give one prompt for each: encode_negative(negative, of=prompts)")
        zeros = self._zeros_for_empty != "never"
        return self._encode(prompts, None, zeros, conditions, of if of_prompt else (), True)

    def _encode(
        self,
        prompts: Sequence[str],
        state: ArrayLike | None,
        zeros_for_empty: bool,
        read: Mapping[str, ArrayLike],
        of: Sequence[str] = (),
        is_negative: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Return the conditions of prompts, with the length of the prompts `of` if there are any."""
        prompts = [format_prompt(prompt, self.form, state) for prompt in check_prompts(prompts)]
        others = self._read_conditions(len(prompts), read)
        keys = [(prompt, row if others else 0) for row, prompt in enumerate(prompts)]
        place = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        ids = self.ids([prompt for prompt, _ in place], is_negative)
        encoded = BatchSplitter(self.network, BATCH)({**ids, **others})
        rows = [place[key] for key in keys]
        conditions = {name: array[rows] for name, array in encoded.items()}
        conditions = _zero_empty(conditions, prompts) if zeros_for_empty else conditions
        return self._cut(conditions, list(of) or prompts, is_negative and not of)

    def zeros(self, count: int) -> dict[str, NDArray[Any]]:
        """Return zeros [count, *shape] for the conditions that it `reads`, with which its time and memory are
        measured."""
        takes = {condition.name: condition.shape for condition in self.bundle.manifest.conditions}
        return {name: np.zeros((count, *takes[name]), np.float32) for name in self.reads}

    def _read_conditions(self, count: int, given: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Return the conditions [count, *shape] that it reads. Raises UserError if one is missing or of another
        shape."""
        takes = {condition.name: condition.shape for condition in self.bundle.manifest.conditions}
        values: dict[str, NDArray[Any]] = {}
        for name in self.reads:
            if name not in given:
                what = f"{self.bundle.path} encodes prompts with the condition {name!r}, which is missing"
                fix = "fewstep encode SOURCE --image FILE -o picture.npz writes it: give --conditions picture.npz"
                raise UserError(what, fix)
            values[name] = as_finite(given[name], f"condition {name!r}", "give finite numbers").astype(np.float32)
            if values[name].shape != (count, *takes[name]):
                what = f"condition {name!r} of {count} prompts has the shape {list(values[name].shape)}"
                raise UserError(what, f"give an array {[count, *takes[name]]}")
        return values

    def _cut(
        self, conditions: dict[str, NDArray[Any]], prompts: Sequence[str], is_negative: bool
    ) -> dict[str, NDArray[Any]]:
        """Return conditions [len(prompts), *shape] without what follows the tokens of the prompts, along axes that have
        their number. Raises UserError if this number differs between the prompts."""
        if not self.has_lengths:
            return conditions
        sizes, *others = self._lengths(prompts, is_negative)
        if any(graph != sizes for graph in others):
            numbers = " and ".join(map(str, sorted({max(group.values()) for group in (sizes, *others)})))
            what = f"the prompts become {numbers} tokens, and the network takes texts of one length in a call"
            raise UserError(what, "encode each prompt in a call of its own")
        cut = {}
        for condition in self.bundle.manifest.conditions:
            if (array := conditions.get(condition.name)) is not None:
                places = (slice(sizes.get(condition.follows.get(axis, ""))) for axis in range(len(condition.shape)))
                cut[condition.name] = np.ascontiguousarray(array[(slice(None), *places)])
        return cut

    def _lengths(self, prompts: Sequence[str], is_negative: bool) -> list[dict[str, int]]:
        """Return the free sizes that follow the number of a prompt's tokens, for each prompt."""
        text, manifest = self.bundle.manifest.text, self.bundle.manifest
        assert text is not None, "it was loaded from there"
        counts = {tokens.input: encoded.mask.sum(axis=1) for tokens, encoded in self._tokenize(prompts, is_negative)}
        largest = {size.name: size.high for size in manifest.sizes}
        return [
            {
                length.size: min(int(counts[length.input][row]) + length.more, largest[length.size])
                for length in text.lengths
            }
            for row in range(len(prompts))
        ]

    @property
    def _zeros_for_empty(self) -> ZerosForEmpty:
        text = self.bundle.manifest.text
        return "never" if text is None else text.zeros_for_empty

    def ids(self, prompts: Sequence[str], is_negative: bool = False) -> dict[str, Ids]:
        """Return the network's inputs [len(prompts), length]: token ids, and masks if it takes them."""
        fed: dict[str, Ids] = {}
        dropped: dict[str, Cut] = {}  # for each prompt, the largest cut of all tokenizers
        for tokens, encoded in self._tokenize(prompts, is_negative):
            fed[tokens.input] = encoded.ids
            if tokens.mask is not None:
                fed[tokens.mask] = encoded.mask
            if tokens.picture is not None:
                refuse_places(prompts, encoded.ids, *tokens.picture)
            texts = [complete_text(prompt, tokens, is_negative) for prompt in prompts]
            cuts = [
                (prompt, encoded.dropped[text])
                for prompt, text in zip(prompts, texts, strict=True)
                if text in encoded.dropped
            ]
            dropped |= {prompt: max(dropped.get(prompt, cut), cut) for prompt, cut in cuts}
        for prompt, (lost, kept, text) in dropped.items():
            if self.reads:  # the tokens of the picture may follow those of the prompt
                what = f"prompt {shorten(prompt)} is too long by {lost} tokens, which cannot be cut off for a picture"
                raise UserError(what, "give a shorter one")
            LOG.warning(
                "prompt %s is too long: %d tokens are kept, %d are dropped: %s",
                shorten(prompt),
                kept,
                lost,
                shorten(text),
            )
        return fed

    def _tokenize(self, prompts: Sequence[str], is_negative: bool) -> "Iterator[tuple[Tokens, TokenIds]]":
        """Yield the ids of prompts for each input of token ids."""
        for tokens, tokenizer in zip(self.tokens, self.tokenizers, strict=True):
            texts = [complete_text(prompt, tokens, is_negative) for prompt in prompts]
            with _report_file_errors(self.bundle, tokens):
                form = tokens.replaced, tokens.pads_first, tokens.empty
                encoded = token_ids(texts, tokenizer, tokens.length, tokens.pad, *form)
            yield tokens, encoded


def _zero_empty(conditions: dict[str, NDArray[Any]], prompts: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return conditions [len(prompts), *shape] with zeros in the rows of empty prompts."""
    empty = np.array([not prompt for prompt in prompts], bool)
    for array in conditions.values():
        array[empty] = 0
    return conditions


def clean_text(text: str, cleaning: Sequence[Cleaning]) -> str:
    """Return a text changed as pipelines clean prompts. `Tokens` describes the changes."""
    return reduce(lambda cleaned, change: CLEANINGS[change](cleaned), cleaning, text)


def complete_text(prompt: str, tokens: TextForm, is_negative: bool = False) -> str:
    """Return the text that a tokenizer reads for a prompt, or for a negative one."""
    before, after = (is_negative and tokens.negative) or (tokens.before, tokens.after)
    cleaning = tokens.negative_cleaning if is_negative else None
    return f"{before}{clean_text(prompt, tokens.cleaning if cleaning is None else cleaning)}{after}"


def format_prompt(task: str, form: PromptForm | None, state: ArrayLike | None = None) -> str:
    """Return the prompt of a task in the form on which the policy was trained. `state` [n], in the robot's units, is
    required if the prompt contains it."""
    if form is None:
        return task
    task = task.strip().replace("_", " ").replace("\n", " ") if form.tidied else task.removesuffix("\n")
    bins = ""
    if form.state is not None:
        count, fix = len(form.state.scale), f"give state=[{len(form.state.scale)} numbers]"
        if state is None:
            raise UserError(f"prompts of this policy contain {form.state.observation!r}, which is not given", fix)
        values = as_finite(state, "the state of a prompt", fix)
        if values.shape != (count,):
            raise UserError(f"the state of a prompt is {values.tolist()}", fix)
        scaled = values * np.asarray(form.state.scale) + np.asarray(form.state.shift)
        edges = np.linspace(-1, 1, form.state.bins + 1)[:-1]
        bins = " ".join(map(str, np.digitize(scaled, edges) - 1))
    return form.template.replace("{state}", bins).replace("{task}", task)


def load_text_encoder(
    bundle: Bundle | Path | str, threads: int = 0, engine: CompanionEngine | None = None
) -> TextEncoder:
    """Load the text encoder of a bundle on the CPU. Raises UserError if the bundle has none.

    A body may have its own text encoder: give the `bundle` of a sampler, or `open_bundle(path).with_graphs_of(body)`.
    `threads` are per run; 0 means one per physical core. `engine` is an inference engine with its own threads, such as
    `OpenVino()`; None is ONNX Runtime.
    """
    return open_text_encoder(bundle if isinstance(bundle, Bundle) else open_bundle(bundle), threads, engine=engine)


def open_text_encoder(
    bundle: Bundle, threads: int = 0, network: LoadedGraph | None = None, engine: CompanionEngine | None = None
) -> TextEncoder:
    """Load the text encoder of an open bundle, as `load_text_encoder` does. Raises UserError if the bundle has none.

    `network` takes the place of the encoder's graph, which is then not loaded.
    """
    text = bundle.manifest.text
    if text is None:
        raise UserError(f"{bundle.path} has no text encoder", _other_conditions(bundle))
    return TextEncoder(
        bundle,
        text.tokens,
        tuple(_tokenizer(bundle, tokens) for tokens in text.tokens),
        network or (engine or OnnxRuntime(threads)).load_companion(bundle, TEXT_ENCODER),
    )


def _other_conditions(bundle: Bundle) -> str:
    """Return advice for a user who gave a prompt to a bundle without a text encoder: what to give instead."""
    conditions = bundle.manifest.conditions
    if any(
        condition.dtype.startswith("float") and condition.shape for condition in conditions
    ):  # as encoded prompts are
        names = ", ".join(condition.name for condition in conditions)
        return f"give {names} as --conditions FILE.npz (fewstep encode writes one from the source of the bundle)"
    return (
        f"give {' '.join(f'-c {condition.name}=VALUE' for condition in conditions)}"
        if conditions
        else "leave the prompt out"
    )


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the prompts as a list. Raises UserError unless it has at least one, and all are valid strings."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise UserError(f"prompts {prompts!r} are not a list of texts", "give ['a cat']")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise UserError(f"prompt {prompt!r} is not text", "give each prompt as a string")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise UserError(f"prompt {prompt!r} is not valid text", "give characters that UTF-8 can encode") from error
    if not prompts:
        raise UserError("prompts is empty", "give at least one; the empty prompt is ''")
    return list(prompts)


def _tokenizer(bundle: Bundle, tokens: Tokens) -> Any:
    """Load a tokenizer from a file of the bundle. The manifest's length and padding replace those of the file."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            f"prompts need the library tokenizers, which cannot be imported ({error})", "pip install 'fewstep[text]'"
        ) from error
    content = bundle.read(tokens.tokenizer)
    with _report_file_errors(bundle, tokens):
        tokenizer = Tokenizer.from_str(content.decode())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        room = tokens.length - tokenizer.num_special_tokens_to_add(is_pair=False)
    if room < 0:  # none are left in Marigold, whose only prompt is empty
        what = f"{bundle.path}: {tokens.tokenizer} adds more special tokens than its {tokens.length} ids"
        raise UserError(what, bundle.export_again)
    return tokenizer


@contextmanager
def report_tokenizer_errors(what: str, fix: str) -> Iterator[None]:
    """Raise UserError if the library tokenizers cannot read `what`. Its panics do not derive from Exception."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} is not a tokenizer ({first_line(error)})", fix) from None


def _report_file_errors(bundle: Bundle, tokens: Tokens) -> AbstractContextManager[None]:
    return report_tokenizer_errors(f"{bundle.path}: {tokens.tokenizer}", bundle.export_again)
