"""Plans that are shipped with a denoiser go into its bundle, and into no other."""

import re
import runpy
import sys
from pathlib import Path

import msgspec
import pytest

from fewstep.export.sources import fitted
from fewstep.export.sources.fitted import shipped_file, shipped_plans, with_fitted
from fewstep.export.sources.shipped import load_shipped
from fewstep.graph.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from tests.runtime.test_fitted_plans import give

SCRIPT = Path(__file__).parents[3] / ".ci/fitted"


@pytest.fixture
def shipped(tiny_bundle, tmp_path, monkeypatch):
    """The tiny bundle as an export of a shipped denoiser, with one fitted plan beside the denoiser's weights."""
    give(tiny_bundle)
    folder = tmp_path / "models" / "tiny" / "fitted"
    folder.mkdir(parents=True)
    (folder / "float32-3.json").write_bytes(shipped_file(str(tiny_bundle), 3))
    monkeypatch.setattr(fitted, "files", lambda package: tmp_path / "models")
    monkeypatch.setattr(fitted, "NAMES", ("tiny",))
    with open_for_update(tiny_bundle, must_exist=True) as writer:
        writer.commit(msgspec.structs.replace(open_bundle(tiny_bundle).manifest, fitted=()))
    return tiny_bundle


def add(bundle, **provenance):
    with open_for_update(bundle, must_exist=True) as writer:
        manifest = open_bundle(bundle).manifest
        own = msgspec.structs.replace(manifest.provenance, **provenance)
        return writer.commit(with_fitted(writer, msgspec.structs.replace(manifest, provenance=own)))


def test_a_shipped_plan_is_found_in_the_bundle_of_its_denoiser(shipped):
    assert len(add(shipped).fitted) == 1
    with load(shipped) as sampler:
        assert sampler.compile("fitted:3", 2.0).name == "fitted:3"


@pytest.mark.parametrize("provenance", [{"source": "other"}, {"source_sha256": "3" * 64}])
def test_other_denoisers_get_none(shipped, provenance):
    assert add(shipped, **provenance).fitted == ()


def test_a_damaged_file_is_named(shipped, tmp_path):
    (tmp_path / "models/tiny/fitted/float32-3.json").write_text("{")
    with pytest.raises(UserError, match=r"float32-3.json of tiny is damaged"):
        shipped_plans("tiny")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_what_is_shipped_was_fitted_to_the_weights_that_are_shipped(name):
    """A denoiser that is trained again needs its plans fitted again: `.ci/fitted`."""
    source = load_shipped(name).sha256
    for entry, plan in shipped_plans(name):
        assert plan.fitted.source == source
        assert (entry.evaluations, plan.name) == (len(plan.steps), f"fitted:{len(plan.steps)}")
        assert entry.body == plan.fitted.body == "float32"
        assert entry.psnr - entry.nominal_psnr > 2 * entry.error


@pytest.mark.skipif(not SCRIPT.exists(), reason="the tests run without the repository's scripts")
def test_the_module_that_the_script_runs_prints_a_plan(tiny_bundle, monkeypatch, capsys):
    give(tiny_bundle)
    (module,) = re.findall(r"python -m (\S+)", SCRIPT.read_text())
    monkeypatch.setattr(sys, "argv", [module, str(tiny_bundle), "3"])
    monkeypatch.delitem(sys.modules, module)  # which runs it without a warning
    runpy.run_module(module, run_name="__main__")
    assert capsys.readouterr().out == shipped_file(str(tiny_bundle), 3).decode() + "\n"
