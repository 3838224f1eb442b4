"""A copy of the sources that code digests cover, for tests that edit them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

from fewstep.measure.workers.code_digest import PACKAGES


def copy_sources(folder: Path) -> tuple[SimpleNamespace, ...]:
    """Copy the packages, for a test that replaces `code_digest.PACKAGES`."""
    copies = []
    for package in PACKAGES:
        original, copy = Path(package.__path__[0]), folder / package.__name__
        shutil.copytree(original, copy, ignore=lambda _, names: [n for n in names if "." in n and n[-3:] != ".py"])
        copies.append(SimpleNamespace(__path__=[str(copy)]))
    return tuple(copies)


def edit(copies: tuple[SimpleNamespace, ...], package: str, file: str) -> None:
    """Add a comment to a file of a copied package."""
    (folder,) = (Path(copy.__path__[0]) for copy in copies if copy.__path__[0].endswith(f"fewstep.{package}"))
    with (folder / file).open("a") as source:
        source.write("# edited\n")
