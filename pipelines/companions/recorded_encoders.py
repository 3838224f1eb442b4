"""The text encoders of a recorded pipeline as one module, by the rules that its recordings show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor, nn

from fewstep.export.companions.text import TokenInput
from fewstep.export.companions.tokenizer import tokens_of_several_embeddings
from fewstep.pipelines.recording.text_calls import read_outputs
from fewstep.pipelines.relations.output_sums import Output, read_output
from fewstep.pipelines.relations.picture_rules import EmbeddedIds, PicturePositions
from fewstep.pipelines.relations.text_forms import FoundTokens, add_tail
from fewstep.pipelines.relations.text_rules import (
    BlockGrid,
    Constant,
    EncoderCall,
    EncoderOutput,
    IdsOfText,
    OutputBlock,
    Rule,
    TokenMask,
    TokenPositions,
    as_rows,
    combine,
    compute_mask,
    compute_positions,
)
from fewstep.runtime.bundle.manifest import Condition, TensorEntry
from fewstep.runtime.kinds.companions import ZerosForEmpty


def picture_name(component: str) -> str:
    """Return the name of the condition that has the features of a picture, as a text encoder gets them."""
    return f"{component}_picture"


class RecordedEncoders(nn.Module):
    """Loaded encoders as one module. Its arguments are the token ids of each encoder that takes them, each followed by
    their mask if a rule needs it, and then the features of pictures."""

    def __init__(self, networks: Mapping[str, nn.Module], text: "RecordedText") -> None:
        super().__init__()
        self.text, self.networks = text, nn.ModuleDict(networks)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        fed = dict(zip((entry.name for entry in self.text.inputs), inputs, strict=True))
        ids, masks = dict[int, Tensor](), dict[int, Tensor]()
        for number, (name, mask) in self.text.names.items():
            tail = torch.tensor(self.text.tokens[number].tail, dtype=torch.int64)
            ids[number] = add_tail(fed[name], tail)
            masks |= {} if mask is None else {number: add_tail(fed[mask], torch.ones_like(tail))}
        outputs: dict[EncoderOutput, Tensor] = {}

        def value(rule: Rule) -> Tensor:
            if isinstance(rule, IdsOfText):
                return ids[rule.encoder]
            if isinstance(rule, TokenMask):
                return compute_mask(rule, masks[rule.encoder])
            if isinstance(rule, TokenPositions):
                return compute_positions(rule, masks[rule.encoder])
            if isinstance(rule, PicturePositions):
                return rule.compute(ids[rule.encoder], masks[rule.encoder])
            if isinstance(rule, EmbeddedIds):
                component, own = self.text.encoders[rule.encoder].component, ids[rule.encoder]
                embed = self.networks[component].get_submodule(rule.embedding)
                return rule.combine(own, embed(own), fed[picture_name(component)])
            if isinstance(rule, Constant):
                return rule.value.expand(inputs[0].shape[0], *rule.value.shape) if rule.has_rows else rule.value
            return combine(rule, outputs, masks)

        for number, encoder in enumerate(self.text.encoders):
            arguments = {name: value(rule) for name, rule in encoder.inputs.items()}
            run = attrgetter(encoder.entry)(self.networks[encoder.component])
            returned = read_outputs(run(**arguments, **encoder.options))
            outputs |= {
                EncoderOutput(number, path): as_rows(read_output(returned, path)) for path in self.text.paths(number)
            }
        return tuple(value(rule).to(self.text.dtypes[name]) for name, rule in self.text.rules.items())


@dataclass(frozen=True)
class RecordedText:
    """How a pipeline's conditions follow from texts.

    encoders: calls of networks, in order. rules: those of the conditions, by name, and `dtypes` their types. nothing:
    the text of the unconditional branch if the caller gives none. zeros: that branch then has zeros instead.
    zeros_for_empty: as in `TextEncoderEntry`. lengths: of the free sizes that follow a text, as an encoder whose ids
    are counted, and what is added.
    """

    encoders: tuple[EncoderCall, ...]
    rules: Mapping[str, Rule]
    dtypes: Mapping[str, torch.dtype]
    nothing: str = ""
    zeros: bool = False
    zeros_for_empty: ZerosForEmpty = "never"
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def zeros_for_none(self) -> bool:
        """Whether the unconditional branch is zeros without a negative prompt: the same as for its empty text."""
        return self.zeros or (self.nothing == "" and self.zeros_for_empty != "never")

    @property
    def _all_rules(self) -> list[Rule]:
        return [*self.rules.values(), *(rule for encoder in self.encoders for rule in encoder.inputs.values())]

    @property
    def _embedded(self) -> list[EmbeddedIds]:
        return [rule for rule in self._all_rules if isinstance(rule, EmbeddedIds)]

    @property
    def _all_blocks(self) -> list[OutputBlock]:
        return [block for rule in self._all_rules if isinstance(rule, BlockGrid) for block in rule.blocks]

    @property
    def components(self) -> tuple[str, ...]:
        """The components of the networks that run."""
        return tuple(dict.fromkeys(encoder.component for encoder in self.encoders))

    @property
    def tokens(self) -> dict[int, FoundTokens]:
        """The token ids of the encoders that take them, by the number of the encoder."""
        return {number: call.tokens for number, call in enumerate(self.encoders) if call.tokens is not None}

    @property
    def names(self) -> dict[int, tuple[str, str | None]]:
        """The names of the inputs of token ids and of their mask, or None, by the number of their encoder."""
        of_mask = TokenMask | TokenPositions | PicturePositions
        masked = {rule.encoder for rule in self._all_rules if isinstance(rule, of_mask)}
        masked |= {block.mask for block in self._all_blocks if block.mask is not None}
        names: dict[int, tuple[str, str | None]] = {}
        for number in self.tokens:
            suffix = f"_{len(names) + 1}" if names else ""
            names[number] = f"ids{suffix}", f"mask{suffix}" if number in masked else None
        return names

    @property
    def pictures(self) -> tuple[Condition, ...]:
        """The features of pictures that encoders get, as conditions that the denoiser does not read. Their default lets
        a run without prompts leave them out."""
        shapes = {picture_name(self.encoders[rule.encoder].component): rule.shape for rule in self._embedded}
        return tuple(Condition(name, name, shape, "float32", default=(0.0,)) for name, shape in shapes.items())

    @property
    def inputs(self) -> tuple[TensorEntry, ...]:
        """The inputs of the module."""
        entries: list[TensorEntry] = []
        for number, (ids, mask) in self.names.items():
            shape = ("batch", self.tokens[number].length)
            entries.append(TensorEntry(ids, "ids", shape, "int64"))
            if mask is not None:
                entries.append(TensorEntry(mask, "mask", shape, "int64"))
        entries += [TensorEntry(picture.name, "condition", ("batch", *picture.shape)) for picture in self.pictures]
        return tuple(entries)

    def paths(self, encoder: int) -> list[Output]:
        """The outputs of an encoder that rules read."""
        return list(dict.fromkeys(block.source.path for block in self._all_blocks if block.source.encoder == encoder))

    def token_inputs(self, converts: bool) -> tuple[TokenInput, ...]:
        """Return the inputs of token ids with their tokenizers. `converts`: tokens of several embeddings are
        replaced."""
        inputs, pictures = [], {rule.encoder: (rule.token, rule.shape[0]) for rule in self._embedded}
        for number, (ids, mask) in self.names.items():
            tokens = self.tokens[number]
            replaced = tokens_of_several_embeddings(tokens.file) if converts else {}
            form = tokens.before, tokens.after, tokens.cleaning, tokens.negative, tokens.negative_cleaning
            picture = pictures.get(number)
            inputs.append(TokenInput(ids, tokens.file, tokens.length, mask, replaced, *form, picture))
        return tuple(inputs)
