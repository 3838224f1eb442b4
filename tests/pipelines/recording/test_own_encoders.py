"""Text encoders of a user's own class, in a pipeline that a user's function returns."""

from pathlib import Path

import pytest
import torch

from fewstep.pipelines.recording.live import build_from_pipeline, find_own_encoders
from fewstep.pipelines.recording.text_calls import record_texts
from fewstep.plans.names.user_file import run_file

pytest.importorskip("diffusers")
from tests.pipelines.recording.test_live import PICTURES
from tests.refusals import refuses


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    (tmp_path / "painter.py").write_text(PICTURES)
    return tmp_path / "painter.py"


def test_an_own_encoder_may_have_integers_as_parameters(painter: Path) -> None:
    pipeline = run_file(str(painter)).painter()
    pipeline.words.places = torch.nn.Parameter(torch.arange(6), requires_grad=False)
    stand_in = build_from_pipeline(pipeline, "painter", encoders={"words"}).pipeline.words
    assert stand_in.places.tolist() == [0, 1, 2, 3, 4, 5]
    assert not torch.equal(stand_in.mix.weight, pipeline.words.mix.weight)


def test_token_ids_are_those_that_the_tokenizer_returned(painter: Path) -> None:
    """Integers of positions come first."""
    text = painter.read_text().replace("def forward(self, ids, mask):", "def forward(self, places, words, mask):")
    text = text.replace("self.table(ids)", "self.table(words) + 0 * places[..., None]")
    places = "torch.arange(6).expand_as(ids.input_ids)"
    painter.write_text(text.replace("words(ids.input_ids,", f"words({places}, ids.input_ids,"))
    built = build_from_pipeline(run_file(str(painter)).painter(), "painter", encoders={"words"})
    runs = record_texts(built, {"prompt": "a cat", "output_type": "latent"}).runs
    assert {run.ids for run in runs} == {"words"}


@pytest.mark.parametrize(
    ("before", "after", "way"),
    [
        ("self.words(x, x)", "None", "reads x there, before"),
        ("None", "self.encode(prompts)", "does not read x there, after"),
    ],
)
def test_a_network_that_may_be_an_encoder_or_a_denoiser_is_refused(
    painter: Path, before: str, after: str, way: str
) -> None:
    text = painter.read_text().replace(
        "        return (self.mix(",
        "        if ids.is_floating_point():\n            return ids\n        return (self.mix(",
    )
    step = "            with_label, without = self.net(x, times, label), self.net(x, times, nothing)\n"
    first = "            if time == self.scheduler.timesteps[0]:\n                "
    assert step in text
    painter.write_text(text.replace(step, f"{first}{before}\n{step}{first}{after}\n"))
    pipeline = run_file(str(painter)).painter()
    with refuses(("its network words runs in the first step only", way), "before the steps if it encodes"):
        find_own_encoders(pipeline, "painter", {})


def test_a_mask_of_any_name_is_no_token_ids_if_it_is_bool(painter: Path) -> None:
    text = painter.read_text().replace("def forward(self, ids, mask):", "def forward(self, padding, ids):")
    text = text.replace("* mask[..., None]", "* padding[..., None]")
    painter.write_text(text.replace("ids.input_ids, ids.attention_mask)", "ids.attention_mask.bool(), ids.input_ids)"))
    built = build_from_pipeline(run_file(str(painter)).painter(), "painter", encoders={"words"})
    runs = record_texts(built, {"prompt": "a cat", "output_type": "latent"}).runs
    assert {run.ids for run in runs} == {"ids"}
