"""Expressions for layers are matched as peft matches them, and those that might never end are recognised."""

import pytest

from fewstep.runtime.lora.file import AdapterConfig
from fewstep.runtime.lora.patterns import find_number, is_simple, read_pattern
from tests.refusals import refuses

LAYERS = ("conv", "blocks.0", "blocks.10.to_q", "down_blocks.1.to_k", "0", "a.conv.b")
KEYS = (
    "conv",
    "^conv",
    "blocks.0",
    r"^blocks\.\d",
    r".*blocks\.\d+\.to_[qk]",
    "(to_q|to_k)$",
    "c?o?nv",
    "[^._]+",
    "^0",
)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_matches_the_layers_that_it_matches_in_peft(key: str) -> None:
    other = pytest.importorskip("peft.utils.other")
    assert is_simple(key)
    right = [{key: 7.0}.get(other.get_pattern_key([key], layer)) for layer in LAYERS]
    assert [find_number({key: 7.0}, [layer]) for layer in LAYERS] == right and 0 < right.count(7.0) < len(LAYERS)


@pytest.mark.parametrize(
    "key", ["(a*)*", "(a|a)+", "(a?)?", "a{9}", "(?=a)a", r"(a)\1", ".*.*.*.*a", "a?a?a?a?a?", "[a-z]*[[]", "a$b"]
)
def test_a_key_that_may_take_long_is_told_apart(key: str) -> None:
    assert not is_simple(key)


def test_repetitions_are_matched_in_names_of_limited_length_only() -> None:
    layers = ["a" * 129]
    with refuses("a.safetensors: its alpha_pattern has 'a.*'", "name the layers in alpha_pattern instead"):
        read_pattern("a.safetensors", "alpha_pattern", {"alpha_pattern": {"a.*": 1}}, layers)
    assert read_pattern("", "alpha_pattern", {"alpha_pattern": {"^a": 1}}, layers) == {"^a": 1}


def test_the_first_key_counts() -> None:
    assert find_number({"b.*": 3.0, "blocks.0": 5.0}, ["blocks.0"]) == 3


@pytest.mark.parametrize(
    ("layer", "alpha"),
    [
        ("blocks.0", 7),
        ("base_model.model.blocks.0", 7),
        ("unet.blocks.0", 7),
        ("transformer.blocks.0", 7),
        ("base_model.model.unet.blocks.0", 2),
        ("up.blocks.0", 2),
    ],
)
def test_a_name_begins_after_the_prefix_of_the_file(layer: str, alpha: float) -> None:
    assert AdapterConfig(alpha=2, alphas={"^blocks.0": 7}).scale(layer).alpha == alpha
