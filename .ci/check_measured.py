"""List measured pages that are older than the code that they measure: `python .ci/check_measured.py`. Needs history.

The table of lab/measured/README.md names the scripts of each page, and the commit whose code made its figures. A page
measures the folders of JUDGED from which these scripts import, directly or through other modules. The page is older
than its code if later commits changed these folders. `check_moved.py COMMIT` shows whether they changed a figure. If
the table's page names two commits between which no figure changed, figures of the first count as those of the second.
"""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "lab/measured"
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
        yield Page(name.replace("../", ""), tuple(scripts(command)), commit)


def as_late(commit: str) -> str:
    """The last commit for which `check_moved.py` reproduced the figures of `commit`."""
    for first, last in UNMOVED.findall((PAGES / "README.md").read_text()):
        if not git("rev-list", f"{commit}..{first}") and not git("rev-list", f"{last}..{commit}"):
            return last
    return commit


def scripts(command: str) -> Iterator[Path]:
    """The files that a row names. A name without a folder is in the folder of the name before it."""
    folder = ROOT / "benchmarks"
    for found in re.findall(r"(?:benchmarks|lab)[\w./]+|\w+\.py", command):
        whole = found.startswith(("benchmarks", "lab"))
        module = ROOT / found.removesuffix(".py").replace(".", "/") if whole else folder / found[:-3]
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        yield file
        folder = file.parent


def folders(script: Path, seen: set[Path]) -> set[str]:
    """The folders of JUDGED from which a script imports, directly or through other modules."""
    seen.add(script)
    imported, files = imports(script)
    return set(imported).union(*(folders(file, seen) for file in files if file not in seen))


@cache
def imports(script: Path) -> tuple[frozenset[str], tuple[Path, ...]]:
    """The folders of JUDGED from which a script imports directly, and the files of all modules that it imports."""
    modules = re.findall(r"^ *from (?:fewstep\.)?([\w.]+) import", script.read_text(), re.M)
    files = [ROOT / f"{name.replace('.', '/')}.py" for name in modules]
    parents = [[folder for folder in JUDGED if (ROOT / folder) in file.parents] for file in files]
    return frozenset(max(found, key=len) for found in parents if found), tuple(file for file in files if file.is_file())


def changes(names: list[str]) -> list[str]:
    """Git's pathspecs of the files in these folders of JUDGED, without the other folders of JUDGED inside them."""
    inside = [each for each in JUDGED if each not in names and any(each.startswith(f"{name}/") for name in names)]
    return [f"{name}/*.py" for name in names] + [f":!{each}/*.py" for each in inside]


def main() -> None:
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        raise SystemExit("this clone lacks the history that gives the age of figures: git fetch --unshallow")
    for page in pages():
        names = sorted(set().union(*(folders(script, set()) for script in page.scripts)))
        changed = changes(names or list(JUDGED))
        if later := int(git("rev-list", "--count", f"{as_late(page.commit)}..HEAD", "--", *changed)):
            day = git("show", "-s", "--format=%cs", page.commit).strip()
            changed_folders = ", ".join(names) or "all folders that decide figures"
            print(f"{page.name}: its figures are of {day} ({page.commit}), before {later} commits to {changed_folders}")


if __name__ == "__main__":
    main()
