"""A kind of denoiser is one module and a line of the list: the test adds one to a copy of the runtime."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.export.sources.onnx_models import model
from tests.export.sources.test_onnx_file import SPEC
from tests.packages import PACKAGES

ROOT = Path(__file__).parents[3]
KIND = """
from typing import ClassVar
from fewstep.runtime.kinds.kind import Kind

class Tide(Kind, frozen=True):
    FIX: ClassVar = "give Tide(height) above 0"
    height: float
    table: str | None = None

    def problem(self, of):
        return None if self.height > 0 else f"height {self.height:g} of {of.name!r}"

    def files(self):
        return () if self.table is None else (self.table,)

    def describe(self, of):
        return f"a tide of {self.height:g} m"
"""
LIST = "runtime/bundle/manifest.py"
LINE = "    policy: Policy | None = None\n"
USED = """
import json, msgspec, sys
from pathlib import Path
from fewstep.cli.main import main
from fewstep.export.sources.spec_file import read_spec
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import check_present, open_bundle
from fewstep.runtime.tide import Tide

def refused(call, *arguments):
    try:
        call(*arguments)
    except UserError as error:
        return str(error)

spec, bundle = json.loads(Path("spec.json").read_text()), Path("bundle")
for wrong in ({"height": -1}, {"height": "high"}):
    Path("wrong.json").write_text(json.dumps(spec | {"tide": wrong}))
    print(refused(read_spec, Path("wrong.json")))
assert main(["export", "model.onnx", "--spec", "spec.json", "-o", "bundle", "--verify", "quick"]) == 0
manifest = open_bundle(bundle).manifest
assert manifest.tide == Tide(2.0)
with open_for_update(bundle, must_exist=True) as writer:
    table = writer.add(b"1, 2", folder="tables", name="tide", suffix=".csv")
    writer.commit(msgspec.structs.replace(manifest, tide=Tide(2.0, table)))
packed = pack(PackOptions(bundle, Path("packed"), ("float32",)))
assert packed.tide == Tide(2.0, table) and open_bundle(Path("packed")).read(table) == b"1, 2"
main(["inspect", "packed"])
Path("packed", table).unlink()
print(refused(check_present, open_bundle(Path("packed"))))
text = Path("bundle/manifest.json").read_text()
Path("bundle/manifest.json").write_text(text.replace('"height": 2.0', '"height": -2.0'))
print(refused(open_bundle, bundle))
"""


def test_a_kind_that_is_added_to_the_list_alone_is_checked_written_read_and_inspected(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch, which export imports, is not installed")
    home = tmp_path / "fewstep"
    home.mkdir()
    for package in PACKAGES:
        if package != "runtime":
            (home / package).symlink_to(ROOT / package)
    shutil.copytree(ROOT / "runtime", home / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "runtime/tide.py").write_text(KIND)
    listed = (home / LIST).read_text()
    assert LINE in listed
    listed = listed.replace(LINE, LINE + "    tide: Tide | None = None\n")
    (home / LIST).write_text(listed.replace("\nSCHEMA =", "\nfrom fewstep.runtime.tide import Tide\n\nSCHEMA =", 1))
    onnx.save(model(), tmp_path / "model.onnx")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC | {"tide": {"height": 2}}))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", USED], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "field 'tide' of spec 'tiny': height -1 of 'tiny'; give Tide(height) above 0" in said
    assert "field 'tide' of spec 'tiny' is wrong: Expected `float`, got `str`" in said
    assert "a tide of 2 m" in said and re.search(r"file tables/tide-\w+.csv is missing", said)
    assert "field tide: height -2 of 'tiny'" in said


def test_kinds_do_not_import_the_bundle_that_imports_them() -> None:
    """Not for types either: `Described` has the facts that they read."""
    files = sorted((ROOT / "runtime/kinds").glob("*.py"))
    assert len(files) > 10
    assert [file.name for file in files if "fewstep.runtime.bundle" in file.read_text()] == []
