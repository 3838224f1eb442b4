"""The programs for baked files have the limits of `fewstep verify`."""

import re
from pathlib import Path

from fewstep.report.baked_integrity import LEAST, LEAST_SAME

EXAMPLES = Path(__file__).parents[2] / "docs/examples/baked"


def test_programs_refuse_below_the_same_psnr() -> None:
    cpp, node = ((EXAMPLES / name).read_text() for name in ("sample.cpp", "sample.mjs"))
    (listed,) = re.findall(r"const LEAST = \{ (.+) \}", node)
    assert {name: float(db) for name, db in re.findall(r'"?([\w-]+)"?: (\d+)', listed)} == LEAST
    assert f"const LEAST_SAME = {LEAST_SAME};" in node and LEAST_SAME == 0.5 and "2 * same >= " in cpp
    ((rest,),) = [re.findall(r" : ([\d.]+);  // other kernels", cpp)]
    limits = {**dict(re.findall(r'is_in\("(\w+)"\) \? ([\d.]+)', cpp)), "float32": rest}
    assert {name: limits[name.partition("-")[0]] for name in LEAST} == {name: f"{db:.1f}" for name, db in LEAST.items()}
