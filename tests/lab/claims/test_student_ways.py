"""student_ways.py: each line runs the student, the file and the weight that it names, next to its controls."""

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.claims import fit_ways, student_ways
from lab.claims.claim import ITSELF, Claim
from lab.claims.claims import CLAIMS
from lab.claims.settings import Setting

SEEDS = range(4, 6)


class Run:
    """A stand-in for the sampler of an exported source, which records what it samples."""

    def __init__(self, ran: list["Run"], source: str, precision: str, **exported: Any) -> None:
        self.ran, self.source, self.precision, self.exported = ran, Path(source).name, precision, exported
        self.files: dict[str, float] = {}

    def with_options(self, adapters: dict[str, float]) -> "Run":
        self.files = {Path(file).name: scale for file, scale in adapters.items()}
        return self

    def sample(self, plan: str, seeds: range, **options: Any) -> np.ndarray:
        self.plan, self.options = plan, options
        self.ran.append(copy(self))
        return np.zeros((len(seeds), 1))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    found: list[Run] = []
    monkeypatch.setattr(student_ways, "_lower", lambda *of, **options: Run(found, *of, **options))
    return found


def setting(ran: list[Run]) -> Any:
    source = "dit_flow.py:make"
    return Setting(Run(ran, source, "float32"), None, "class", SEEDS, source=source)  # type: ignore[arg-type]


def claims_of(system: str) -> list[Claim]:
    return [claim for claim in CLAIMS if claim.system == system]


@pytest.mark.parametrize(
    ("system", "file", "plans"),
    [
        ("LoRA-enhanced distillation", "guided_lora.safetensors", {8: "dpmpp_2m:8@trailing"}),
        ("LCM-LoRA", "consistency_lora.safetensors", {1: "lcm:1", 2: "lcm:2", 4: "lcm:4"}),
        ("Hyper-SD", "consistency_lora.safetensors", {2: "tcd:2", 4: "tcd:4"}),
    ],
)
def test_a_file_fills_the_slots_of_int8_and_runs_one_row_a_step(
    system: str, file: str, plans: dict[int, str], ran: list[Run]
) -> None:
    for claim in claims_of(system):
        claim.ours(setting(ran))
        run = ran[-1]
        assert (run.plan, run.options["guidance"]) == (plans[claim.evaluations], 1.0)
        assert (run.source, run.precision, run.files) == ("dit_flow.py:make", "int8", {file: 1.0})
        assert run.exported == {"guidance": 1.0, "lora_slots": ("*",), "rank": 8}
    assert {claim.evaluations for claim in claims_of(system)} == set(plans)


def test_the_student_of_all_weights_is_told_the_teacher_s(ran: list[Run]) -> None:
    """3, which the lines' teacher has too."""
    for claim in claims_of("distillation of guided models"):
        claim.ours(setting(ran))
        assert (ran[-1].source, ran[-1].precision, ran[-1].plan) == ("guided.py:make", "int8", "dpmpp_2m:8@trailing")
        np.testing.assert_array_equal(ran[-1].options["condition"]["weight"], [3.0, 3.0])


@pytest.mark.parametrize("system", ["LoRA-enhanced distillation", "distillation of guided models"])
def test_controls_of_guidance_in_one_row_have_two_rows_or_one(
    system: str, ran: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_ways, "_open_fit", lambda source, *how: Run(ran, source, "float32"))
    for claim in claims_of(system):
        if claim.control != ITSELF:
            claim.plain(setting(ran), 0)
            rows = 1 if ran[-1].options["guidance"] is None else 2
            assert rows * int(ran[-1].plan.split(":")[1].split("@")[0]) == claim.plain_evaluations, claim.control


def test_a_negative_text_is_told_to_attention_or_to_a_second_row(
    ran: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text has no colour, and the negative text is the colour alone."""
    changed = []
    monkeypatch.setattr(
        student_ways, "edit_source", lambda source, change: changed.append(change) or Run(ran, source, "float32")
    )
    monkeypatch.setattr(student_ways, "colourless", lambda seeds: [f"item {seed}" for seed in seeds])
    monkeypatch.setattr(student_ways, "colours", lambda seeds: [f"colour {seed}" for seed in seeds])
    by_control = {claim.control: claim for claim in claims_of("NASA")}
    of = setting(ran)
    by_control["no negative text"].ours(of)
    by_control["guidance by two rows"].plain(of, 8)
    by_control["no negative text"].plain(of, 8)
    attention, rows, none = ran
    items, shades = ["item 4", "item 5"], ["colour 4", "colour 5"]
    assert changed == ["nasa"] and [run.plan for run in ran] == ["dpmpp_2m:8", "dpmpp_2m:4", "dpmpp_2m:8"]
    assert [run.options["condition"]["text"] for run in ran] == [items] * 3
    assert attention.options["condition"]["negative_text"] == shades
    assert attention.options["condition"]["negative_scale"].tolist() == [0.5, 0.5]
    assert (rows.options["branches"], rows.options["guidance"]) == ({"uncond": {"text": shades}}, 2.0)
    assert "branches" not in none.options and "negative_text" not in none.options["condition"]


def test_the_student_of_one_step_runs_next_to_its_start_and_its_teacher(ran: list[Run]) -> None:
    """A row of the student is a step. Steps of its start and its teacher have two with guidance."""
    shipped = Setting(Run(ran, "fashion_mnist", "float32"), None, "class", SEEDS, source="fashion_mnist")  # type: ignore[arg-type]
    comparisons = set()
    for claim in claims_of("InstaFlow"):
        claim.ours(shipped), claim.plain(shipped, 0)
        ours, theirs = ran[-2:]
        assert (ours.source, ours.plan) == ("one_step.py:make", f"ddim:{claim.evaluations}@trailing")
        guidance = theirs.options["guidance"]
        assert int(theirs.plan.partition("@")[0][-1]) * (1 if guidance == 1.0 else 2) == claim.plain_evaluations
        comparisons.add((theirs.source, theirs.plan, guidance))
    assert comparisons == {
        *(("dit_flow.py:make", f"ddim:{rows}@trailing", 1.0) for rows in (1, 2)),
        ("dit_flow.py:make", "dpmpp_2m:8", 2.0),
        *(("fashion_mnist", plan, 2.0) for plan in ("ddim:1", "unipc_2:2@arctan(power=1.5)", "dpmpp_2m:8")),
    }  # fmt: skip
