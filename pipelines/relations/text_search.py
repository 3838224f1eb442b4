"""Find the rules by which the conditions of a denoiser follow from texts, in recordings of a pipeline's call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.seen_pictures import SeenPicture
from fewstep.pipelines.recording.text_calls import MASK, NetworkRun, TextRecord
from fewstep.pipelines.relations.arguments import NetworkArguments
from fewstep.pipelines.relations.output_sums import find_sum, paths_of, read_output
from fewstep.pipelines.relations.picture_rules import EmbeddedIds, find_picture_positions
from fewstep.pipelines.relations.text_forms import FoundTokens, ReadIds, TextError, find_tokens
from fewstep.pipelines.relations.text_rules import (
    BlockGrid,
    Constant,
    EncoderCall,
    EncoderOutput,
    IdsOfText,
    Rule,
    TextTarget,
    TokenMask,
    as_rows,
    clear_padding,
    find_blocks,
    find_mask,
    find_positions,
    is_grid,
    with_masks,
)
from fewstep.plans.guidance import COND, UNCOND
from fewstep.runtime.token_ids import TokenIds as EncodedText


@dataclass(frozen=True)
class TextSample:
    """One branch of a recording: the text that it was encoded from, and its conditions [*shape] by name."""

    prompt: str
    branch: str
    record: TextRecord
    conditions: Mapping[str, Tensor]


@dataclass(frozen=True)
class RowPlace:
    """A row of the outputs of a run."""

    run: NetworkRun
    row: int

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs that have a row for each text, as [1, rows, columns]."""
        return {path: as_rows(output)[self.row : self.row + 1] for path, output in _row_outputs(self.run).items()}

    @property
    def ids(self) -> Tensor:
        """The token ids that gave this row."""
        return self.input(self.run.ids)[0]

    def input(self, name: str) -> tuple[Tensor, bool]:
        """Return the value of an argument, and whether it is one of several rows."""
        value, outputs = self.run.inputs[name], _row_outputs(self.run)
        batch = len(next(iter(outputs.values())))
        has_rows = value.dim() > 0 and len(value) == batch
        return (value[self.row], True) if has_rows else (value, False)


@dataclass
class TextSearch:
    """Searches the rules of conditions. The runs that they depend on become `encoders`, each after those that it
    depends on."""

    samples: Sequence[TextSample]
    tokenizers: dict[str, Any]
    encoders: list[EncoderCall] = field(default_factory=list)
    places: list[list[RowPlace]] = field(default_factory=list)  # of each encoder in each sample
    encoded: dict[int, list[EncodedText]] = field(default_factory=dict)  # of encoders with tokens, in each sample
    cleared: list[str] = field(default_factory=list)  # components whose input of padding follows no rule

    def find_all(self, names: Sequence[str] | None = None) -> dict[str, Rule]:
        """Return the rules of conditions, or of all that depend on texts. Raises TextError for one without a rule."""
        rules, masks = dict[str, Rule](), []
        for name in list_text_conditions(self.samples) if names is None else names:
            targets = [sample.conditions[name] for sample in self.samples]
            if all(len(target.unique()) <= 2 for target in targets):
                masks.append((name, targets))
            else:
                rules[name] = self._find_blocks(f"the condition {name}", targets)
        for name, targets in masks:
            rules[name] = self._find_mask(f"the condition {name}", targets, self.encoded)
        return rules

    def _find_mask(
        self, name: str, targets: Sequence[Tensor], encoded: Mapping[int, Sequence[EncodedText]]
    ) -> TokenMask:
        masks = {number: [torch.from_numpy(text.mask) for text in texts] for number, texts in encoded.items()}
        targets = _fill_up(targets)
        mask = find_mask(targets, {number: torch.cat(rows) for number, rows in masks.items()})
        if mask is None:
            raise TextError(f"{name} is not a mask of token ids")
        return mask

    def _find_blocks(self, name: str, targets: Sequence[Tensor], of: str | None = None) -> BlockGrid:
        """Return the rule of a condition, or of an input of the component `of`. The rows of padding of an input may
        follow no rule: if they change a condition, the comparison of all networks finds it."""
        counts = [int((target != 0).sum()) for target in targets]
        longest = counts.index(max(counts))
        places = list_places(self.samples[longest].record)
        blocks = find_output_blocks(targets[longest], places)
        if blocks is None or not blocks.blocks:
            raise TextError(f"{name} is not a rearrangement of outputs of its text encoders")
        known = {
            number: self._encoder(name, blocks, number, places[number], longest, targets)
            for number in dict.fromkeys(block.source.encoder for block in blocks.blocks)
        }
        rule = _renumber(blocks, known)
        matches = [self._match(rule, sample, target) for sample, target in enumerate(targets)]
        try:
            return with_masks(name, rule, matches)
        except TextError:
            if of is None or not is_grid(rule):
                raise
            cleared = with_masks(name, rule, [clear_padding(rule, match) for match in matches])
            self.cleared.append(of)
            return cleared

    def _match(self, rule: BlockGrid, sample: int, target: Tensor) -> TextTarget:
        sources = {block.source for block in rule.blocks}
        read = {source: read_output(self.places[source.encoder][sample].outputs, source.path) for source in sources}
        outputs = {source: self._pad(source.encoder, sample, rows) for source, rows in read.items()}
        masks = {number: torch.from_numpy(texts[sample].mask) for number, texts in self.encoded.items()}
        return TextTarget(target, outputs, masks)

    def _pad(self, encoder: int, sample: int, rows: Tensor) -> Tensor:
        """Return the rows of an output with ones for the padding that this text did not get. In a bundle, these rows
        have values, so that they must not be taken for zeros."""
        tokens = self.encoders[encoder].tokens
        if tokens is None or rows.shape[1] != len(self.places[encoder][sample].ids):
            return rows
        return _complete(rows.mT, tokens, value=1).mT

    def find_unmasked(self) -> list[str]:
        """Return the components whose result may depend on the padding of a bundle: those that got no padding for some
        text, and no mask that would let them ignore it, and those that got another one."""
        return self.cleared + [
            encoder.component
            for encoder, places in zip(self.encoders, self.places, strict=True)
            if _lacks_padding(places, encoder.tokens)
            and not any(isinstance(rule, TokenMask) for rule in encoder.inputs.values())
        ]

    def _encoder(
        self, name: str, blocks: BlockGrid, number: int, place: RowPlace, longest: int, targets: Sequence[Tensor]
    ) -> int:
        """Return the number of the encoder that ran at a place of the sample `longest`. A new one is added."""
        for known, places in enumerate(self.places):
            if places[longest].run is place.run and places[longest].row == place.row:
                return known
        own = [block for block in blocks.blocks if block.source.encoder == number]
        places = []
        for sample, target in enumerate(targets):
            best = max(
                (
                    (_count_equal(own, candidate, blocks.place(target)), index, candidate)
                    for index, candidate in enumerate(self._candidates(sample, place.run))
                ),
                key=lambda scored: scored[:2],
                default=(0, 0, place),
            )
            if best[0] == 0:
                raise TextError(f"{name} has values of {place.run.component} for some texts only")
            places.append(best[2] if sample != longest else place)
        tokens, encoded = self._find_tokens(place.run.component, places)
        read = place.run.inputs.keys() - ({place.run.ids} if place.run.picture is not None else set())
        floats_first = sorted(read, key=lambda path: (not place.run.inputs[path].is_floating_point(), path))
        inputs = {path: self._find_input(place.run.component, path, places, tokens, encoded) for path in floats_first}
        adds_mask = place.run.takes_mask and MASK not in inputs and _lacks_padding(places, tokens)
        if tokens is not None and adds_mask:
            zeros = torch.zeros(tokens.full_length, dtype=torch.int64)
            inputs[MASK] = TokenMask(len(self.encoders), 0, 0, len(zeros), 1, 0, zeros)  # in a bundle, it is padded
        options = {name: value for name, value in place.run.options.items() if name not in inputs}  # a mask of None
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(options)):
            raise TextError(f"its {place.run.component} gets tensors in a list, such as features for several layers")
        call = place.run.component, place.run.entry, inputs, options, tokens
        self.encoders.append(EncoderCall(*call, adds_mask))
        self.places.append(places)
        if tokens is not None:
            self.encoded[len(self.encoders) - 1] = encoded
        return len(self.encoders) - 1

    def _candidates(self, sample: int, like: NetworkRun) -> list[RowPlace]:
        return [
            RowPlace(run, row)
            for run in self.samples[sample].record.runs
            if (run.component, run.entry, run.inputs.keys()) == (like.component, like.entry, like.inputs.keys())
            for row in range(_count_rows(run))
        ]

    def _find_tokens(self, component: str, places: Sequence[RowPlace]) -> tuple[FoundTokens | None, list[EncodedText]]:
        if places[0].run.ids not in places[0].run.inputs:
            return None, []
        rows = [
            ReadIds(sample.prompt, place.ids, sample.record.texts, sample.branch == UNCOND)
            for sample, place in zip(self.samples, places, strict=True)
        ]
        tokens = find_tokens(component, self.tokenizers, rows)
        return tokens, [tokens.encode(sample.prompt, sample.branch == UNCOND) for sample in self.samples]

    def _find_input(
        self,
        component: str,
        name: str,
        places: Sequence[RowPlace],
        tokens: FoundTokens | None,
        encoded: Sequence[EncodedText],
    ) -> Rule:
        """Return the rule of an argument of an encoder that is not yet in `encoders`, whose number it will have."""
        number, label = len(self.encoders), f"the input {name} of its {component}"
        if name == places[0].run.ids and tokens is not None:
            return IdsOfText(number)
        pictures = [place.run.picture for place in places]
        if pictures[0] is not None and name == pictures[0].argument and tokens is not None:
            return _find_embedded(label, number, pictures)
        read = [place.input(name) for place in places]
        values, has_rows = [value for value, _ in read], all(rows for _, rows in read)
        if all(torch.equal(values[0], value) for value in values):
            return Constant(values[0], has_rows)
        if tokens is not None and (positions := find_positions(number, values, encoded)) is not None:
            return positions
        if pictures[0] is not None and tokens is not None:
            rows = pictures[0].token, values, [place.ids for place in places]
            if (moved := find_picture_positions(number, *rows)) is not None:
                return moved
        if has_rows and all(len(value.unique()) <= 2 for value in values):
            known = self.encoded if tokens is None else {number: list(encoded)}
            return self._find_mask(
                label, [value if tokens is None else _pad_mask(value, tokens) for value in values], known
            )
        if not values[0].is_floating_point() or not has_rows:
            raise TextError(f"{label} is not a mask of its token ids")
        return self._find_blocks(label, values, component)


def find_text_lengths(
    arguments: NetworkArguments, search: TextSearch, rules: Mapping[str, Rule]
) -> dict[str, tuple[int, int]]:
    """Return how the lengths of conditions follow from the number of token ids: the encoder of the ids, and what is
    added. Raises TextError for a length that does not."""
    found: dict[str, tuple[int, int]] = {}
    conditions = {condition.name: condition for condition in arguments.conditions}
    sizes = {size.name: size for size in arguments.sizes}
    for name in rules:
        for axis, size in conditions[name].follows.items():
            lengths = [sample.conditions[name].shape[axis] for sample in search.samples]
            counted = [_count(search, number, sizes[size].of_prompt) for number in search.encoded]
            fits = [
                (encoder, more)
                for encoder, counts in zip(search.encoded, counted, strict=True)
                for more in {length - count for length, count in zip(lengths, counts, strict=True)}
                if lengths == [min(count + more, sizes[size].high) for count in counts]
            ]
            if not fits or found.setdefault(size, fits[0]) not in fits:
                raise TextError(f"the length of the condition {name} does not follow from its number of tokens")
    return found


def _count(search: TextSearch, encoder: int, of_prompt: bool) -> list[int]:
    """Return the number of ids of each sample's text, or of the prompt of its call, without those of the tail."""
    tokens = search.encoders[encoder].tokens
    counts = [int(text.mask.sum()) - len(tokens.tail if tokens else ()) for text in search.encoded[encoder]]
    prompts = {id(sample.record): n for sample, n in zip(search.samples, counts, strict=True) if sample.branch == COND}
    if not of_prompt:
        return counts
    return [prompts.get(id(sample.record), n) for sample, n in zip(search.samples, counts, strict=True)]


def _find_embedded(label: str, encoder: int, pictures: Sequence[SeenPicture | None]) -> EmbeddedIds:
    seen = [own for own in pictures if own is not None]
    rules = {EmbeddedIds(encoder, own.embedding, own.token, tuple(own.features.shape)) for own in seen}
    if len(rules) > 1 or len(seen) < len(pictures):
        raise TextError(f"{label} has other numbers of features of a picture for some texts")
    return rules.pop()


def _fill_up(targets: Sequence[Tensor]) -> list[Tensor]:
    """Return masks with zeros for what shorter texts lack."""
    if len({target.dim() for target in targets}) > 1:
        return list(targets)
    largest = [max(sizes) for sizes in zip(*(target.shape for target in targets), strict=True)]
    filled = []
    for target in targets:
        more = [count for full, size in zip(largest, target.shape, strict=True) for count in (full - size, 0)]
        filled.append(torch.nn.functional.pad(target, more[::-1]))
    return filled


def _lacks_padding(places: Sequence[RowPlace], tokens: FoundTokens | None) -> bool:
    """Return True if an encoder of token ids got no padding for some text."""
    return tokens is not None and any(len(place.ids) < tokens.full_length for place in places)


def list_text_conditions(samples: Sequence[TextSample]) -> list[str]:
    """Return the conditions that differ within a branch. Branches may differ in others, such as a picture."""
    first = {sample.branch: sample.conditions for sample in samples}
    pairs = [(first[sample.branch], sample.conditions) for sample in samples]
    return [name for name in pairs[0][0] if not all(torch.equal(one[name], other[name]) for one, other in pairs)]


def list_places(record: TextRecord) -> list[RowPlace]:
    """Return the rows of all runs, the last one first."""
    return [RowPlace(run, row) for run in reversed(record.runs) for row in reversed(range(_count_rows(run)))]


def list_sources(places: Sequence[RowPlace]) -> list[tuple[EncoderOutput, Tensor]]:
    """Return the outputs [rows, columns] at places. An encoder is the number of its place.

    Those with the fewest rows come first: for a text of full length, a pooled output may equal the last hidden state.
    """
    sources = [
        (EncoderOutput(number, path), rows[0])
        for number, place in enumerate(places)
        for path, rows in place.outputs.items()
    ]
    return sorted(sources, key=lambda source: len(source[1]))


def find_output_blocks(target: Tensor, places: Sequence[RowPlace]) -> BlockGrid | None:
    """Return the blocks of the outputs at places that a target consists of, or of a sum of outputs at one place."""
    if (blocks := find_blocks(target, list_sources(places))) is not None:
        return blocks
    for number, place in enumerate(places):
        outputs = {path: rows[0] for path, rows in place.outputs.items()}
        if (own := find_sum(target, outputs)) is not None:
            return find_blocks(target, [(EncoderOutput(number, own), own.read(outputs))])
    return None


def find_outputs(sample: TextSample) -> set[tuple[str, str]]:
    """Return the outputs, as (component, path), that the conditions of a sample consist of, and the inputs of the
    networks that return these."""
    places, outputs = list_places(sample.record), set[tuple[str, str]]()
    targets = list(sample.conditions.values())
    seen: set[int] = set()
    while targets:
        target = targets.pop()
        blocks = find_output_blocks(target, places) if target.is_floating_point() and target.dim() else None
        for block in () if blocks is None else blocks.blocks:
            place = places[block.source.encoder]
            outputs |= {(place.run.component, path) for path in paths_of(block.source.path)}
            if block.source.encoder not in seen:
                seen.add(block.source.encoder)
                targets += [place.input(name)[0] for name in place.run.inputs]
    return outputs


def _renumber(blocks: BlockGrid, known: Mapping[int, int]) -> BlockGrid:
    own = (
        replace(block, source=EncoderOutput(known[block.source.encoder], block.source.path)) for block in blocks.blocks
    )
    return replace(blocks, blocks=tuple(own))


def _pad_mask(mask: Tensor, tokens: FoundTokens) -> Tensor:
    """Return a mask of all ids, from that of the ids without the padding that this text did not get."""
    return mask if mask.dim() != 1 else _complete(mask, tokens, value=0)


def _complete(values: Tensor, tokens: FoundTokens, value: float) -> Tensor:
    """Return values [..., ids] with others for the padding that a text did not get."""
    count = tokens.full_length - values.shape[-1]
    return torch.nn.functional.pad(values, (count, 0) if tokens.file.pads_first else (0, count), value=value)


def _row_outputs(run: NetworkRun) -> dict[str, Tensor]:
    """Return the outputs that have a row for each text: those with as many rows as the first."""
    rows = {path: output for path, output in run.outputs.items() if output.dim() >= 2}
    batch = len(next(iter(rows.values()), ()))
    return {path: output for path, output in rows.items() if len(output) == batch}


def _count_rows(run: NetworkRun) -> int:
    return len(next(iter(_row_outputs(run).values()), ()))


def _count_equal(blocks: Sequence[Any], place: RowPlace, target: Tensor) -> int:
    """Return how many elements of a target [rows, columns] are those of the blocks, with the outputs at a place."""
    count, outputs = 0, place.outputs
    for block in blocks:
        if not outputs.keys() >= {*paths_of(block.source.path)}:
            return 0
        (row, column), width = block.place, block.size[1]
        read = block.read(read_output(outputs, block.source.path)[0])
        own = target[row : row + len(read), column : column + width]
        count += int((own == read[: len(own)]).sum()) if own.shape[1] == read.shape[1] else 0
    return count
