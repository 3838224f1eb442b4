"""Which measured pages are older than the code that they judge: `python .ci/check_measured.py`. Needs git's history.

A page has the age of its oldest figure in a table: a line that no later commit made again. Its script is the one that
the table of docs/measured/README.md names, and what the script imports of JUDGED is the code that the page judges.
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
    """The rooms of JUDGED that a script imports, by itself or by modules of benchmarks."""
    seen.add(script)
    text = script.read_text()
    found = {room for room in JUDGED if re.search(rf"\bfewstep\.{room}\b", text)}
    for name in re.findall(r"^from (benchmarks[\w.]*) import", text, re.M):
        file = ROOT / f"{name.replace('.', '/')}.py"
        if file.is_file() and file not in seen:
            found |= rooms(file, seen)
    return found


def oldest(page: str) -> tuple[str, str]:
    """The commit that made the oldest figure of a page, and its day."""
    blame = git("blame", "-w", "--line-porcelain", f"docs/measured/{page}")
    lines = re.findall(r"^([0-9a-f]{40}) .*?^committer-time (\d+)\n.*?^\t([^\n]*)$", blame, re.M | re.S)
    times = [(int(time), commit) for commit, time, line in lines if FIGURE.fullmatch(line)]
    commit = min(times)[1]
    return commit, git("show", "-s", "--format=%cs", commit).strip()


def main() -> None:
    judged: dict[str, set[str]] = {}
    for page, script in scripts():
        judged.setdefault(page, set()).update(rooms(script, set()))
    for page, names in judged.items():
        commit, day = oldest(page)
        paths = [f"{name}/*.py" for name in names or JUDGED]
        later = int(git("rev-list", "--count", f"{commit}..HEAD", "--", *paths))
        if later:
            said = ", ".join(sorted(names)) or "all rooms that decide figures"
            print(f"{page}: its oldest figure is of {day} ({commit[:8]}), before {later} commits to {said}")


if __name__ == "__main__":
    main()
