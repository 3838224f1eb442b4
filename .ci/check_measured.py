"""Which measured pages are older than the code that they judge: `python .ci/check_measured.py`. Needs git's history.

The table of docs/measured/README.md names the scripts of each page, and the commit whose code made its figures. What
these scripts import of JUDGED, by themselves or by other modules, is the code that the page judges. A page is older
than it where later commits changed these rooms. `check_moved.py COMMIT` says whether they moved a figure. Where the
page of the table names two commits between which none moved, figures of the first count as those of the second.
"""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/measured"
JUDGED = (  # folders whose code decides samples and figures
    "calibration",
    "fitting",
    "calibration/lowering",
    "calibration/ranges",
    "literature/streams",
    "robots/control",
    "runtime/runs",
)
ROW = re.compile(r"^\| \[.+?\]\((\S+?)\) \|.*\| ([^|]*) \| `([0-9a-f]+)` \|$", re.M)
UNMOVED = re.compile(r"differs\s+between\s+`(\w+)`\s+and\s+`(\w+)`")


class Page(NamedTuple):
    """A page, or a part of it, the files of its scripts, and the commit of its figures."""

    name: str
    scripts: tuple[Path, ...]
    commit: str


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def pages() -> Iterator[Page]:
    """The rows of the table that have a commit."""
    for name, command, commit in ROW.findall((PAGES / "README.md").read_text()):
        yield Page(name, tuple(scripts(command)), commit)


def as_late(commit: str) -> str:
    """The last commit until which `check_moved.py` found the figures of `commit` again."""
    for first, last in UNMOVED.findall((PAGES / "README.md").read_text()):
        if not git("rev-list", f"{commit}..{first}") and not git("rev-list", f"{last}..{commit}"):
            return last
    return commit


def scripts(command: str) -> Iterator[Path]:
    """The files that a row names. A name without a folder lies in that of the name before it."""
    folder = ROOT / "benchmarks"
    for found in re.findall(r"benchmarks[\w./]+|\w+\.py", command):
        module = ROOT / found.removesuffix(".py").replace(".", "/") if "benchmarks" in found else folder / found[:-3]
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        yield file
        folder = file.parent


def rooms(script: Path, seen: set[Path]) -> set[str]:
    """The folders of JUDGED that a script imports from, by itself or by other modules."""
    seen.add(script)
    imported, files = imports(script)
    return set(imported).union(*(rooms(file, seen) for file in files if file not in seen))


@cache
def imports(script: Path) -> tuple[frozenset[str], tuple[Path, ...]]:
    """The folders of JUDGED that a script itself imports from, and the files of all that it imports."""
    modules = re.findall(r"^ *from (?:fewstep\.)?([\w.]+) import", script.read_text(), re.M)
    files = [ROOT / f"{name.replace('.', '/')}.py" for name in modules]
    around = [[room for room in JUDGED if (ROOT / room) in file.parents] for file in files]
    return frozenset(max(found, key=len) for found in around if found), tuple(file for file in files if file.is_file())


def changes(names: list[str]) -> list[str]:
    """Git's pathspecs of the files in these folders of JUDGED, without the other folders of JUDGED inside them."""
    inside = [room for room in JUDGED if room not in names and any(room.startswith(f"{name}/") for name in names)]
    return [f"{name}/*.py" for name in names] + [f":!{room}/*.py" for room in inside]


def main() -> None:
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        raise SystemExit("the age of figures is in history that this clone lacks: git fetch --unshallow")
    for page in pages():
        names = sorted(set().union(*(rooms(script, set()) for script in page.scripts)))
        changed = changes(names or list(JUDGED))
        if later := int(git("rev-list", "--count", f"{as_late(page.commit)}..HEAD", "--", *changed)):
            day = git("show", "-s", "--format=%cs", page.commit).strip()
            said = ", ".join(names) or "all rooms that decide figures"
            print(f"{page.name}: its figures are of {day} ({page.commit}), before {later} commits to {said}")


if __name__ == "__main__":
    main()
