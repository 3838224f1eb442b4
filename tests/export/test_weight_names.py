"""Prefixes of wrappers in the names of weights."""

import pytest

from fewstep.export.weight_names import common_prefix, strip_wrapper_prefixes


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (["_orig_mod.a.weight", "_orig_mod.b"], ["a.weight", "b"]),
        (["module.a.weight", "module.b"], ["a.weight", "b"]),
        (["module._orig_mod.a", "module._orig_mod.b"], ["a", "b"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["blocks.0._orig_mod.a", "b"], ["blocks.0.a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.a", "n_averaged"], ["a", "n_averaged"]),
        (["n_averaged"], ["n_averaged"]),
    ],
)
def test_names_without_wrappers(stored: list[str], names: list[str]) -> None:
    assert list(strip_wrapper_prefixes(stored).values()) == names


def test_a_prefix_that_all_names_share() -> None:
    assert common_prefix(["ema.a.b", "ema.c", "num_updates"]) == "ema."
    assert common_prefix(["ema.a.b", "c"]) == ""
