"""The command that a bundle records of its export."""

import shlex

from fewstep.export.export_options import ExportOptions
from fewstep.export.manifest import export_command


def test_the_command_is_quoted_once_for_a_shell() -> None:
    options = ExportOptions(
        "a b/my net.py:make", "out", lora_slots=("*", "attn*.to_q"), change=("freeu:1.2,1.4,0.9,0.2",)
    )
    command = export_command(options, "my net.py:make", [])
    assert shlex.split(command) == [
        *("fewstep", "export", "my net.py:make", "-o", "BUNDLE"),
        *("--lora-slots", "*,attn*.to_q", "--change", "freeu:1.2,1.4,0.9,0.2"),
    ]
