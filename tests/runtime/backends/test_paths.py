"""Bundles in folders with names that a locale or an engine cannot encode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
SAMPLE = "import sys, fewstep.runtime as f; f.load(sys.argv[1]).sample('ddim:2', [0], {'class': [0]}); print('sampled')"


def test_a_folder_with_other_letters_runs_in_a_locale_without_utf_8(tiny_bundle: Path) -> None:
    bundle = tiny_bundle.rename(tiny_bundle.parent / "b \u00fc")
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", SAMPLE, str(bundle)]
    done = subprocess.run(command, env=ascii_only, capture_output=True, text=True)
    assert done.stdout == "sampled\n", done.stderr


def test_a_name_that_is_no_utf_8_is_named(tiny_bundle: Path) -> None:
    bundle = tiny_bundle.rename(tiny_bundle.parent / os.fsdecode(b"b\xff"))
    for opened in (lambda: load(bundle), lambda: verify(VerifyOptions(bundle))):
        with pytest.raises(UserError, match=r"b\\udcff/graphs/.* is not in UTF-8, .*; rename the folder"):
            opened()
