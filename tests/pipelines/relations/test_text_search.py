"""Rules found in recordings of a text encoder that returns random values for words."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

pytest.importorskip("tokenizers")
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.seen_pictures import SeenPicture
from fewstep.pipelines.recording.text_calls import IDS, MASK, NetworkRun, TextRecord, TokenizedText
from fewstep.pipelines.relations.output_sums import OutputSum
from fewstep.pipelines.relations.picture_rules import EmbeddedIds
from fewstep.pipelines.relations.text_forms import TextError
from fewstep.pipelines.relations.text_rules import BlockGrid, EncoderOutput, TokenMask
from fewstep.pipelines.relations.text_search import TextSample, TextSearch, find_outputs, list_places, list_sources
from fewstep.plans.guidance import COND, UNCOND
from tests.pipelines.relations.test_text_forms import Words, rows

PROMPTS, LENGTH, WIDTH = ("a cat", "a red dog", "a red red red red red red dog"), 8, 4
TEXT = "text"
CALL = CallRecord(())


def encode(ids: Tensor) -> Tensor:
    """Return random values [rows, width] of token ids."""
    return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(int(token))) for token in ids])


def sample_of(prompt: str, pads: bool, masks: bool, branch: str = COND, takes_mask: bool = False) -> TextSample:
    """Return the sample of a pipeline that fills up its condition with zeros. `pads`: it also pads the token ids."""
    (read,) = rows([prompt])
    count = int((read.ids != 0).sum())
    ids = read.ids if pads else read.ids[:count]
    inputs = {IDS: ids[None]} | ({MASK: (ids != 0).long()[None]} if masks else {})
    hidden = encode(ids)
    condition = torch.zeros(LENGTH, WIDTH)
    condition[:count] = hidden[:count]
    run = NetworkRun("text_encoder", "forward", inputs, {}, {".hidden": hidden[None]}, takes_mask)
    texts = (TokenizedText("tokenizer", prompt, True),)
    picture = torch.full((3, 3), float(branch == COND))
    return TextSample(prompt, branch, TextRecord(CALL, texts, (run,)), {TEXT: condition, "picture": picture})


def search(samples: Sequence[TextSample]) -> TextSearch:
    return TextSearch(samples, {"tokenizer": Words()})


@pytest.mark.parametrize("pads", [False, True])
def test_rows_of_padding_are_zeros_also_if_the_encoder_got_no_padding(pads: bool) -> None:
    rule = search([sample_of(prompt, pads, True) for prompt in PROMPTS]).find_all()[TEXT]
    assert isinstance(rule, BlockGrid) and [block.mask for block in rule.blocks] == [0]


@pytest.mark.parametrize(("pads", "masks", "named"), [(False, False, True), (True, False, False), (False, True, False)])
def test_an_encoder_without_padding_and_mask_is_named(pads: bool, masks: bool, named: bool) -> None:
    text_search = search([sample_of(prompt, pads, masks) for prompt in PROMPTS])
    text_search.find_all()
    assert text_search.find_unmasked() == (["text_encoder"] if named else [])


def test_a_sum_of_outputs_is_found() -> None:
    """As in LongCat, which adds normalized hidden states."""
    samples = []
    for prompt in PROMPTS:
        sample = sample_of(prompt, True, True)
        (run,) = sample.record.runs
        last = run.outputs[".hidden"].flip(-1)
        run.outputs[".last"] = last  # type: ignore[index]
        added = (layer_norm(run.outputs[".hidden"], (WIDTH,), eps=1e-6) + layer_norm(last, (WIDTH,), eps=1e-6))[0]
        samples.append(replace(sample, conditions={TEXT: added}))
    rule = search(samples).find_all()[TEXT]
    assert isinstance(rule, BlockGrid)
    assert [block.source.path for block in rule.blocks] == [OutputSum((".hidden", ".last"), 1e-6)]
    assert find_outputs(samples[-1]) == {("text_encoder", ".hidden"), ("text_encoder", ".last")}


def test_an_input_that_is_no_output_of_another_encoder_is_refused() -> None:
    samples = [sample_of(prompt, False, True) for prompt in PROMPTS]
    for sample in samples:
        (run,) = sample.record.runs
        run.inputs["embeddings"] = run.outputs[".hidden"] + 1  # type: ignore[index]
    with pytest.raises(TextError, match="the input embeddings of its text_encoder is not a rearrangement"):
        search(samples).find_all()


def test_an_encoder_that_got_no_padding_gets_a_mask_if_it_takes_one() -> None:
    text_search = search([sample_of(prompt, False, False, takes_mask=True) for prompt in PROMPTS])
    text_search.find_all()
    (encoder,) = text_search.encoders
    assert isinstance(encoder.inputs[MASK], TokenMask) and encoder.adds_mask and text_search.find_unmasked() == []


def test_a_component_whose_padding_follows_no_rule_is_named() -> None:
    """As the projection of Stable Audio, which gets zeros for the padding of a negative prompt only."""
    samples = [sample_of(prompt, True, True) for prompt in PROMPTS]
    projected = []
    for number, sample in enumerate(samples):
        (run,), condition = sample.record.runs, sample.conditions[TEXT]
        given = condition if number else run.outputs[".hidden"][0]
        project = NetworkRun("projection", "forward", {"text": given[None]}, {}, {".out": 2 * given[None]})
        record = TextRecord(CALL, sample.record.texts, (run, project))
        projected.append(replace(sample, record=record, conditions={TEXT: 2 * condition}))
    text_search = search(projected)
    rule = text_search.find_all()[TEXT]
    assert isinstance(rule, BlockGrid)
    assert [(block.source.path, block.mask) for block in rule.blocks] == [(".out", 0)]
    assert text_search.find_unmasked() == ["projection"]


def test_a_mask_of_none_makes_way_for_the_added_one() -> None:
    samples = [sample_of(prompt, False, False, takes_mask=True) for prompt in PROMPTS]
    for sample in samples:
        sample.record.runs[0].options[MASK] = None  # type: ignore[index]
    text_search = search(samples)
    text_search.find_all()
    assert MASK not in text_search.encoders[0].options


def test_a_condition_that_differs_between_branches_only_follows_from_no_text() -> None:
    """As a picture, which the unconditional branch does not see."""
    samples = [sample_of(prompt, True, True, branch) for prompt in PROMPTS for branch in (COND, UNCOND)]
    assert search(samples).find_all().keys() == {TEXT}


def see_picture(sample: TextSample, features: Tensor) -> TextSample:
    """Return a sample whose encoder got these features [N, width] at the first tokens of the id 5."""
    (run,) = sample.record.runs
    picture = SeenPicture("embeddings", "words", 5, features)
    inputs = {**run.inputs, "embeddings": run.outputs[".hidden"]}
    seen = replace(run, entry="body.forward", inputs=inputs, picture=picture)
    return replace(sample, record=replace(sample.record, runs=(seen,)))


def test_features_of_pictures_may_differ() -> None:
    samples = [
        see_picture(sample_of(prompt, True, True), torch.full((1, WIDTH), float(n))) for n, prompt in enumerate(PROMPTS)
    ]
    text_search = search(samples)
    text_search.find_all()
    (encoder,) = text_search.encoders
    assert encoder.entry == "body.forward" and encoder.inputs.keys() == {"embeddings", MASK}
    assert encoder.inputs["embeddings"] == EmbeddedIds(0, "words", 5, (1, WIDTH))


def test_another_number_of_features_for_some_texts_is_refused() -> None:
    counts = (1, 1, 2)
    samples = [
        see_picture(sample_of(prompt, True, True), torch.zeros(count, WIDTH))
        for prompt, count in zip(PROMPTS, counts, strict=True)
    ]
    with pytest.raises(TextError, match="other numbers of features of a picture for some texts"):
        search(samples).find_all()


def test_tensors_in_a_list_are_refused() -> None:
    """As features of a picture for several layers of Qwen3-VL."""
    samples = [sample_of(prompt, True, True) for prompt in PROMPTS]
    for sample in samples:
        sample.record.runs[0].options["layers"] = [torch.zeros(1)]  # type: ignore[index]
    with pytest.raises(TextError, match="its text_encoder gets tensors in a list"):
        search(samples).find_all()


def test_a_pooled_output_comes_before_the_hidden_state_that_it_equals() -> None:
    hidden = torch.ones(1, LENGTH, WIDTH)
    run = NetworkRun("text_encoder", "forward", {}, {}, {".hidden": hidden, ".pooled": hidden[:, -1]})
    sources = list_sources(list_places(TextRecord(CALL, (), (run,))))
    assert [source for source, _ in sources] == [EncoderOutput(0, ".pooled"), EncoderOutput(0, ".hidden")]
