"""What messages say of a call that fails."""

from types import SimpleNamespace
from typing import Any

from fewstep.pipelines.recording.failed_call import advise_run, describe_failure


class Encoded(SimpleNamespace):
    """A pipeline that takes encoded texts."""

    def __call__(self, prompt: Any = None, prompt_embeds: Any = None, pooled_prompt_embeds: Any = None) -> None: ...


def test_a_failure_of_a_class_without_a_file_has_no_place() -> None:
    assert describe_failure(ValueError("no\nnumber"), object()) == "ValueError: no number"


def test_a_call_without_a_text_encoder_may_get_encoded_texts() -> None:
    fix = advise_run({"prompt": "a cat"}, Encoded(text_encoder=None))
    arrays = "--call prompt_embeds=@FILE.npy --call pooled_prompt_embeds=@FILE.npy"
    assert fix == f"copy its text encoder into the folder, or give encoded texts: --call prompt=null {arrays}"


def test_a_call_that_has_encoded_texts_fails_for_another_reason() -> None:
    assert advise_run({"prompt_embeds": 1}, Encoded(text_encoder=None)).startswith("run it in Python first: ")
