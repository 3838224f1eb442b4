"""Compare a text encoder with padding and a mask with itself without both, as its pipeline calls it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.export.companions.companion import TOLERANCE, CompanionFailure
from fewstep.export.verification.difference import measure_difference
from fewstep.pipelines.recording.settings import SHORT
from fewstep.pipelines.recording.text_calls import MASK, read_outputs
from fewstep.pipelines.relations.output_sums import Output, read_output
from fewstep.pipelines.relations.text_rules import Constant, EncoderCall, IdsOfText, as_rows

ENCODE = "encode the texts with the pipeline (fewstep encode)"


def refuse_padding(network: nn.Module, encoder: EncoderCall, paths: Sequence[Output]) -> None:
    """Raise CompanionFailure if a loaded encoder with `adds_mask` returns other values under `paths` for a text with
    padding and a mask than for the text alone. A large encoder did not run with padding before its weights were
    loaded."""
    tokens, component = encoder.tokens, encoder.component
    assert tokens is not None, "only token ids have padding"
    (own,) = (name for name, rule in encoder.inputs.items() if isinstance(rule, IdsOfText))
    others = {name: rule for name, rule in encoder.inputs.items() if name not in (own, MASK)}
    constants = {name: rule for name, rule in others.items() if isinstance(rule, Constant)}
    if constants.keys() != others.keys():
        raise CompanionFailure(f"the pipeline gives its {component} no padding, but more than token ids", ENCODE)
    encoded = tokens.encode(SHORT)
    ids, mask = torch.from_numpy(encoded.ids), torch.from_numpy(encoded.mask)
    values = {name: rule.value[None] if rule.has_rows else rule.value for name, rule in constants.items()}
    run, is_text = getattr(network, encoder.entry), mask[0] > 0
    with torch.no_grad():
        alone = read_outputs(run(**{own: ids[:, is_text]}, **values, **encoder.options))
        padded = read_outputs(run(**{own: ids, MASK: mask}, **values, **encoder.options))
    for path in paths:
        value = _rows_of_text(read_output(padded, path), is_text)
        if not measure_difference(as_rows(read_output(alone, path)).numpy(), value.numpy()).relative <= TOLERANCE:
            raise CompanionFailure(f"{component} depends on the padding of a text, also with a mask", ENCODE)


def _rows_of_text(output: Tensor, is_text: Tensor) -> Tensor:
    """Return the rows of an output [1, ...] without those of padding, if it has a row for each token id."""
    rows = as_rows(output)
    return rows[:, is_text] if rows.shape[1] == len(is_text) else rows
