"""What `fewstep run` refuses before it samples."""

from pathlib import Path

import pytest

from fewstep.cli.run_checks import check_picture
from fewstep.cli.run_options import RunOptions
from fewstep.cli.verbs.run import run
from fewstep.plans.errors import UserError


@pytest.mark.parametrize("shape", [(2, 4, 4), (16, 3), (7,)])
def test_samples_that_are_no_pictures(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 or 3 channels, these samples have shape .*; save them as an array"):
        check_picture(RunOptions(tmp_path, output=tmp_path / "x.png"), shape)
    check_picture(RunOptions(tmp_path, output=tmp_path / "x.npy"), shape)


def test_a_file_that_cannot_be_written(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.cli.verbs.run.sampled", lambda *_: pytest.fail("samples were made"))
    with pytest.raises(UserError, match="/proc/x.npy cannot be written"):
        run(RunOptions(tiny_bundle, plan="ddim:2", output=Path("/proc/x.npy")))
