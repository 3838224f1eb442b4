"""What is recorded of a pipeline's tokenizers and text encoders, on words that are counted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.recording import text_calls
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.text_calls import TextRecord, TokenizedText, record_texts
from fewstep.plans.errors import UserError


class Counter:
    """A tokenizer whose only id is the number of words."""

    backend_tokenizer = None

    def __call__(self, text: Any, add_special_tokens: bool = True) -> Tensor:
        lines = [text] if isinstance(text, str) else text
        return torch.tensor([[len(line.split())] for line in lines])


class Doubler(nn.Module):
    def forward(self, input_ids: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"hidden": 2.0 * scale * input_ids, "count": input_ids}


def record_call(monkeypatch: pytest.MonkeyPatch, fails: bool = False, keeps: Any = None) -> tuple[Any, TextRecord]:
    """Return a pipeline and the recording of its call."""
    components = {"tokenizer": Counter(), "text_encoder": Doubler(), "transformer": Doubler()}
    pipeline = SimpleNamespace(components=components)

    def call(*_: Any, **__: Any) -> CallRecord:
        ids = components["tokenizer"](["a cat", "a red dog"], add_special_tokens=False)
        components["text_encoder"](ids, scale=3.0)
        components["transformer"](ids)
        if fails:
            raise UserError("its call fails", "give a text")
        return CallRecord(())

    monkeypatch.setattr(text_calls, "record", call)
    built = BuiltPipeline(pipeline, {"transformer": None})  # type: ignore[dict-item]
    try:
        return pipeline, record_texts(built, {}, keeps)
    except UserError:
        return pipeline, TextRecord(CallRecord(()), (), ())


def test_texts_and_runs_are_recorded_without_those_of_denoisers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, text_record = record_call(monkeypatch)
    assert text_record.texts == tuple(TokenizedText("tokenizer", text, False) for text in ("a cat", "a red dog"))
    (run,) = text_record.runs
    assert (run.component, run.entry, run.options) == ("text_encoder", "forward", {"scale": 3.0})
    assert run.inputs["input_ids"].tolist() == [[2], [3]]
    assert {path: output.tolist() for path, output in run.outputs.items()} == {"['hidden']": [[12.0], [18.0]]}


def test_outputs_that_are_not_asked_for_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = record_call(monkeypatch, keeps=())[1].runs
    assert not run.outputs


@pytest.mark.parametrize("fails", [False, True])
def test_tokenizers_and_networks_are_as_before_after_the_call(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Counter.__call__
    pipeline, _ = record_call(monkeypatch, fails)
    assert Counter.__call__ is before
    assert "forward" not in vars(pipeline.components["text_encoder"])
