"""What the house weighs, in lines, files and entries: `python -m tests.budgets` lowers tests/budgets.toml to it.

A budget goes down with the code. One goes up by hand, in a commit of its own that names the capability.
"""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.packages import PACKAGES, module_files, name_of, needed_at_import, parsed, toml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests/budgets.toml"
VERBS = {  # the module that each stands on
    "compile": "fewstep.plans.compile",
    "execute": "fewstep.runtime.execute",
    "load": "fewstep.runtime.loading",
    "bake": "fewstep.graph.bake.bake",
    "export": "fewstep.export.export",
    "calibrate": "fewstep.calibration.calibrate",
    "fit": "fewstep.calibration.fitting.fit",
    "choose": "fewstep.report.choosing.choose",
    "measure": "fewstep.measure.measure",
    "report": "fewstep.report.write",
}
Figures = dict[str, dict[str, int]]


def lines(files: Iterable[Path]) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def stands_on(module: str, imports: Mapping[str, set[str]]) -> set[str]:
    """The modules that are imported with a module, its packages among them."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name in imports:
            found.add(name)
            waiting += [*imports[name], name.rpartition(".")[0]]
    return found


def root_entries() -> set[str]:
    """Files and folders of the root that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name.partition("/")[0] for name in listed.splitlines()}


def figures() -> Figures:
    """Lines of each room; lines and files under each verb; lines of what is beside the rooms; entries of the root."""
    files = {name_of(file): file for file in module_files()}
    imports = needed_at_import({name: parsed(file) for name, file in files.items()})
    under = {verb: [files[name] for name in stands_on(module, imports)] for verb, module in VERBS.items()}
    return {
        "rooms": {room: lines((ROOT / room).rglob("*.py")) for room in PACKAGES},
        "lines_under": {verb: lines(found) for verb, found in under.items()},
        "files_under": {verb: len(found) for verb, found in under.items()},
        "lines": {
            "tests": lines((ROOT / "tests").rglob("*.py")),
            "benchmarks": lines((ROOT / "benchmarks").rglob("*.py")),
            "docs": lines([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]),
        },
        "entries": {"root": len(root_entries())},
    }


def budgets() -> Figures:
    return toml(FILE)


def lowered(former: Figures, now: Figures) -> Figures:
    """The budgets of what is there now; none is higher than before."""
    return {
        part: {name: min(figure, former.get(part, {}).get(name, figure)) for name, figure in own.items()}
        for part, own in now.items()
    }


def main() -> None:
    head = "# At most so much; `python -m tests.budgets` lowers them. One is raised by hand, in a commit of its own.\n"
    new = lowered(budgets(), figures())
    parts = (
        f"\n[{part}]\n" + "".join(f"{name} = {figure}\n" for name, figure in own.items()) for part, own in new.items()
    )
    FILE.write_text(head + "".join(parts))


if __name__ == "__main__":
    main()
