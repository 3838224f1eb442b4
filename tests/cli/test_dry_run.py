"""A dry run of export describes the folder that it would write."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fewstep.cli.verbs.export import dry_run
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.manifest import describe_additions
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import LOCK, MANIFEST, open_bundle
from tests.refusals import refuses
from tests.runtime.sampling.test_fitted_plans import give


@pytest.mark.slow
def test_a_folder_that_a_killed_export_left_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from tests.export import denoisers

    options = ExportOptions(f"{denoisers.__file__}:make", tmp_path / "tiny")
    options.output.mkdir()
    (options.output / LOCK).touch()
    assert f"would make {options.output};" in str(dry_run(options).shown[1])
    export(options)
    assert (options.output / MANIFEST).is_file() and not (options.output / LOCK).exists()
    assert f"would replace the bundle {options.output};" in str(dry_run(options).shown[1])
    give(options.output, guidance=None)
    gone = f"would replace the bundle {options.output}, and delete what later verbs added to it (fitted:3 for float32);"
    assert gone in str(dry_run(options).shown[1])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=-1))  # for weights of some bytes
    for verb in (dry_run, export):
        with refuses(("kB more", "its disk has"), "free space or"):
            verb(options)
        with pytest.raises(UserError, match="kB more"):
            verb(replace(options, output=tmp_path / "folder" / "new"))
    assert not (tmp_path / "folder").exists()
    previous = open_bundle(options.output).manifest
    assert describe_additions(previous) == "fitted:3 for float32" and describe_additions(previous, previous) == ""
