"""The claims: they run, a verdict needs both comparisons, and the pages show the stored lines. Tests do not judge
figures.
"""

import re
import subprocess
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.distance_to_data import PARTS
from fewstep.measure.distances.features import open_extractor
from fewstep.models import ready
from fewstep.models.fashion_mnist.data import DEBIAN_FOLDER
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from lab.claims import claim_lines, claim_ways, claims, edit_ways, scores, settings, systems
from lab.claims.authors_baselines import AUTHORS
from lab.claims.claim import ITSELF, OF_ITS_PLAN, Claim, nearest
from lab.claims.claim_lines import Gain, Kept, Line, Longer, gain, make_page
from lab.claims.claims import CLAIMS, PAGE, in_processes, longest_first, select_claims
from lab.claims.headlines import HEADLINES, headline_table
from lab.claims.measure_claim import in_turns, judge_claim, time_ways
from lab.claims.scores import lawful, likeness, other_colour, si_sdr, to_clean, to_teacher
from lab.claims.settings import MODELS, Setting, W
from tests.docs.docs_blocks import functions, headings

ROOT = Path(__file__).parents[3]
QUICK = {"illustration sequences"}
ROW = "| [SVDD](system_notes.md#svdd) | more | works | not tried | pays |"
MANY = (likeness, to_clean, si_sdr, lawful, other_colour)  # of many samples, or of another model
OF_RUNS = [claim for claim in CLAIMS if claim.score not in MANY and "teacher" not in claim.figure]
HAS_PICTURES = DEBIAN_FOLDER.is_dir()


def setting(seeds: range) -> Setting:
    sampler = load(ready.fashion_mnist(), "int8", backend=OnnxRuntime(threads=1))
    judge = open_extractor("fashion-mnist-cnn", sampler.bundle.manifest.x_shape, 1)
    return Setting(sampler, judge, "class", seeds, source="fashion_mnist")


@pytest.mark.parametrize(
    "claim",
    [claim if claim.system in QUICK else pytest.param(claim, marks=pytest.mark.slow) for claim in OF_RUNS],
    ids=lambda claim: f"{claim.system}, {claim.control}",
)
def test_each_claim_is_measured(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.claims.measure_claim.ATTEMPTS", 1)  # figures of time are not judged here
    of = setting(range(2))
    line = judge_claim("fashion_mnist", of, claim, *time_ways(of, claim, rounds=1))
    assert line.system == claim.system and line.ours_ms > 0 and line.plain_ms > 0
    longer = line.at_equal_time
    assert (longer is not None) == claim.has_longer and (longer is None or longer.ms > 0)
    assert line.ours == line.ours and claim.system in str(line)
    if (claim.system, claim.control) == ("StreamDiffusion filter", "no filter"):
        assert line.ours > 1.5 * line.plain  # half of the frames are skipped


@pytest.mark.parametrize("seed", [32, 33])
def test_rollover_of_all_seeds_is_the_page_s_of_each(seed: int) -> None:
    """The first has a reward that falls on the way, and the second begins with another start than its first."""
    of = setting(range(seed, seed + 1))
    plan, reward = of.sampler.compile("ddpm:10", 1.0), lambda x: float(of.reward(x)[0])
    one = functions(ROOT / "lab/compositions.md").rollover(of.sampler, plan, reward, seed, of.who, quota=4)
    np.testing.assert_array_equal(claim_ways.roll_over(of), one)


def test_a_story_of_all_seeds_is_the_page_s() -> None:
    of = setting(range(2))
    story = functions(ROOT / "docs/compose.md").sequence(of.sampler, of.sampler.compile("dpmpp_2m:10", 1.0), 4, [0, 1])
    np.testing.assert_array_equal(edit_ways.story(of), story)


def test_phases_of_all_seeds_are_the_page_s_without_a_cutoff() -> None:
    sampler, picture = setting(range(2)).sampler, np.random.default_rng(0).standard_normal((2, 1, 28, 28))
    of: Any = SimpleNamespace(
        sampler=sampler, seeds=[3, 4], picture=picture, sample=lambda plan, given: (len(plan.steps), given["noise"])
    )
    steps, noise = edit_ways.from_phases(of)
    expected = functions(ROOT / "lab/compositions.md").phase_noise(picture, sampler.draws([3, 4])(0))
    np.testing.assert_allclose(noise, expected, atol=1e-6)
    assert steps == 10


def test_a_held_picture_goes_in_cycles_as_on_the_page() -> None:
    """Without guidance, which this bundle has by default."""
    of = setting(range(1))

    def compile_plain(plan: str) -> Any:
        return of.sampler.compile(plan, 1.0)

    def steps(plan: Any, *args: Any, **given: Any) -> Any:
        return of.sampler.steps(compile_plain(plan) if isinstance(plan, str) else plan, *args, **given)

    plain = SimpleNamespace(compile=compile_plain, steps=steps, draws=of.sampler.draws)
    cow = functions(ROOT / "lab/compositions.md").cow
    np.testing.assert_array_equal(edit_ways.cyclic(of), cow(plain, of.known, edit_ways.upper(of), of.who))


def test_the_filter_leaves_out_the_sample_of_ten_that_varies_most() -> None:
    """Over the last five of 20 steps; over four or six another one varies most."""
    states = [SimpleNamespace(x0=x0) for x0 in np.random.default_rng(1).standard_normal((20, 10, 4))]
    sampler = SimpleNamespace(steps=lambda *_: states)
    of: Any = SimpleNamespace(sampler=sampler, seeds=range(10), who={}, reward=lambda x0: x0[:, 0])
    variances = np.var([state.x0 for state in states[-5:]], axis=0).mean(1)
    kept = np.delete(states[-1].x0[:, 0], variances.argmax())
    assert claim_ways.filter_trajectories(of).mean() == pytest.approx(kept.mean())


@pytest.mark.skipif(not HAS_PICTURES, reason="the package dataset-fashion-mnist is not installed")
def test_a_distance_is_jackknifed_and_nearer_samples_are_nearer() -> None:
    of, rng = setting(range(32)), np.random.default_rng(0)
    near = of.sampler.sample("ddim:2", range(32), {"class": [seed % 10 for seed in range(32)]})
    far = rng.standard_normal(near.shape).astype(np.float32)
    nearer, farther = likeness(of, near), likeness(of, far)
    assert nearer.shape == farther.shape == (PARTS,)
    assert nearer.mean() > farther.mean() + 10 * nearer.std() / PARTS**0.5


def test_a_solver_takes_the_grid_that_is_nearest_to_the_teacher_on_seeds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.claims.claim.APART", range(5, 7))
    monkeypatch.setattr(scores, "TEACHER", "ddim:3@ays_svd")
    of = setting(range(2))
    made = [to_teacher()(of, nearest("ddim", steps)(of)) for steps in (3, 4)]
    assert made[0].min() > 90 > made[1].max()


def test_samples_that_are_weighed_by_the_law_of_guidance_have_its_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (claim_ways, settings):
        monkeypatch.setattr(module, "LAWFUL", 3)
    for module in (scores, settings):
        monkeypatch.setattr(module, "PARTICLES", 4)
    of = setting(range(2))
    rows = of.particles.copy()
    rows[:, -1] = np.exp((W - 1) * of.reward(rows[:, :-1].reshape(8, 1, 28, 28)))
    np.testing.assert_allclose(lawful(of, rows), [0, 0], atol=1e-12)
    corrected = claim_ways.draw_guided_particles(of, corrects=True)
    np.testing.assert_allclose(corrected[:, -1].reshape(2, 4).sum(1), 1)
    assert corrected[:, -1].std() > 0 and (np.abs(lawful(of, corrected) + 0.5) <= 0.5).all()


def line(gain: Gain, at_equal: Gain | None, is_steady: bool = True, asked: float | None = None) -> Line:
    longer = None if at_equal is None else Longer(9, 10, 1.5, at_equal)
    words = ("fashion_mnist", "SVDD", "more reward", "best of N", "log p")
    return Line(*words, 8, 2.0, 1.0, gain, "seed", 10, 9, longer, is_steady, asked)


def test_a_plain_way_of_one_length_has_no_figure_at_equal_time() -> None:
    """A control that never ran has no place in a line; controls of one figure have one row."""
    sure, unsure = line(Gain(1.0, 0.4), None), line(Gain(1.0, 0.6), None)
    assert sure.pays and not unsure.pays
    page = make_page(Kept("a machine", (sure, unsure)))
    cell = "best of N: 1.000, 8 in 9 ms (ours 10), +1.000 ± 0."
    assert f"| SVDD | more reward | log p | seed | 2.000, 8 | {cell}400; pays<br>{cell}600; not decided |" in page


def test_a_system_pays_if_both_gains_are_sure_and_a_sure_loss_alone_refutes_it() -> None:
    won, lost, unsure, none = Gain(1.0, 0.1), Gain(-1.0, 0.1), Gain(-0.1, 0.2), Gain(0.0, 0.0)
    words = {
        (won, won): "pays", (won, unsure): "not decided", (unsure, won): "not decided", (unsure, None): "not decided",
        (won, lost): "does not pay", (lost, won): "does not pay", (won, none): "does not pay",
        (lost, None): "does not pay", (none, None): "does not pay",
    }  # fmt: skip
    assert {pair: line(*pair).verdict for pair in words} == words
    assert all(line(*pair).pays == (word == "pays") for pair, word in words.items())
    assert "unsteady" in line(won, won, False).verdict


@pytest.mark.parametrize(
    ("figure", "of_plain", "gain", "verdict"),
    [
        ("PSNR to the teacher", 16, Gain(-0.3, 0.09), "pays: as good in half the evaluations"),  # at least -0.48 dB
        ("PSNR to the teacher", 16, Gain(-0.3, 0.11), "does not pay"),  # at least -0.52 dB, and a sure loss
        ("PSNR to the teacher", 16, Gain(-0.1, 0.21), "not decided"),
        ("PSNR to the teacher", 15, Gain(-0.1, 0.1), "not decided"),  # more than half of the evaluations
        ("PSNR to the teacher", 16, Gain(0.3, 0.1), "pays"),
        ("PSNR to the teacher", 4, Gain(0.3, 0.09), "does not pay: the control is as good in half the evaluations"),
        ("PSNR to the teacher", 4, Gain(0.3, 0.11), "pays"),
        ("PSNR to the teacher", 5, Gain(0.3, 0.09), "pays"),
        ("-FD", 16, Gain(-4.0, 4.0), "pays: as good in half the evaluations"),  # 12.2 of 100 is the margin
        ("-FD", 16, Gain(-4.0, 4.2), "not decided"),
        ("log p(class)", 16, Gain(-0.01, 0.01), "not decided"),  # a figure without a margin
    ],
)
def test_as_good_in_half_the_evaluations_pays(figure: str, of_plain: int, gain: Gain, verdict: str) -> None:
    of = msgspec.structs.replace(line(gain, None), figure=figure, plain=-100.0, plain_evaluations=of_plain)
    assert of.verdict == verdict and of.pays == verdict.startswith("pays")


def test_the_authors_claim_is_not_refuted_by_the_cost() -> None:
    """A gain that is too small for twice the evaluations is still a gain."""
    more = {"figure": "SI-SDR", "plain_evaluations": 4, "system": "StoRM", "control": "sgmse, 60 evaluations"}
    of = msgspec.structs.replace(line(Gain(0.3, 0.09), None), **more)
    assert systems.holds([of]) == "yes: fashion_mnist" and systems.worth([of]) == "does not pay"


def test_a_claim_of_a_factor_asks_for_it() -> None:
    """A stream that is 1.2 times as fast does not fulfil a claim of 1.5 times."""
    sure = Gain(1.0, 0.1)
    assert line(sure, None, asked=1.5).pays and line(sure, None, asked=2.0).pays
    assert line(sure, None, asked=2.1).verdict == "does not pay"


def test_a_gain_is_paired_where_seeds_are_the_same() -> None:
    ours, plain = np.array([1.0, 5.0, 9.0]), np.array([0.0, 4.0, 8.0])
    assert gain(ours, plain) == Gain(1.0, 0.0)
    apart = gain(ours, plain[:2])
    assert apart.mean == 3.0 and apart.deviation == pytest.approx(np.hypot(4 / 3**0.5, 2.0))
    assert gain(ours[:1], plain[:1]) == Gain(1.0, 0.0)


def test_ways_take_turns_and_medians_are_reported() -> None:
    order: list[str] = []
    ways = [lambda s, name=name: order.append(name) or np.array([float(len(order))]) for name in "abc"]
    times, made = in_turns(None, 3, *ways)
    assert "".join(order) == "abcabcabc" and len(times) == 3 and min(times) >= 0
    assert [float(each[0]) for each in made[1]] == [2, 5, 8]


def test_fits_come_first_then_the_longest_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_lines, "KEPT", tmp_path / "claims.json")
    short = line(Gain(1.0, 0.4), None)
    for each in (short, msgspec.structs.replace(short, model="cifar10", plain_ms=10)):
        claim_lines.keep(each)
    fits, *plans = ("dit_flow", "fits"), *((name, "plans") for name in ("cifar10", "fashion_mnist", "dit_flow"))
    assert longest_first([*reversed(plans), fits]) == [fits, *plans]


def test_claims_are_of_a_model_and_of_the_named_systems() -> None:
    named = [claim.system for claim in select_claims(("fashion_mnist", "plans"), ["filter"])]
    assert named == ["StreamDiffusion filter", "StreamDiffusion filter", "hallucination filter"]
    by_figure = {claim.figure for claim in select_claims(("dit_flow", "plans"), ["DPM-Solver++, -FD"])}
    assert by_figure == {"-FD to the teacher in 80 steps"}
    assert not [*select_claims(("speech_ncsn", "plans"), ["filter"])] and [
        *select_claims(("speech_ncsn", "plans"), None)
    ]


@pytest.mark.slow
def test_models_are_measured_in_processes(tmp_path: Path) -> None:
    asked = Namespace(model=["fashion_mnist", "cifar10"], only=["StreamDiffusion filter"], work=tmp_path, data=None)
    lines = [*in_processes(Namespace(**vars(asked), seeds=2, first_seed=0))]
    assert sorted(claim_line.model for claim_line in lines) == ["cifar10", "cifar10", "fashion_mnist", "fashion_mnist"]
    of_all = [claim_line for claim_line in lines if claim_line.control == "no filter"]
    assert len(of_all) == 2 and all(
        claim_line.ours > 1.5 * claim_line.plain for claim_line in of_all
    )  # frames are skipped
    again = [*in_processes(Namespace(**vars(asked), seeds=2, first_seed=0))]
    assert sorted(again, key=str) == sorted(lines, key=str)  # times too: nothing is measured twice


def test_a_row_says_whether_its_lines_pay_and_no_control_of_as_few_evaluations_is_better() -> None:
    sure, unsure, loss = (line(Gain(mean, 0.4), None) for mean in (1.0, 0.7, -1.0))  # 8 evaluations of ours
    for *lines, word in (
        (sure, "pays"),
        (unsure, "not decided"),
        (sure, unsure, "pays in part"),
        (sure, {"plain_evaluations": 7}, "does not pay"),
        (sure, {"plain_evaluations": 8}, "does not pay"),
        (sure, {"plain_evaluations": 8, "system": "SVDD of two"}, "pays in part"),
        (sure, {"plain_evaluations": 7, "system": "SVDD of two"}, "does not pay"),
        (sure, {"plain_evaluations": 9}, "pays in part"),
        (sure, {"plain_evaluations": 8, "control": ITSELF}, "pays in part"),
        (unsure, msgspec.structs.replace(sure, control=OF_ITS_PLAN), "not decided"),
        (sure, {"plain_evaluations": 8, "model": "cifar10"}, "pays in part"),
        (sure, {"plain_evaluations": 7, "model": "cifar10"}, "does not pay"),
    ):
        of = [msgspec.structs.replace(loss, **each) if isinstance(each, dict) else each for each in lines]
        assert systems.rows(systems.renew_page(ROW, of))[0][systems.WORTH] == word


def test_a_claim_holds_by_the_authors_own_baselines_alone() -> None:
    """The best of N of its plan is a baseline of SVDD, and that of another plan is not."""
    of_its_plan = lambda mean: msgspec.structs.replace(line(Gain(mean, 0.4), None), control=OF_ITS_PLAN)  # noqa: E731
    sure, unsure, loss = (of_its_plan(mean) for mean in (1.0, 0.7, -1.0))
    other, elsewhere = ({"control": "best of N"}, {"model": "cifar10"})
    for lines, text in (
        ([sure], "yes: fashion_mnist"),
        ([unsure], "not decided: fashion_mnist"),
        ([loss], "no: fashion_mnist"),
        ([sure, msgspec.structs.replace(sure, **elsewhere)], "yes: fashion_mnist, cifar10"),
        ([sure, msgspec.structs.replace(loss, **elsewhere)], "in part: 1 of 2 comparisons"),
        ([unsure, msgspec.structs.replace(loss, **elsewhere)], "no"),
        ([sure, msgspec.structs.replace(loss, **other)], "yes: fashion_mnist"),
        ([msgspec.structs.replace(sure, **other)], "not tried"),
    ):
        assert systems.rows(systems.renew_page(ROW, lines))[0][systems.HOLDS] == text


def test_rows_of_a_table_are_in_the_order_of_their_worth() -> None:
    """Then by whether the claim holds, by state and by name. Another table has its own order."""
    cells = (
        ("c", "works", "no", "pays in part"), ("b", "out", "yes", "pays"), ("d", "part", "no", "not tried"),
        ("a", "works", "not decided", "pays"), ("e", "works", "no", "not tried"),
    )  # fmt: skip
    table = [f"| [{name}](x.md) | more | {' | '.join(rest)} |" for name, *rest in cells]
    page = systems.renew_page("\n".join([*table, "", *table[:2]]), [])
    assert "".join(systems.name_of(row) for row in systems.rows(page)) == "baced" + "bc"


def test_a_baseline_of_the_authors_is_a_control_of_a_claim() -> None:
    controls = {(claim.system, claim.control) for claim in CLAIMS}
    assert {(system, control) for system, of in AUTHORS.items() for control in of} - controls == set()


def test_claims_of_a_model_differ_by_system_figure_or_control() -> None:
    """A line is stored by these names."""
    names = [(model, claim.system, claim.figure, claim.control) for claim in CLAIMS for model in claim.models]
    assert [name for name in names if names.count(name) > 1] == []


def test_a_headline_is_an_authors_baseline_next_to_our_figures() -> None:
    made = msgspec.structs.replace(line(Gain(1.0, 0.1), None), figure="-FD", control=OF_ITS_PLAN)
    words = f"| SVDD | more reward than the best of N | fashion_mnist | -FD | 2.00, 8 | {OF_ITS_PLAN}: 1.00, 8 |"
    assert f"{words} yes |" in headline_table([made])
    assert f"{words} no |" in headline_table([msgspec.structs.replace(made, gain=Gain(-1.0, 0.1))])
    assert {(system, control) for system, _, control in HEADLINES} <= {
        (system, control) for system, of in AUTHORS.items() for control in of
    }


def test_the_pages_have_what_is_kept() -> None:
    kept, page = claim_lines.load_kept(), systems.PAGE.read_text()
    assert PAGE.read_text() == make_page(kept)
    assert systems.renew_page(page, kept.lines) == systems.with_headlines(page, kept.lines) == page
    of_rows = {id(each) for row in systems.rows(page) for each in systems.lines_of(systems.name_of(row), kept.lines)}
    others = {each.system for each in kept.lines if id(each) not in of_rows}
    assert others <= {"RePaint", "REINFORCE on the start"}  # the survey has neither; the second is a part of FIND
    assert {each.model for each in kept.lines} <= set(MODELS)


def test_every_system_has_a_row_and_a_note() -> None:
    """108 systems, 11 of which are weights only. Cells have the words that the page defines."""
    page, notes = systems.PAGE.read_text(), systems.notes(systems.NOTES.read_text())
    rows, weights = systems.rows(page), systems.checkpoints(page)
    names = [systems.name_of(row) for row in rows]
    assert len(weights) == 11 and len({*names, *weights}) == len(rows) + len(weights) == 108
    assert names.sort(key=str.lower) is None and names == list(notes)
    absent = {systems.name_of(row) for row in rows if row[systems.STATE] == "missing"}
    assert absent == {
        "Guide-and-Rescale", "Decomposable Flow Matching", "APS", "DiffEditor", "MT-Diffusion", "FreCaS", "PromptFix",
        "SlimFlow", "SpeedUpNet",
    }  # fmt: skip
    for row in rows:
        assert row[systems.STATE] in systems.STATES and row[systems.WORTH] in systems.WORTH_WORDS, row
        assert row[systems.HOLDS].partition(":")[0] in systems.HOLDS_WORDS and row[1], row


def test_a_row_links_to_the_note_on_its_system() -> None:
    """The anchors of DPM-Solver and DPM-Solver++ differ by their number alone."""
    anchors = dict(zip(systems.notes(systems.NOTES.read_text()), headings(systems.NOTES)[1:-1], strict=True))
    for row in systems.rows(systems.PAGE.read_text()):
        name = systems.name_of(row)
        assert row[0] == f"[{name}](system_notes.md#{anchors[name]})"


def test_what_works_names_a_test_of_its_code() -> None:
    """The test function exists, and its file names the code. A system that does not work has a reason."""
    notes = systems.notes(systems.NOTES.read_text())
    for row in systems.rows(systems.PAGE.read_text()):
        state, system = row[systems.STATE], systems.name_of(row)
        note = notes[system]
        for path in re.findall(r"`((?:tests|benchmarks|plans|fitting|runs|literature|lab)/[^`:]+)", note):
            assert (ROOT / path).exists(), (system, path)
        assert not re.search(r"`tests/(?!families/)[^`:]+`", note), (system, "a file of tests, and no function")
        for function, name in re.findall(r"`(\w+)` of (com\w+\.md)", note):
            page = (ROOT / ("docs" if name == "compose.md" else "lab") / name).read_text()
            assert f"def {function}(" in page, (system, function)
        sources = {path: (ROOT / path).read_text() for path, _ in systems.tests(note)}
        for path, function in systems.tests(note):
            assert f"def {function}(" in sources[path], (system, path, function)
        if state == "works":
            named = [each for each in systems.code(note) if re.match(r"\w+$", each)]
            families = [(ROOT / path).read_text() for path in re.findall(r"`(tests/families/\w+\.py)`", note)]
            spoken = "".join((*sources.values(), *families))
            assert sources, system
            assert not named or any(re.search(rf"\b{each}", spoken) for each in named), (system, named)
        if state in ("part", "missing", "out"):
            assert "- *Remarks*: " in note, system


def test_an_interrupted_run_continues_after_it_wrote_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (page := tmp_path / "claims.md").write_text("old")
    (code := tmp_path / "code.py").write_text("old")
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "old"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "WRITTEN", (page,))
    before = claims.tree()
    page.write_text("new")
    assert claims.tree() == before
    code.write_text("new")
    assert claims.tree() != before
