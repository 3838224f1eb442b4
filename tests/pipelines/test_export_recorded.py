"""Folders of recorded pipelines, exported and sampled."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS

pytest.importorskip("diffusers")
from fewstep.pipelines import given_arguments
from fewstep.pipelines.recording.record import CallError
from fewstep.pipelines.recording.stand_ins import UNRECORDED, recording_error
from fewstep.pipelines.relations.time_fit import ChangingArgumentError
from tests.refusals import refuses


def call_options(name: str) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in CALLS[name].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan", "ltx", "cogvideox", "allegro", "qwen_image", "chroma", "z_image"])
def test_a_recorded_pipeline_exports_and_samples(name: str, tmp_path: Path) -> None:
    folder = getattr(recorded_pipelines, name)(tmp_path / name)
    bundle = tmp_path / "bundle"
    export(ExportOptions(str(folder), bundle, call=call_options(name), verify="quick"))
    sampler = load(bundle)
    random = np.random.default_rng(0)
    conditions = {
        each.name: random.normal(size=(1, *each.shape)).astype("float32")
        if each.low is None
        else np.ones((1, *each.shape), each.dtype)
        for each in open_bundle(bundle).manifest.conditions
    }
    sample = sampler.sample("scheduler:3", seeds=[0], condition=conditions)
    assert np.isfinite(sample).all() and sample.std() > 0.1


@pytest.mark.slow
def test_a_recorded_pipeline_of_free_sizes_samples_at_another(tmp_path: Path) -> None:
    folder, bundle = recorded_pipelines.wan(tmp_path / "wan"), tmp_path / "bundle"
    sizes = ("height=2:8:2", "width=2:8:2")
    export(ExportOptions(str(folder), bundle, call=call_options("wan"), verify="quick", size=sizes))
    text = np.random.default_rng(0).normal(size=(1, 12, 16)).astype("float32")
    sampler = load(bundle).with_options(height=4, width=6)
    wide = sampler.sample("scheduler:3", seeds=[0], condition={"encoder_hidden_states": text})
    assert wide.shape == (1, 8, 2, 4, 6) and np.isfinite(wide).all() and wide.std() > 0.1


def test_arguments_of_a_call_are_refused_for_other_sources(tmp_path: Path) -> None:
    with refuses("no pipeline", "--call"):
        export(ExportOptions("fashion_mnist", tmp_path / "bundle", call=("height=16",)))


def test_an_argument_without_a_value_is_refused(tmp_path: Path) -> None:
    folder = recorded_pipelines.wan(tmp_path / "wan")
    with refuses("--call 'height'", "height=512"):
        export(ExportOptions(str(folder), tmp_path / "bundle", call=("height",)))


@pytest.mark.parametrize(
    ("without", "fix"),
    [
        (None, "the call works without --call height=13: give another value, or leave it out"),
        ("it is too large", "check --call height=13, or write a function"),
        ("it failed", "write a function"),
    ],
)
def test_the_given_arguments_of_a_call_that_fails_are_named_if_it_fails_otherwise_without(
    without: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_usual_call(built: Any, given: Any) -> None:
        assert given == {}
        if without is not None:
            raise recording_error(without)

    monkeypatch.setattr(given_arguments, "record_usual_call", record_usual_call)
    failed = CallError("it failed", UNRECORDED)
    explained = given_arguments.explain_given(failed, Mock(), {"height": 13})
    assert explained.what == "it failed" and explained.fix.startswith(fix)
    assert given_arguments.explain_given(failed, Mock(), {}).fix.startswith("write a function")


def test_arguments_that_may_change_those_of_the_network_between_steps_are_named() -> None:
    """As control_guidance_end, which sets the weight of a ControlNet to 0 in later steps."""
    explained = given_arguments.explain_given(ChangingArgumentError("it", UNRECORDED), Mock(), {"end": 0.5})
    assert explained.fix.startswith("check --call end=0.5, or write a function")


def test_given_arguments_are_named_as_an_option_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_arguments, "record_usual_call", lambda built, given: None)
    given = {"prompt": None, "prompt_embeds": np.zeros(1)}
    fix = given_arguments.explain_given(CallError("it failed", UNRECORDED), Mock(), given).fix
    assert "without --call prompt=null --call prompt_embeds=@FILE.npy:" in fix


def test_a_relation_that_is_not_found_is_refused_without_another_recording() -> None:
    refused = recording_error("x changes")
    assert given_arguments.explain_given(refused, Mock(), {"height": 13}) is refused


@pytest.mark.slow
def test_a_call_that_fails_with_given_arguments_names_them(tmp_path: Path) -> None:
    folder = recorded_pipelines.wan(tmp_path / "wan")
    with refuses(("13", "832"), "--call height=13"):
        export(ExportOptions(str(folder), tmp_path / "bundle", call=("height=13",), verify="quick"))
