"""Sources that are not modules: folders of plugins, checkpoints, and the shipped denoisers."""

import re
import runpy
import sys
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest

from fewstep.export.load_source import load_source
from fewstep.export.sources import folder_kinds, shipped_plans
from fewstep.export.sources.folder_kinds import FolderKind, find_folder_kind
from fewstep.export.sources.shipped import cifar10, fashion_mnist, load_shipped
from fewstep.export.sources.shipped_plans import add_shipped_plans, encode_shipped_plan, load_shipped_plans
from fewstep.export.spec import Source
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.names import plugins
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.sampling.test_fitted_plans import give


def _load(folder: Path) -> Source:
    raise UserError(f"{folder.name} was read by the plugin", "nothing to do")


MARKED = FolderKind(holds=lambda folder: (folder / "mark").is_file(), load=_load, weights=lambda folder: ["weights"])


@pytest.fixture
def folder_with_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the kind MARKED, and its plugin."""
    entry = EntryPoint("source.marked", f"{__name__}:MARKED", "fewstep.plugins")
    monkeypatch.setattr(plugins, "read_entry_points", lambda: (entry,))
    (tmp_path / "mark").touch()
    return tmp_path


def test_a_folder_is_read_by_the_plugin_that_holds_it(folder_with_plugin: Path) -> None:
    assert find_folder_kind(folder_with_plugin) is not None
    with pytest.raises(UserError, match="was read by the plugin"):
        load_source(str(folder_with_plugin))


def test_another_folder_is_not(folder_with_plugin: Path) -> None:
    (folder_with_plugin / "mark").unlink()
    assert find_folder_kind(folder_with_plugin) is None
    with pytest.raises(UserError, match="model_index.json"):
        load_source(str(folder_with_plugin))


def test_a_plugin_of_another_type_is_refused(folder_with_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_kinds, "load_plugin", lambda plugin: "no kind")
    with refuses(("plugin source.marked", "not a FolderKind")):
        find_folder_kind(folder_with_plugin)


def test_lerobot_is_a_plugin_of_this_package() -> None:
    from fewstep.robots.lerobot.kind import LEROBOT

    (plugin,) = plugins.plugins("source")["lerobot"]
    assert plugins.load_plugin(plugin) is LEROBOT


@pytest.mark.parametrize("name", ["edm-cifar10-32x32-cond-vp.pkl", "folder/unet.PTH", "last.ckpt"])
def test_a_pickle_is_not_opened(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="runs code") as error:
        load_source(str(file))
    assert file.name in error.value.what and "FILE.py:FUNCTION" in error.value.fix


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "model.ckpt"])
def test_a_missing_file_of_weights_is_not_said_to_hold_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no file .*{name}"):
        load_source(str(tmp_path / name))


def test_weights_alone_are_no_denoiser(tmp_path: Path) -> None:
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="holds weights only.*FILE.py:FUNCTION"):
        load_source(str(file))


@pytest.mark.parametrize(
    ("config", "content", "file"),
    [
        ("model_index.json", "{}", "unet/diffusion_pytorch_model.safetensors"),
        ("config.json", '{"type": "diffusion"}', "model.safetensors"),
    ],
    ids=["diffusers", "lerobot"],
)
def test_weights_in_a_folder_that_is_a_source_name_it(tmp_path: Path, config: str, content: str, file: str) -> None:
    (tmp_path / config).write_text(content)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(UserError) as error:
        load_source(str(tmp_path / file))
    assert error.value.fix == f"give its folder, {tmp_path}"


@pytest.mark.parametrize("make", [fashion_mnist, cifar10], ids=lambda make: make.__name__)
def test_missing_weights_are_one_line(make, monkeypatch: pytest.MonkeyPatch) -> None:
    network = import_module(f"fewstep.models.{make.__name__}.unet")
    monkeypatch.setattr(network, "WEIGHTS", "gone.safetensors")
    with refuses("gone.safetensors", "pip install -e"):
        make()


def test_each_has_its_classes_and_a_number_for_none() -> None:
    for source, x_shape in ((fashion_mnist(), (1, 28, 28)), (cifar10(), (3, 32, 32))):
        (condition,) = source.spec.conditions
        assert source.spec.x_shape == x_shape and len(condition.labels) == 10
        assert (condition.low, condition.high, condition.null) == (0, 9, 10)
    assert fashion_mnist().sha256 != cifar10().sha256


def test_an_unknown_one_names_those_that_there_are() -> None:
    with pytest.raises(UserError, match="or one of fashion_mnist, cifar10$"):
        load_shipped("celeba")


def test_the_name_of_a_shipped_one_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()  # as of an export to a folder of that name
    assert load_source("cifar10").sha256 == cifar10().sha256 and not caplog.records
    (tmp_path / "cifar10" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert load_source("cifar10").sha256 == cifar10().sha256
    assert caplog.messages == ["cifar10 is the shipped model; for the folder of that name give ./cifar10"]
    with pytest.raises(UserError, match="is only a UNet2DModel"):
        load_source("./cifar10")


SCRIPT = Path(__file__).parents[3] / ".ci/fitted"


@pytest.fixture
def bundle_with_fit(tiny_bundle, tmp_path, monkeypatch):
    """The tiny bundle as an export of a shipped denoiser, with one fitted plan next to the weights."""
    give(tiny_bundle)
    folder = tmp_path / "models" / "tiny" / "fitted"
    folder.mkdir(parents=True)
    (folder / "float32-3.json").write_bytes(encode_shipped_plan(str(tiny_bundle), 3))
    monkeypatch.setattr(shipped_plans, "files", lambda package: tmp_path / "models")
    monkeypatch.setattr(shipped_plans, "NAMES", ("tiny",))
    return change_bundle(tiny_bundle, fitted=())


def add(bundle, **provenance):
    with open_for_update(bundle, must_exist=True) as writer:
        manifest = open_bundle(bundle).manifest
        own = msgspec.structs.replace(manifest.provenance, **provenance)
        return writer.commit(add_shipped_plans(writer, msgspec.structs.replace(manifest, provenance=own)))


def test_a_shipped_plan_is_found_in_the_bundle_of_its_denoiser(bundle_with_fit):
    assert len(add(bundle_with_fit).fitted) == 1
    with load(bundle_with_fit) as sampler:
        assert sampler.compile("fitted:3", 2.0).name == "fitted:3"


@pytest.mark.parametrize("provenance", [{"source": "other"}, {"source_sha256": "3" * 64}])
def test_other_denoisers_get_none(bundle_with_fit, provenance):
    assert add(bundle_with_fit, **provenance).fitted == ()


def test_a_damaged_file_is_named(bundle_with_fit, tmp_path):
    (tmp_path / "models/tiny/fitted/float32-3.json").write_text("{")
    with pytest.raises(UserError, match=r"float32-3.json of tiny is damaged"):
        load_shipped_plans("tiny")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_what_is_shipped_was_fitted_to_the_weights_that_are_shipped(name):
    """After a denoiser is trained again, its plans have to be fitted again: `.ci/fitted`."""
    source = load_shipped(name).sha256
    for entry, plan in load_shipped_plans(name):
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
    assert capsys.readouterr().out == encode_shipped_plan(str(tiny_bundle), 3).decode() + "\n"
