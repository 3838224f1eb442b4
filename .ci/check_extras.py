"""Check that each extra of a wheel brings what its name says: `python .ci/check_extras.py WHEEL [EXTRA ...]`.

pip resolves each extra against its index and installs nothing. The packages that an extra is for are those of
runtime/machine/packages.py, which `fewstep doctor` names. PyPI's tensorrt fetches its libraries from pypi.nvidia.com.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "runtime/machine/packages.py"


def extras() -> dict[str, tuple[str, ...]]:
    """The packages of each extra, read without importing them."""
    for node in ast.parse(PACKAGES.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS":
            return {extra: packages for extra, (_, packages) in ast.literal_eval(node.value).items()}
    raise SystemExit(f"{PACKAGES} has no EXTRAS")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought(wheel: str, extra: str) -> dict[str, str]:
    """Return the packages that pip would install, with their versions. If it cannot, return none and print the
    reason on stderr.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    found = subprocess.run(
        [*command, "-c", str(ROOT / ".ci/constraints.txt"), f"{wheel}[{extra}]"], stdout=subprocess.PIPE, text=True
    )
    if found.returncode:
        return {}
    report = json.loads(found.stdout)["install"]
    return {normalized(each["metadata"]["name"]): each["metadata"]["version"] for each in report}


def main() -> int:
    wheel, chosen = sys.argv[1], sys.argv[2:]
    missing = 0
    for extra, packages in extras().items():
        if chosen and extra not in chosen:
            continue
        there = brought(wheel, extra)
        lacking = [name for name in packages if normalized(name) not in there]
        missing += len(lacking)
        named = ", ".join(f"{name} {there[normalized(name)]}" for name in packages if name not in lacking)
        print(f"[{extra}] brings {len(there)} packages: {named}{'; MISSING ' * bool(lacking)}{', '.join(lacking)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
