"""The tables of docs/cli.md: `python -m tests.docs.verbs_page` writes them."""

import importlib
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fewstep.cli import output_flags
from fewstep.cli.generate import options_of
from fewstep.cli.verbs import VERBS

PAGE = Path(__file__).parents[2] / "docs/cli.md"
ELSEWHERE = {  # verbs that another page explains
    "export": "export.md",
    "encode": "export/diffusers.md#encoded-prompts",
    "calibrate": "quantization.md",
    "fit": "samplers.md#fit-a-plan",
    "build": "engines.md#building",
    "bake": "bake.md",
    "pack": "bundle.md",
    "report": "quantization.md#reading-the-report",
    "serve": "serving.md",
    "choose": "runtime.md#plan-body-and-engine-for-a-budget",
}


def flags(verb: str) -> set[str]:
    """Every option that a verb takes, as it is written."""
    module = importlib.import_module(f"fewstep.cli.verbs.{verb}")
    known = {flag for option in fields(options_of(module.verb)) for flag in _names(option)}
    return (
        known | output_flags.FIELDS.keys() | {"--help", "-h"} | ({"--dry-run"} if hasattr(module, "dry_run") else set())
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def fill_page(text: str) -> str:
    """The page with every table made anew."""
    tables = {
        "manner": table(
            ("flag", "meaning"),
            [(", ".join(f"`{name}`" for name in names), said) for names, said in output_flags.FLAGS.values()],
        )
    }
    tables["verbs"] = table(
        ("verb", "what it does", "needs"),
        [
            (f"[`fewstep {name}`]({ELSEWHERE.get(name, f'#fewstep-{name}')})", verb.summary, _extras(verb.extras))
            for name, verb in VERBS.items()
        ],
    )
    return re.sub(
        r"<!-- table ([\w -]+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- table {found[1]} -->\n{tables[found[1]]}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def _names(option: Any) -> tuple[str, ...]:
    long = f"--{option.name.replace('_', '-')}"
    negative = (f"--no-{long[2:]}",) if option.type in (bool, "bool") else ()
    return (long, *((option.metadata["short"],) if "short" in option.metadata else ()), *negative)


def _extras(extras: str) -> str:
    return ", ".join(f"`[{extra}]`" for extra in extras.split(",") if extra)


if __name__ == "__main__":
    PAGE.write_text(fill_page(PAGE.read_text()))
