"""The text encoder of a bundle converts prompts to conditions.

    text = load_text_encoder("bundle")
    with fewstep.runtime.load("bundle") as sampler:
        x = sampler.sample("dpmpp_2m:20", seeds=[0], condition=text.encode(["a cat"]), guidance=7.5)

A negative prompt is the condition of the unconditional branch: branches={"uncond": text.encode(["blurry"])}. The text
encoder is a network of its own, often larger than the denoiser. A program may keep its conditions and release it before
the denoiser is loaded. The library `tokenizers` runs the tokenizers, from files of the bundle.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.arrays import as_finite
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.bundle.manifest import PromptForm, StateWords, Tokens
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle, open_bundle
from fewstep.runtime.kinds.policies import state_words

LOG = logging.getLogger("fewstep")
BATCH = 8  # prompts of one run: more would only cost memory
SHOWN = 80  # characters of a prompt in a message

Ids = NDArray[np.int64]
Cut = tuple[int, int, str]  # tokens dropped, tokens kept, the text dropped


@dataclass(frozen=True, repr=False)
class TextEncoder:
    """The text encoder of a bundle, loaded. Made by `load_text_encoder`; serves any number of threads."""

    bundle: Bundle
    tokens: tuple[Tokens, ...]
    tokenizers: tuple[Any, ...]  # `tokenizers.Tokenizer`, one for each of `tokens`
    network: Session

    def __repr__(self) -> str:
        return f"<TextEncoder of {self.bundle.path}>"

    @property
    def state(self) -> StateWords | None:
        """The observation that prompts hold as words, or None."""
        return state_words(self.bundle.manifest)

    @property
    def form(self) -> PromptForm | None:
        """The form that a policy's task gets before it is tokenized, or None."""
        text = self.bundle.manifest.text
        return None if text is None else text.form

    def encode(self, prompts: Sequence[str], state: ArrayLike | None = None) -> dict[str, NDArray[Any]]:
        """The conditions [len(prompts), *shape] that the prompts are, by name.

        A prompt that is longer than the tokenizer allows is cut, with a warning that says what was dropped. An empty
        one is what denoisers take for "nothing in particular". `state` [n] is for policies whose prompts hold it.
        """
        prompts = [format_prompt(prompt, self.form, state) for prompt in check_prompts(prompts)]
        place = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        encoded, rows = BatchSplitter(self.network, BATCH)(self.ids(list(place))), [place[prompt] for prompt in prompts]
        return {name: array[rows] for name, array in encoded.items()}

    def ids(self, prompts: Sequence[str]) -> dict[str, Ids]:
        """The inputs [len(prompts), length] of the network: token ids, and masks where it takes them."""
        fed: dict[str, Ids] = {}
        dropped: dict[str, Cut] = {}  # of each prompt the most that a tokenizer has dropped
        for tokens, tokenizer in zip(self.tokens, self.tokenizers, strict=True):
            with _report_file_errors(self.bundle, tokens):
                encoded = token_ids(prompts, tokenizer, tokens.length, tokens.pad)
            fed[tokens.input] = encoded.ids
            if tokens.mask is not None:
                fed[tokens.mask] = encoded.mask
            dropped |= {prompt: max(dropped.get(prompt, cut), cut) for prompt, cut in encoded.dropped.items()}
        for prompt, (lost, kept, text) in dropped.items():
            LOG.warning(
                "prompt %s is too long: %d tokens stay, %d go: %s", _shorten(prompt), kept, lost, _shorten(text)
            )
        return fed


def format_prompt(task: str, form: PromptForm | None, state: ArrayLike | None = None) -> str:
    """The prompt of a task; `state` [n] in the robot's units, where the form holds it."""
    if form is None:
        return task
    task = task.strip().replace("_", " ").replace("\n", " ") if form.tidied else task.removesuffix("\n")
    bins = ""
    if form.state is not None:
        count, fix = len(form.state.scale), f"give state=[{len(form.state.scale)} numbers]"
        if state is None:
            raise UserError(f"prompts of this policy hold {form.state.observation!r}", fix)
        values = as_finite(state, "the state of a prompt", fix)
        if values.shape != (count,):
            raise UserError(f"the state of a prompt is {values.tolist()}", fix)
        scaled = values * np.asarray(form.state.scale) + np.asarray(form.state.shift)
        edges = np.linspace(-1, 1, form.state.bins + 1)[:-1]
        bins = " ".join(map(str, np.digitize(scaled, edges) - 1))
    return form.template.replace("{state}", bins).replace("{task}", task)


@dataclass(frozen=True)
class TokenIds:
    """Ids [N, length] of N prompts, `mask` 1 where they are the prompt's, 0 behind; `dropped` parts of long prompts."""

    ids: Ids
    mask: Ids
    dropped: Mapping[str, Cut]


def token_ids(prompts: Sequence[str], tokenizer: Any, length: int, pad: int) -> TokenIds:
    """The ids that a `tokenizers.Tokenizer` makes of prompts, cut to a length and filled up to it."""
    ids = np.full((len(prompts), length), pad, np.int64)
    mask = np.zeros((len(prompts), length), np.int64)
    dropped = {}
    room = length - tokenizer.num_special_tokens_to_add(is_pair=False)
    for index, prompt in enumerate(prompts):
        encoding = tokenizer.encode(prompt, add_special_tokens=False)
        if len(encoding.ids) > room:
            dropped[prompt] = (len(encoding.ids) - room, room, prompt[encoding.offsets[room][0] :].strip())
            encoding.truncate(room)
        row = tokenizer.post_process(encoding).ids
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return TokenIds(ids, mask, dropped)


def load_text_encoder(bundle: Bundle | Path | str, threads: int = 0) -> TextEncoder:
    """The text encoder of a bundle, on the CPU. `threads`: of one run, 0 means one per physical core."""
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    text = bundle.manifest.text
    if text is None:
        raise UserError(
            f"{bundle.path} has no text encoder",
            "give its conditions themselves, or export a folder that has text_encoder/ and tokenizer/",
        )
    return TextEncoder(
        bundle,
        text.tokens,
        tuple(_tokenizer(bundle, tokens) for tokens in text.tokens),
        OnnxRuntime(threads).load_graph(bundle, text.graph),
    )


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """A list of texts, at least one."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise UserError(f"prompts {prompts!r} are not a list of texts", "give ['a cat']")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise UserError(f"prompt {prompt!r} is no text", "give each prompt as a string")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise UserError(f"prompt {prompt!r} is no valid text", "give characters that UTF-8 has") from error
    if not prompts:
        raise UserError("no prompts", "give at least one; an empty one is ''")
    return list(prompts)


def _tokenizer(bundle: Bundle, tokens: Tokens) -> Any:
    """The tokenizer in a file of the bundle. The manifest replaces the file's lengths and padding."""
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
    if room < 1:
        raise UserError(f"{bundle.path}: {tokens.tokenizer} fills {tokens.length} ids by itself", EXPORT_AGAIN)
    return tokenizer


@contextmanager
def report_tokenizer_errors(what: str, fix: str) -> Iterator[None]:
    """UserError where the library tokenizers cannot read `what`: its panics are no Exceptions."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} is no tokenizer ({first_line(error)})", fix) from None


def _report_file_errors(bundle: Bundle, tokens: Tokens) -> AbstractContextManager[None]:
    return report_tokenizer_errors(f"{bundle.path}: {tokens.tokenizer}", EXPORT_AGAIN)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
