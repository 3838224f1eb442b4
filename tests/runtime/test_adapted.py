"""A LoRA file that was replaced is another file, also where its size and its time are the same."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fewstep.runtime.lora.adapted import stamps


def test_a_file_of_equal_size_and_time_that_takes_its_place_is_seen(tmp_path: Path) -> None:
    file, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, value in ((file, 1.0), (other, 2.0)):
        save_file({"x": np.full(3, value, np.float32)}, path)
        os.utime(path, ns=(10**9, 10**9))
    before = stamps({file: 0.5})
    assert stamps({file: 0.5}) == before and stamps({file: 0.6}) != before
    os.replace(other, file)
    assert file.stat().st_mtime_ns == 10**9 and stamps({file: 0.5}) != before
