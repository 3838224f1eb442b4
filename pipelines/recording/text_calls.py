"""Record how a pipeline's call turns texts into arguments of its denoiser: the texts that its tokenizers read, and the
inputs and outputs of the networks that run before the denoiser."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, bind_arguments
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.seen_pictures import PartRun, SeenPicture, copy_tensors, watch_parts
from fewstep.pipelines.recording.stand_ins import AUTOENCODERS

FORWARD, IDS, MASK = "forward", "input_ids", "attention_mask"  # arguments of all text encoders of transformers
TRANSFORMERS = "transformers."
ENTRIES = (FORWARD, "get_text_features")  # methods of networks that pipelines call with texts


@dataclass(frozen=True)
class TokenizedText:
    """A text that a tokenizer read. `tokenizer` is its component. `is_special`: it added its start and end ids."""

    tokenizer: str
    text: str
    is_special: bool


@dataclass(frozen=True)
class NetworkRun:
    """A call of a network before the denoiser. `inputs` are its arguments that are tensors, `options` the others, by
    name. `outputs` are the tensors with values that it returned, by path. `takes_mask`: it has an argument for the mask
    of its token ids. `ids` is the name of the argument for these. `picture`: its entry is a part of the component,
    which gets embeddings with features of a picture in place of the ids."""

    component: str
    entry: str
    inputs: Mapping[str, Tensor]
    options: Mapping[str, Any]
    outputs: Mapping[str, Tensor]
    takes_mask: bool = False
    ids: str = IDS
    picture: SeenPicture | None = None


@dataclass(frozen=True)
class TextRecord:
    """A recording of a pipeline's call, with the texts and the network runs that came before its steps."""

    call: CallRecord
    texts: tuple[TokenizedText, ...]
    runs: tuple[NetworkRun, ...]


Outputs = Collection[tuple[str, str]]  # outputs of networks, as (component, path)


@dataclass
class _Log:
    keeps: Outputs | None
    texts: list[TokenizedText] = field(default_factory=list)
    runs: list[NetworkRun] = field(default_factory=list)
    ids: set[tuple[int, ...]] = field(default_factory=set)  # of each text, as a tokenizer returned them


def record_texts(built: BuiltPipeline, settings: Mapping[str, Any], keeps: Outputs | None = None) -> TextRecord:
    """Record a pipeline's call with its texts, up to its first step. Raises UserError as `record` does.

    keeps: the outputs that are kept, if not all: the hidden states of a large encoder take gigabytes.
    """
    log = _Log(keeps)
    with _recording(built, log):
        call_record = record(built, settings, 0, stops=True)
    return TextRecord(call_record, tuple(log.texts), tuple(log.runs))


def find_tokenizers(pipeline: Any) -> dict[str, Any]:
    """Return the tokenizers of a pipeline by component. That of a processor has the name of the processor."""
    tokenizers = {}
    for name, component in pipeline.components.items():
        tokenizer = getattr(component, "tokenizer", component)
        if hasattr(tokenizer, "backend_tokenizer") or hasattr(tokenizer, "convert_tokens_to_ids"):
            tokenizers[name] = tokenizer
    return tokenizers


def read_outputs(returned: Any) -> dict[str, Tensor]:
    """Return the tensors with values that a network returned, by path. Those in a cache of keys have none."""
    fields = dict(returned) if isinstance(returned, Mapping) else returned
    flat, _ = pytree.tree_flatten_with_path(fields)
    return {pytree.keystr(path): leaf for path, leaf in flat if isinstance(leaf, Tensor) and leaf.is_floating_point()}


@contextmanager
def _recording(built: BuiltPipeline, log: _Log) -> Iterator[None]:
    tokenizers = find_tokenizers(built.pipeline)
    with ExitStack() as stack:
        for kind in {type(tokenizer) for tokenizer in tokenizers.values()}:
            stack.enter_context(patch.object(kind, "__call__", _recording_tokenizer(tokenizers, kind.__call__, log)))
        for name, network in built.pipeline.components.items():
            is_network = isinstance(network, nn.Module) and not type(network).__module__.startswith(AUTOENCODERS)
            if not is_network or name in built.denoisers:
                continue
            for entry in ENTRIES:
                if callable(original := getattr(network, entry, None)):
                    recorder = _recording_run(name, entry, network, original, log)
                    stack.enter_context(patch.object(network, entry, recorder))
        yield


def _recording_tokenizer(tokenizers: Mapping[str, Any], original: Callable[..., Any], log: _Log) -> Callable[..., Any]:
    names = {id(tokenizer): name for name, tokenizer in tokenizers.items()}

    def __call__(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        encoded = original(self, text, *args, **kwargs)
        if id(self) in names and not args:
            is_special = bool(kwargs.get("add_special_tokens", True))
            lines = [text] if isinstance(text, str) else text if isinstance(text, list | tuple) else ()
            log.texts += [TokenizedText(names[id(self)], line, is_special) for line in lines if isinstance(line, str)]
            log.ids.update(_rows_of_ids(encoded))
        return encoded

    return __call__


def _recording_run(
    component: str, entry: str, network: nn.Module, original: Callable[..., Any], log: _Log
) -> Callable[..., Any]:
    kind = type(network)
    signature = inspect.signature(getattr(kind, entry))

    def run(*args: Any, **kwargs: Any) -> Any:
        whole = PartRun(entry, copy_tensors(bind_arguments(signature, args, kwargs)), frozenset(signature.parameters))
        ids = IDS if kind.__module__.startswith(TRANSFORMERS) else _find_ids(whole.inputs, log.ids)
        with _watch_pictures(network, whole.inputs, ids) as parts:
            whole.returned = original(*args, **kwargs)
        part = next(iter(parts.values()), whole)
        inputs = {**part.inputs, **({ids: whole.inputs[ids]} if ids in whole.inputs else {})}
        options = {name: value for name, value in part.arguments.items() if name not in inputs}
        outputs = {
            path: output.clone()
            for path, output in read_outputs(part.returned).items()
            if log.keeps is None or (component, path) in log.keeps
        }
        takes_mask = MASK in part.takes
        log.runs.append(NetworkRun(component, part.entry, inputs, options, outputs, takes_mask, ids, part.picture))
        return whole.returned

    setattr(run, "__signature__", signature)  # noqa: B010 - pipelines ask which arguments it takes
    return run


@contextmanager
def _watch_pictures(network: nn.Module, inputs: Mapping[str, Tensor], ids: str) -> Iterator[Mapping[int, PartRun]]:
    """While active, watch the parts of a network that gets the ids of one text, and a picture besides."""
    has_picture = any(value.is_floating_point() for value in inputs.values())
    if ids not in inputs or len(inputs[ids]) != 1 or not has_picture:
        yield {}
        return
    with watch_parts(network, inputs[ids]) as parts:
        yield parts


def _rows_of_ids(encoded: Any) -> Iterator[tuple[int, ...]]:
    """Yield the token ids of each text that a tokenizer returned."""
    ids = encoded.get(IDS, ()) if isinstance(encoded, Mapping) else ()
    rows = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else [*ids]
    yield from (tuple(row) for row in ([rows] if rows and isinstance(rows[0], int) else rows))


def _find_ids(inputs: Mapping[str, Tensor], rows: Collection[tuple[int, ...]]) -> str:
    """Return the argument of a network of another library that has token ids [texts, tokens]: the integers of two axes
    of which a row is one that a tokenizer returned (`rows`). If a pipeline changed all of them, the first that are not
    called a mask. A mask of any name may be in bool."""
    integers = {
        name: value for name, value in inputs.items() if value.dim() == 2 and value.dtype in (torch.int32, torch.int64)
    }
    tokenized = (name for name, value in integers.items() if not {*map(tuple, value.tolist())}.isdisjoint(rows))
    return [*tokenized, *(name for name in integers if "mask" not in name), IDS][0]
