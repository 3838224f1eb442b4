"""What `fewstep run` says if a prompt comes without a guidance weight."""

from pathlib import Path

import msgspec
import pytest

from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.file import encode
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle

pytest.importorskip("tokenizers")
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from tests.runtime.text_bundle import with_companions


@pytest.mark.parametrize(("prompt", "warns"), [("a cat", True), ("", False)])
def test_only_a_prompt_with_words_asks_for_guidance(
    prompt: str, warns: bool, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = with_companions(tiny_bundle)
    label, text = open_bundle(bundle).manifest.conditions
    guided = change_bundle(bundle, {}, conditions=(label, msgspec.structs.replace(text, null=0.0)))
    run(RunOptions(guided, prompt=(prompt,), output=tmp_path / "x.npy"))
    assert ("no --guidance given" in caplog.text) == warns


def test_a_prompt_without_guidance_names_that_of_the_pipeline(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = with_companions(tiny_bundle)
    label, text = open_bundle(bundle).manifest.conditions
    content = msgspec.json.encode({"_class_name": "DDIMScheduler", RECORDED: {"guidance": 3.0}})
    conditions = label, msgspec.structs.replace(text, null=0.0)
    change_bundle(bundle, {"scheduler.json": content}, conditions=conditions, scheduler="scheduler.json")
    run(RunOptions(bundle, parse_plan_text("ddim:2"), prompt=("a cat",), output=tmp_path / "x.npy"))
    assert "no --guidance given: that of its pipeline is 3" in caplog.text


def test_a_bundle_that_was_calibrated_without_guidance_does_not_ask_for_it(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, plan = with_companions(tiny_bundle), encode(load(tiny_bundle).compile("ddim:2"))
    manifest = open_bundle(bundle).manifest
    label, text = manifest.conditions
    change_bundle(
        bundle,
        {"plans/plan.json": plan},
        conditions=(label, msgspec.structs.replace(text, null=0.0)),
        plans={"ddim:2": "plans/plan.json"},
        bodies={"float32": msgspec.structs.replace(manifest.bodies["float32"], plan="ddim:2")},
    )
    run(RunOptions(bundle, prompt=("a cat",), output=tmp_path / "x.npy"))
    assert "no --guidance given" not in caplog.text
    (tmp_path / "plan.json").write_bytes(plan)  # has its own guidance: none
    file = parse_plan_text(str(tmp_path / "plan.json"))
    run(RunOptions(bundle, file, prompt=("a cat",), output=tmp_path / "x.npy"))
    assert "no --guidance given" in caplog.text
