"""Which measured pages are older than the code that they judge: `python .ci/check_measured.py`. Needs git's history.

A page has the age of its oldest figure in a table: a line that no later commit made again. Its script is the one that
the table of docs/measured/README.md names. What the script imports of JUDGED, by itself or by other modules, is the
code that the page judges.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/measured"
JUDGED = ("calibration", "control", "fitting", "lowering", "ranges", "runs")  # rooms that decide samples and figures
FIGURE = re.compile(r"\|.*\d.*\|")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def scripts() -> Iterator[tuple[str, Path]]:
    """Each page and a script that its row names."""
    for page, command in re.findall(r"^\| \[(\w+\.md)\].*\| ([^|]*) \|$", (PAGES / "README.md").read_text(), re.M):
        for name in re.findall(r"benchmarks[\w./]+", command):
            file = ROOT / f"{name.removesuffix('.py').replace('.', '/')}.py"
            yield page, file if file.is_file() else file.with_suffix("") / "__main__.py"


def rooms(script: Path, seen: set[Path]) -> set[str]:
    """The rooms of JUDGED that a script imports, by itself or by other modules."""
    seen.add(script)
    modules = re.findall(r"^ *from (?:fewstep\.)?([\w.]+) import", script.read_text(), re.M)
    files = [ROOT / f"{name.replace('.', '/')}.py" for name in modules]
    imported = {name.partition(".")[0] for name in modules}.intersection(JUDGED)
    return imported.union(*(rooms(file, seen) for file in files if file.is_file() and file not in seen))


def oldest(page: str) -> tuple[str, str] | None:
    """The commit that made the oldest figure of a page, and its day; None of a page without figures."""
    blame = git("blame", "-w", "--line-porcelain", f"docs/measured/{page}")
    lines = re.findall(r"^([0-9a-f]{40}) .*?^committer-time (\d+)\n.*?^\t([^\n]*)$", blame, re.M | re.S)
    times = [(int(time), commit) for commit, time, line in lines if FIGURE.fullmatch(line)]
    if not times:
        return None
    commit = min(times)[1]
    return commit, git("show", "-s", "--format=%cs", commit).strip()


def main() -> None:
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        raise SystemExit("the age of figures is in history that this clone lacks: git fetch --unshallow")
    judged: dict[str, set[str]] = {}
    for page, script in scripts():
        judged.setdefault(page, set()).update(rooms(script, set()))
    for page, names in judged.items():
        if (age := oldest(page)) is None:
            continue
        commit, day = age
        paths = [f"{name}/*.py" for name in names or JUDGED]
        later = int(git("rev-list", "--count", f"{commit}..HEAD", "--", *paths))
        if later:
            said = ", ".join(sorted(names)) or "all rooms that decide figures"
            print(f"{page}: its oldest figure is of {day} ({commit[:8]}), before {later} commits to {said}")


if __name__ == "__main__":
    main()
