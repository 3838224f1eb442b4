"""Which text the unconditional branch has by default, and which conditions are not functions of texts."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

pytest.importorskip("tokenizers")
from fewstep.pipelines.companions import recorded_conditions, recorded_text
from fewstep.pipelines.companions.recorded_conditions import TEXTS, is_zero, record_alone
from fewstep.pipelines.companions.recorded_text import (
    RecordedText,
    find_nothing,
    find_zeros_for_empty,
    refuse_pictures,
    warn_of_constants,
)
from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.record import CallError
from fewstep.pipelines.recording.settings import LONGEST, NEGATIVE, PICTURE
from fewstep.pipelines.recording.text_calls import IDS, NetworkRun, TextRecord
from fewstep.pipelines.relations.arguments import Argument
from fewstep.pipelines.relations.text_forms import TextError, find_tokens
from fewstep.pipelines.relations.text_rules import BlockGrid, EncoderCall
from fewstep.pipelines.relations.text_search import TextSample
from fewstep.plans.guidance import COND, UNCOND
from fewstep.runtime.kinds.companions import ZerosForEmpty
from tests.pipelines.relations.test_text_forms import Words, rows

TEXT = "text"
Conditions = Mapping[str, Mapping[str, Tensor]]


def encode(prompt: str) -> dict[str, Tensor]:
    """Return the conditions of a text: the numbers of its letters."""
    return {TEXT: torch.tensor([float(ord(letter)) for letter in prompt.ljust(30)[:30]])}


def recorded_with(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Conditions], *read: str) -> Any:
    """Return a pipeline whose call, of a prompt, a negative prompt and a variant, makes these conditions, and whose
    encoder receives these texts."""
    ids = [row.ids for row in rows(read)]
    texts = [text for row in rows(read) for text in row.texts]
    run = NetworkRun("text_encoder", "forward", {IDS: torch.stack(ids)}, {}, {})
    record = TextRecord(CallRecord(()), tuple(texts), (run,))

    def record_conditions(
        _: Any, prompt: str, negative: str | None, keeps: Any = (), variant: str | None = None
    ) -> tuple[TextRecord, Conditions]:
        return record, call(prompt, negative, variant)

    monkeypatch.setattr(recorded_text, "record_conditions", record_conditions)
    settings = SimpleNamespace(usual={NEGATIVE: ""}, variants={PICTURE: {}})
    return SimpleNamespace(settings=settings, arguments=SimpleNamespace(unconditional=1))


def rules() -> RecordedText:
    tokens = find_tokens("text_encoder", {"tokenizer": Words()}, rows(["a red dog"]))
    return RecordedText(
        (EncoderCall("text_encoder", "forward", {}, {}, tokens),), {TEXT: BlockGrid((30,), (1, 30), ())}, {}
    )


@pytest.mark.parametrize("default", ["", "red cat"])
def test_the_default_text_is_the_one_with_the_recorded_conditions(
    default: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder also receives a text of another purpose, before the default one."""

    def call(prompt: str, negative: str | None, _: str | None) -> Conditions:
        return {COND: encode(prompt), UNCOND: encode(default if negative is None else negative)}

    assert find_nothing(recorded_with(monkeypatch, call, "a cat", "red cat"), rules()) == (default, False)


def test_the_default_text_may_have_less_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in NucleusMoE-Image, which pads a text to the longest of its batch."""

    def call(prompt: str, negative: str | None, _: str | None) -> Conditions:
        shorter = {name: value[:20] for name, value in encode("red cat").items()}
        return {COND: encode(prompt), UNCOND: shorter if negative is None else encode(negative)}

    assert find_nothing(recorded_with(monkeypatch, call, "a cat", "red cat"), rules()) == ("red cat", False)


def test_a_call_that_needs_a_negative_prompt_has_the_empty_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(prompt: str, negative: str | None, _: str | None) -> Conditions:
        raise CallError("its call fails", "give a negative prompt")

    assert find_nothing(recorded_with(monkeypatch, call, "a cat"), rules()) == ("", False)


def test_no_text_without_a_negative_prompt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a call whose network gets None instead of a text."""

    def call(prompt: str, negative: str | None, _: str | None) -> Conditions:
        return {COND: encode(prompt), UNCOND: {}}

    with pytest.raises(TextError, match=f"its unconditional branch has no {TEXT} without a negative prompt"):
        find_nothing(recorded_with(monkeypatch, call, "a cat"), rules())


def test_a_default_that_no_text_gives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the call take an empty text."""

    def call(prompt: str, negative: str | None, _: str | None) -> Conditions:
        if negative == "":
            raise CallError("its call fails", "give a text")
        return {COND: encode(prompt), UNCOND: {TEXT: torch.full((30,), 0.5)} if negative is None else encode(negative)}

    with pytest.raises(TextError, match="without a negative prompt, is unknown"):
        find_nothing(recorded_with(monkeypatch, call, "a cat"), rules())


def test_a_call_without_padding_has_the_longest_text_on_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an empty prompt, unless the call takes none."""
    recorded, read = recorded_with(monkeypatch, lambda *_: {}, "a cat"), list[tuple[str, str]]()

    def record(_: Any, prompt: str, negative: str, keeps: Any) -> list[TextSample]:
        read.append((prompt, negative))
        if not prompt:
            raise CallError("its call fails", "give a text")
        return []

    monkeypatch.setattr(recorded_conditions, "record_samples", record)
    assert record_alone(recorded, []) == []
    assert all((prompt == LONGEST) != (negative == LONGEST) for prompt, negative in read)
    assert {prompt for prompt, _ in TEXTS} | {""} == {prompt for prompt, _ in read}
    assert {negative for _, negative in TEXTS} == {negative for _, negative in read}


def test_another_call_that_fails_without_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(*_: object) -> list[TextSample]:
        raise TextError("the condition text has another shape for some texts")

    monkeypatch.setattr(recorded_conditions, "record_samples", record)
    with pytest.raises(TextError, match="another shape"):
        record_alone(recorded_with(monkeypatch, lambda *_: {}, "a cat"), [])


@pytest.mark.parametrize("zeros", ["negative", "always"])
def test_an_empty_prompt_may_be_encoded_where_an_empty_negative_prompt_is_not(
    zeros: ZerosForEmpty, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(prompt: str, negative: str | None, _: str | None) -> Conditions:
        nothing = {TEXT: torch.zeros(30)}
        return {COND: nothing if zeros == "always" and not prompt else encode(prompt), UNCOND: nothing}

    recorded = recorded_with(monkeypatch, call, "a cat")
    monkeypatch.setattr(recorded_conditions, "record_conditions", recorded_text.record_conditions)
    assert find_zeros_for_empty(recorded, [TEXT]) == zeros


@pytest.mark.parametrize("prompt", ["", "a cat"])
def test_an_empty_prompt_is_zeros_whatever_the_picture_is(prompt: str) -> None:
    conditions = {TEXT: torch.zeros(4, 4), "picture": torch.ones(3, 3)}
    sample = TextSample(prompt, UNCOND, TextRecord(CallRecord(()), (), ()), conditions)
    assert is_zero(sample, [TEXT]) == (prompt == "") and not is_zero(sample, conditions)


@pytest.mark.parametrize(
    ("nothing", "zeros", "for_empty", "expected"),
    [
        ("", True, "never", True),
        ("", False, "negative", True),
        ("", False, "never", False),
        ("a", False, "always", False),
    ],
)
def test_the_null_value_is_zeros_where_the_empty_text_is(
    nothing: str, zeros: bool, for_empty: ZerosForEmpty, expected: bool
) -> None:
    """A call that needs a negative prompt has the empty text."""
    assert RecordedText((), {}, {}, nothing, zeros, for_empty).zeros_for_none == expected


@pytest.mark.parametrize("sees", [False, True])
def test_an_encoder_that_also_sees_a_picture_is_refused(sees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(prompt: str, negative: str | None, variant: str | None) -> Conditions:
        return {COND: encode("other" if sees and variant == PICTURE else prompt)}

    recorded = recorded_with(monkeypatch, call, "a cat")
    first = TEXTS[0][0]
    sample = TextSample(first, COND, TextRecord(CallRecord(()), (), ()), encode(first))
    if not sees:
        refuse_pictures(recorded, rules(), sample)
        return
    with pytest.raises(TextError, match="the condition text depends on a picture"):
        refuse_pictures(recorded, rules(), sample)


def test_a_constant_that_depends_on_the_prompt_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """As in HunyuanVideo 1.5, whose second encoder reads the words in quotes."""
    x, quoted, guidance = ("['x']", "['quoted']", "['guidance']")

    def sample_of(prompt: str) -> TextSample:
        leaves = {x: torch.zeros(1, 2), quoted: torch.full((1, 2), float('"' in prompt)), guidance: torch.ones(1)}
        _, structure = pytree.tree_flatten({"x": 0, "quoted": 0, "guidance": 0})
        call = NetworkCall("transformer", leaves, structure, leaves[x])
        step = SchedulerStep((call,), leaves[x], 1.0, leaves[x], leaves[x])
        return TextSample(prompt, COND, TextRecord(CallRecord((step,)), (), ()), encode(prompt))

    recorded: Any = SimpleNamespace(
        built=SimpleNamespace(name="Quoting"),
        row_lists=frozenset(),
        relations=SimpleNamespace(x=x, second_axes=frozenset()),
        arguments=SimpleNamespace(arguments={path: Argument(path, None, 1) for path in (quoted, guidance)}),
    )
    warn_of_constants(recorded, [sample_of("a cat"), sample_of("a dog"), sample_of('a "red" cat')])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("Quoting: the network's argument quoted is constant in the bundle")
    assert warning.endswith("""prompts such as 'a "red" cat'""")
