"""A text encoder that gets a mask in the bundle only: its values of a text do not depend on the padding."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tokenizers")
from fewstep.pipelines.companions.added_mask import refuse_padding
from fewstep.pipelines.recording.text_calls import IDS, MASK
from fewstep.pipelines.relations.text_forms import find_tokens
from fewstep.pipelines.relations.text_rules import BlockGrid, Constant, EncoderCall, IdsOfText, Rule, TokenMask
from tests.pipelines.relations.test_text_forms import LENGTH, Words, rows
from tests.refusals import refuses


class Mean(nn.Module):
    """Adds the mean over all ids to each, or over those of the text only."""

    def __init__(self, reads_mask: bool) -> None:
        super().__init__()
        self.reads_mask = reads_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, scale: Tensor | None = None) -> object:
        values = input_ids[..., None].float() + 1
        is_read = self.reads_mask and attention_mask is not None
        mask = attention_mask[..., None] if is_read else torch.ones_like(values)  # type: ignore[index]
        mean = (values * mask).sum(1) / mask.sum(1)
        return {"hidden": values + mean[:, None], "pooled": mean, "unread": values.sum(1)}


def call_of(**others: Rule) -> EncoderCall:
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, rows(["a red dog"]))
    mask = TokenMask(0, 0, 0, LENGTH, 1, 0, torch.zeros(LENGTH, dtype=torch.int64))
    inputs: dict[str, Rule] = {IDS: IdsOfText(0), MASK: mask, **others}
    return EncoderCall("text_encoder", "forward", inputs, {}, tokens, adds_mask=True)


PATHS = ("['hidden']", "['pooled']")


def test_an_encoder_that_reads_its_mask_is_accepted() -> None:
    refuse_padding(Mean(True), call_of(scale=Constant(torch.ones(3), False)), PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_an_encoder_that_ignores_its_mask_is_refused(path: str) -> None:
    with refuses("text_encoder depends on the padding of a text", "fewstep encode"):
        refuse_padding(Mean(False), call_of(), [path])


def test_an_encoder_that_also_takes_outputs_of_others_is_refused() -> None:
    with refuses("gives its text_encoder no padding", "fewstep encode"):
        refuse_padding(Mean(True), call_of(scale=BlockGrid((3,), (1, 3), ())), PATHS)
