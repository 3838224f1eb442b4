"""Install fewstep plugins of packages that do not exist."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from fewstep.plans.names import plugins


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, entries: Mapping[str, str], code: str = ""
) -> None:
    """Install a package in front of the existing ones: its entry points, by KIND.NAME, and a module of its name."""
    home = folder / f"site-{package}"
    info = home / f"{package}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {package}\nVersion: 1\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{lines}")
    (home / f"{package}.py").write_text(code)
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(plugins, "read_entry_points", lambda: tuple(plugins.entry_points(group=plugins.GROUP)))
