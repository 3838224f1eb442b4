"""Removed verbs and options, and options that a user may guess from the name of a change, with their replacements."""

from collections.abc import Mapping, Sequence

SUCCESSORS = {  # removed verb -> its replacement
    "evaluate": "fewstep measure --columns psnr,fd",
    "bench": "fewstep measure --columns ms",
}
REMOVED: Mapping[str, Mapping[str, str]] = {
    "export": {
        "--dtype": "--precision",
        "--skip-scale": "--change skip_tuning:0.8,1",
        "--freeu": "--change freeu:1.5,1.6,0.9,0.2",
        **dict.fromkeys(("--perturb", "--pag"), "--change pag:LAYERS"),
        **dict.fromkeys(("--negative", "--nasa"), "--change nasa:LAYERS"),
        **dict.fromkeys(("--mutual", "--masactrl"), "--change masactrl:LAYERS"),
        "--ip-adapter": "--change ip_adapter:FILE",
    },
    "pack": {"--precision": "--body, by default all int8 bodies for CPUs"},
    "bake": {"--backbone": "--around backbone:FILE.onnx"},
}


def find_removed_option(verb: str, arguments: Sequence[str]) -> tuple[str, str] | None:
    """Return the first option that the verb no longer has, and its replacement; None without one."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if (successor := REMOVED.get(verb, {}).get(name)) is not None:
            return name, successor
    return None
