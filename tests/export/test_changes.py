"""Changes that a text names: a function of a plugin or a file, its arguments, and its errors."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fewstep.export.changes import apply_changes, read_change
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans.errors import UserError
from fewstep.plans.names import plugins
from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from tests.export import denoisers
from tests.export.denoisers import Tiny, source

CODE = """
from msgspec.structs import replace
from torch import nn
from fewstep.runtime.bundle.manifest import Condition

class Scaled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, time, *conditions):
        *own, scale = conditions
        return self.inner(x, time, *own) * scale.reshape(-1, *[1] * (x.ndim - 1))

def scaled(module, spec, high="2"):
    condition = Condition("scale", "scale", (), "float32", low=0, high=float(high), shared=True, default=(1.0,))
    return Scaled(module), replace(spec, conditions=(*spec.conditions, condition))

def nothing(module, spec):
    return module

def swapped(module, spec):
    return spec, module

def as_dataclass(module, spec):
    import dataclasses
    return module, dataclasses.replace(spec, name="other")

def failing(module, spec):
    raise ValueError("no")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def test_a_function_of_a_file_changes_the_module_and_adds_a_condition(file: Path) -> None:
    plain = source(Tiny())
    made = apply_changes(source(Tiny()), (), (read_change(f"{file}:scaled:3"),))
    assert [condition.name for condition in made.spec.conditions] == [*(e.name for e in plain.spec.conditions), "scale"]
    assert made.spec.conditions[-1].high == 3
    assert type(made.module).__name__ == "Scaled" and made.sha256 != plain.sha256


def test_the_hash_follows_the_file_and_the_arguments(file: Path) -> None:
    changes = [read_change(f"{file}:scaled{end}") for end in ("", ":3")]
    hashes = {apply_changes(source(Tiny()), (), each).sha256 for each in ([], changes[:1], changes[1:])}
    file.write_text(CODE + "# other")
    assert len(hashes | {apply_changes(source(Tiny()), (), (read_change(f"{file}:scaled"),)).sha256}) == 4


def test_a_plugin_is_a_change_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("change.none", "tests.export.test_changes:none", plugins.GROUP)
    monkeypatch.setattr(plugins, "read_entry_points", lambda: (entry,))
    made = read_change("none:a,b")
    assert (made.text, made.arguments, made.files) == ("none:a,b", ("a", "b"), ())


def none(module: object, spec: object, *_: str) -> tuple[object, object]:
    return module, spec


def test_a_bundle_has_the_condition_and_the_command_without_folders(file: Path, tmp_path: Path) -> None:
    change = (f"{file}:scaled",)
    export(ExportOptions(f"{denoisers.__file__}:make", tmp_path / "bundle", change=change, verify="quick"))
    (command,) = open_bundle(tmp_path / "bundle").manifest.provenance.commands
    assert " --change mine.py:scaled " in f"{command} " and str(tmp_path) not in command
    with load(tmp_path / "bundle") as sampler:
        twice, once = (sampler.sample("ddim:1", [0], {"scale": [scale]} if scale != 1 else {}) for scale in (0.5, 1.0))
    assert (twice != once).any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("paag", "unknown change 'paag'; give one of .*pag.*, or FILE.py:FUNCTION"),
        ("none.py:a", "there is no file none.py"),
        ("freeu:1,1", "--change freeu has 2 numbers"),
        ("ip_adapter", "change ip_adapter cannot be called: missing a required argument: 'file'"),
        ("ip_adapter:a,b", "change ip_adapter cannot be called: too many positional arguments"),
        ("{file}:scaled:1,2", "change mine.py:scaled cannot be called: too many positional arguments"),
        ("{file}:none", "has no function 'none'"),
        ("{file}:nothing", "change mine.py:nothing returned Tiny; let it return"),
        ("{file}:swapped", r"change mine.py:swapped returned \(Spec, Tiny\)"),
        ("{file}:failing", r"mine.py:failing failed: ValueError: no \(line 30\)"),
        ("{file}:as_dataclass", r"mine.py:as_dataclass failed: TypeError: .*\(line 27\); .*msgspec.structs.replace"),
    ],
)
def test_what_is_wrong_with_a_change_is_one_line(file: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        apply_changes(source(Tiny()), (), (read_change(text.format(file=file)),))
