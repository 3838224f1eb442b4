"""Write the weights that only benchmarks read, and that are not in a checkout: `python -m benchmarks.fetch_weights`.

Large weights that neither the package nor its tests need are only in the git history, so that a checkout stays
small. `stored_weights.txt` lists them: the id of the blob, which is a hash of its content, and the path. A clone has
the blobs; a clone without them (`--filter=blob:none`) gets them from its origin.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks import options
from fewstep.plans.errors import UserError

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("stored_weights.txt")


def parse_listing(listed: str) -> dict[str, str]:
    """Paths and their blobs, from lines of a blob and a path."""
    return {path: blob for blob, path in (line.split() for line in listed.splitlines())}


def fetch_weights(root: Path, stored: dict[str, str]) -> list[Path]:
    """Write the missing files of the clone `root`, and return them. Raises UserError if its history lacks one."""
    missing = {root / path: blob for path, blob in stored.items() if not (root / path).exists()}
    for file, blob in missing.items():
        content = _read_blob(root, file.name, blob)
        partial = file.with_suffix(".partial")
        partial.write_bytes(content)
        partial.replace(file)
    return list(missing)


def _read_blob(root: Path, name: str, blob: str) -> bytes:
    try:
        done = subprocess.run(["git", "cat-file", "blob", blob], cwd=root, capture_output=True)
    except FileNotFoundError as error:
        raise UserError("git is not installed, and the weights are in the history", "install git") from error
    if done.returncode:
        raise UserError(
            f"{root} has no history with the weights {name}",
            "call this in a clone; in a shallow one, call git fetch --unshallow first",
        )
    return done.stdout


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.parse_args()
    with options.refusing(parser):
        for file in fetch_weights(ROOT, parse_listing(LIST.read_text())):
            print(file.relative_to(ROOT), f"{file.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
