"""The pipeline classes over which coverage is counted, and the line that sums it up."""

import json
import logging
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pipelines import __main__ as coverage
from benchmarks.pipelines.__main__ import EXPORTED, REFUSED, Outcome, read_outcomes, summarize, try_pipeline
from benchmarks.pipelines.denominator import CLASSES, LEFT_OUT, find_classes, read_classes, select_classes
from benchmarks.pipelines.public_configs import find_config, read_configs
from benchmarks.pipelines.variants import Variant, read_fields
from fewstep.pipelines.companions import recorded_text

pytest.importorskip("diffusers")


def test_no_class_is_counted_that_the_rule_leaves_out() -> None:
    assert not [name for name in read_classes() if LEFT_OUT.search(name)]


def test_a_class_that_is_not_counted_is_selected_by_its_whole_name() -> None:
    assert select_classes(["StableDiffusionXLControlNetPipeline"]) == ["StableDiffusionXLControlNetPipeline"]
    assert select_classes(["StableDiffusionXLControl"]) == []


@pytest.mark.slow
@pytest.mark.skipif(
    f"# diffusers {version('diffusers')}" not in CLASSES.read_text(encoding="utf-8"), reason="another diffusers"
)
def test_the_committed_classes_are_those_of_the_rule() -> None:
    assert read_classes() == find_classes()


def test_the_sum_counts_classes_without_components() -> None:
    outcomes = [Outcome("A", EXPORTED, 2e-6), Outcome("B", REFUSED, reason="x changes"), Outcome("C", EXPORTED)]
    line = summarize(outcomes, 5)
    assert line == (
        "5 classes: 2 exported, 0 loaded, 1 refused, 0 components not made, 2 no components; "
        "largest difference of x 2e-06, over 1"
    )


def test_the_sum_counts_the_bundles_that_agree_with_the_whole_call() -> None:
    outcomes = [Outcome("A", EXPORTED, from_text=2e-6), Outcome("B", EXPORTED, from_text=0.5, from_x=1e-6)]
    assert summarize(outcomes, 2).endswith(
        "; 1 go from a prompt to the pipeline's own x within 2e-06, 1 differ by more than 3e-05"
        "; 1 end with the pipeline's own output within 1e-06"
    )


def test_why_a_bundle_takes_encoded_texts_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning is that of an export."""

    def warn(*_: object) -> None:
        logging.getLogger("fewstep").warning(recorded_text.NO_PROMPTS_OF, "A", "its prompt is a JSON object")

    monkeypatch.setattr(coverage, "export_pipeline", warn)
    outcome = try_pipeline(Pipeline(), tmp_path, 10, True)  # type: ignore[arg-type]
    assert outcome.reason == "no prompts: its prompt is a JSON object"


def test_a_run_resumes_after_the_classes_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "earlier"
    absent = '{"name": "D", "result": "no components"}'
    file.write_text('{"name": "B", "result": "refused"}\na warning\n{"name": "C", "result": "loaded"}\n' + absent)
    assert read_outcomes(file, ["A", "B", "D"]) == [Outcome("B", REFUSED)]


class Pipeline:
    name = "A"

    def write(self, folder: Path) -> dict[str, Any]:
        return {}


def test_an_export_that_catches_exceptions_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        while True:
            with suppress(Exception):
                sum(range(1000))

    monkeypatch.setattr(coverage, "export_pipeline", run)
    outcome = try_pipeline(Pipeline(), tmp_path, 1, True)  # type: ignore[arg-type]
    assert (outcome.result, outcome.reason) == (REFUSED, "more than 1 s of CPU time")


def test_a_variant_changes_the_scheduler_and_the_size(tmp_path: Path) -> None:
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.parent.mkdir()
    config.write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}')
    settings = Variant(read_fields(["shift=3", "use_karras_sigmas=true"]), 2).apply(tmp_path, {"height": 32, "a": 1})
    assert settings == {"height": 64, "a": 1}
    assert json.loads(config.read_text()) == {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "shift": 3,
        "use_karras_sigmas": True,
    }


def test_a_field_that_a_scheduler_does_not_have_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.parent.mkdir()
    config.write_text('{"_class_name": "DDPMScheduler"}')
    with pytest.raises(LookupError, match="DDPMScheduler has no shift"):
        Variant({"shift": 3}).apply(tmp_path, {})


def test_a_public_config_replaces_the_scheduler_of_a_folder(tmp_path: Path) -> None:
    index = tmp_path / "model_index.json"
    index.write_text('{"scheduler": ["diffusers", "DDIMScheduler"]}')
    config = find_config(read_configs(), "WanPipeline")
    Variant(public=config).apply(tmp_path, {})
    assert json.loads(index.read_text())["scheduler"] == ["diffusers", "UniPCMultistepScheduler"]
    assert json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["flow_shift"] == 3.0


def test_every_public_config_is_of_a_counted_class() -> None:
    names = read_classes()
    configs = read_configs()
    used = {configs.index(found) for name in names if (found := find_config(configs, name)) is not None}
    assert used == set(range(len(configs)))
