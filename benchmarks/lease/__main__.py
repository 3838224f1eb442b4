"""Folders with all that a machine with a GPU, torch and no network needs for one measurement.

    python -m benchmarks.lease --item denoisers -o FOLDER [--python-version 3.12] [--architecture 90]

Send each folder FOLDER/part-N, and run `bash part-N/run.sh RESULTS` there: the last one runs the item's command, which
takes at most eight minutes and writes its results as it goes. `REHEARSE=1 bash run.sh RESULTS` is a short run on a CPU.
The machine has torch for CUDA, onnx, onnxruntime, onnxscript, safetensors, typer, rich, Pillow and pytest, and for
denoisers-others huggingface_hub, requests and PyYAML, which diffusers imports.

Where the tree is sent too, it counts towards the limit of what can be sent. `git sparse-checkout set --no-cone
/README.md` leaves one file of it, and `git sparse-checkout disable` brings it back.
"""

import sys
from pathlib import Path

from benchmarks import options
from benchmarks.lease.items import ITEMS
from benchmarks.lease.payload import tree_files, write_payload
from fewstep.models.cifar10.data import HOW_TO_GET

MIB = 2**20


def main() -> int:
    """Write the folders of an item, and print their sizes."""
    parser = options.parser_of(__doc__)
    parser.add_argument("--item", choices=tuple(ITEMS), required=True, help="the measurement")
    parser.add_argument("-o", "--output", type=Path, required=True, help="parent folder of the output")
    parser.add_argument(
        "--limit", type=float, default=63.0, help="largest size of a folder in MiB (default %(default)s)"
    )
    parser.add_argument("--python-version", default="3.12", help="the machine's Python (default %(default)s)")
    parser.add_argument(
        "--architecture", type=int, default=90, help="its GPU's compute capability (default %(default)s, Hopper)"
    )
    parser.add_argument("--data", type=Path, help=f"data for training: {HOW_TO_GET}")
    options.add_work(parser, "lease")
    given = parser.parse_args()
    item = ITEMS[given.item]
    with options.refusing(parser):
        limit = int(given.limit * MIB)
        machine = given.python_version, given.architecture
        folders = write_payload(item, given.output, given.work, limit, *machine, given.data)
    for folder in folders:
        print(f"{folder.path}: {folder.size / MIB:.1f} MiB")
    print(f"the tree itself: {sum(file.stat().st_size for file in tree_files()) / MIB:.1f} MiB")
    print(f"then: {item.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
