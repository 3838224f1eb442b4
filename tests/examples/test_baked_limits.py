"""The programs for baked files have the limits of `fewstep verify`."""

import re
from pathlib import Path

from fewstep.evaluation.baked import LEAST

EXAMPLES = Path(__file__).parents[2] / "examples/baked"


def test_programs_refuse_below_the_same_psnr() -> None:
    cpp, node = ((EXAMPLES / name).read_text() for name in ("sample.cpp", "sample.mjs"))
    (listed,) = re.findall(r"const LEAST = \{ (.+) \}", node)
    assert {name: float(db) for name, db in re.findall(r"(\w+): (\d+)", listed)} == LEAST
    ((rest,),) = [re.findall(r" : ([\d.]+)\);  // other kernels", cpp)]
    assert {**dict(re.findall(r'is_in\("(\w+)"\) \? ([\d.]+)', cpp)), "float32": rest} == {
        name: f"{db:.1f}" for name, db in LEAST.items()
    }
