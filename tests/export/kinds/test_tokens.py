"""Token denoisers from a module to samples: ids in, logits out."""

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fewstep.cli.main import main
from fewstep.cli.run.batches import batch_size
from fewstep.cli.run.options import RunOptions
from fewstep.export import Vocabulary
from fewstep.export.expert import Expert
from fewstep.export.experts import _check
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.tracing.exporter_speedups import cache_operations
from fewstep.literature.populations.population import population
from fewstep.plans.errors import UserError
from fewstep.runtime import Hold, load
from fewstep.runtime.bundle.consistency import manifest_problems
from fewstep.runtime.bundle.manifest import Carried
from tests.export.networks import token_denoiser
from tests.export.networks.token_denoiser import IDS, MASK, Coded, spec
from tests.refusals import refuses


@pytest.fixture(scope="module")
def sampler(exported_tokens):
    return load(exported_tokens)


@pytest.fixture(scope="module")
def bundle_with_time(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a network that reads the time, with its own scheduler."""
    folder = tmp_path_factory.mktemp("timed")
    export(ExportOptions(f"{token_denoiser.__file__}:time_aware", folder / "bundle", verify="quick"))
    return folder / "bundle"


def test_logits_are_the_module_s(sampler):
    ids = np.random.default_rng(0).integers(0, MASK + 1, (3, 2, 9))
    with torch.no_grad():
        expected = Coded()(torch.from_numpy(ids), torch.ones(3), torch.tensor([0, 1, 3])).numpy()
    returned = sampler.evaluate(ids, 500.0, {"class": [0, 1, 2]})
    np.testing.assert_allclose(returned[:2], expected[:2], atol=1e-5)
    assert returned.shape == (3, 2, 9, IDS)


def test_a_run_is_the_rule_over_the_module_s_guided_logits(sampler):
    """One greedy step reveals the largest logits of 3 cond - 2 uncond."""
    open_ids = torch.full((1, 2, 12), MASK)
    with torch.no_grad():
        cond, uncond = (Coded()(open_ids, torch.ones(1), torch.tensor([label])) for label in (1, 3))
    expected = (3 * cond - 2 * uncond).argmax(-1).numpy()
    assert (sampler.sample("llada:1", [0], {"class": [1]}, guidance=3.0) == expected).all()


def test_samples_are_alike_alone_and_in_a_batch_and_of_any_length(sampler):
    settings, sampler = {"guidance": 2.0}, sampler.with_options(length=17)
    x = sampler.sample("mdlm:9", range(8), {"class": [0, 1, 2, 0, 1, 2, 0, 1]}, **settings)
    assert (x.dtype, x.shape) == (np.int64, (8, 2, 17))
    assert ((x >= 0) & (x < IDS)).all()
    assert (sampler.sample("mdlm:9", [4], {"class": [1]}, **settings) == x[4:5]).all()


def test_known_tokens_stay(sampler):
    ids = np.full((2, 2, 12), -1)
    ids[0, :, :5], ids[1, 1] = 3, 7
    x = sampler.sample("maskgit:4", [1, 2], {"class": [0, 0]}, given={"ids": ids})
    assert (x[ids >= 0] == ids[ids >= 0]).all()
    states = list(sampler.steps("maskgit:4", [1, 2], {"class": [0, 0]}, given={"ids": ids}))
    assert (states[-1].ids == x).all() and not states[-1].is_open.any()


def test_a_plan_is_a_file_and_is_for_one_length(sampler, tmp_path):
    plan = sampler.compile("omnivoice:4", 2.0)
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    x = sampler.sample(tmp_path / "plan.json", [5], {"class": [2]})
    assert (x == sampler.sample("omnivoice:4", [5], {"class": [2]}, guidance=2.0)).all()
    with refuses(("[2, 12]", "[2, 20]"), "by its name"):
        sampler.with_options(length=20).sample(plan, [5], {"class": [2]})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"plan": "dpmpp_2m:8"}, "is for continuous samples, .*; use"),
        ({"given": {"ids": np.full((1, 2, 12), 16)}}, "contains 16, an id outside the vocabulary; give whole"),
        ({"given": {"ids": np.ma.array(np.zeros((2, 12), int), mask=np.eye(2, 12))}}, "'ids' holds masked values"),
        ({"given": {"ids": 1}}, r"given 'ids' has the shape \[\], not \[1, 2, 12\]"),
        ({"given": {"ids": [[10**400] * 12] * 2}}, "given 'ids' is not an array of numbers"),
        ({"given": {"ids": np.full((1, 2, 11), 1)}}, r"has the shape .*, not \[1, 2, 12\]"),
        ({"given": {"ids": np.zeros((1, 2, 12))}}, "contains float64"),
        ({"given": {"x": np.zeros((1, 2, 12))}}, "does not take 'x'.*give 'ids'"),
        ({"given": np.zeros((1, 2, 12), int)}, "`given` must map names to arrays, but it is of type ndarray"),
        ({"strength": 0.5}, "a token plan takes no strength"),
        ({"hold": Hold(np.zeros((1, 2, 12)), 1)}, "'maskgit:4' is for tokens.* a hold.*give known tokens: given"),
        ({"plan": "scheduler:4"}, "has no scheduler.*such as 'maskgit:8'"),
    ],
)
def test_what_cannot_be_is_one_line(sampler, settings, said):
    plan = settings.pop("plan", "maskgit:4")
    with pytest.raises(UserError, match=said):
        sampler.sample(plan, [0], {"class": [0]}, **settings)
    with pytest.raises(UserError, match="length 99 is outside its range"):
        sampler.with_options(length=99)


@pytest.mark.slow
def test_first_hitting_is_for_networks_that_read_no_time(sampler, bundle_with_time):
    assert not sampler.network().inputs.has_time
    other = load(bundle_with_time)
    said = "first_hitting:4.*takes a time; use mdlm, or export a network that takes no time$"
    with pytest.raises(UserError, match=said):
        other.sample("first_hitting:4", [0], {"class": [0]})
    assert sum(state.is_evaluated for state in other.steps("mdlm:60", [0], {"class": [0]})) > 30


def test_a_network_without_conditions_loses_a_time_that_it_does_not_read(tmp_path):
    export(ExportOptions(f"{token_denoiser.__file__}:unconditional", tmp_path / "plain", verify="quick"))
    plain = load(tmp_path / "plain")
    assert not plain.network().inputs.has_time
    assert plain.sample("first_hitting:4", [0]).shape == (1, 2, 12)
    assert sum(state.is_evaluated for state in plain.steps("mdlm:60", [0])) <= 24  # positions
    compiled = plain.compile("maskgit:4")
    with pytest.raises(UserError, match="'maskgit:4' is one plan"):
        plain.sample_each(compiled, [0, 1])


def test_an_onnx_file_of_tokens_needs_no_time(sampler, tmp_path):
    class Timeless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coded = Coded()

        def forward(self, ids, label):
            return self.coded(ids, None, label)

    named = {"input_names": ["input_ids", "class"], "output_names": ["logits"]}
    axes = ({0: torch.export.Dim("batch")}, {0: torch.export.Dim("batch")})
    example = (torch.zeros(3, 2, 12, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    file = tmp_path / "coded.onnx"
    with cache_operations():
        torch.onnx.export(Timeless().eval(), example, file, dynamo=True, dynamic_shapes=axes, verbose=False, **named)
    written = msgspec.to_builtins(
        {name: getattr(spec(), name) for name in ("name", "x_shape", "conditions", "prediction")}
    )
    written |= {"schedule": {"kind": "flow"}, "vocabulary": {"size": 16, "mask": 16}}
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(written | {"x": "input_ids", "output": "logits"}))
    export(ExportOptions(str(file), tmp_path / "bundle", spec=tmp_path / "spec.json", verify="quick"))
    other = load(tmp_path / "bundle")
    assert not other.network().inputs.has_time
    assert (other.sample("llada:3", [0], {"class": [1]}) == sampler.sample("llada:3", [0], {"class": [1]})).all()


def test_a_scheduler_of_a_spec_is_a_plan(bundle_with_time):
    own = load(bundle_with_time)
    plan = own.compile("scheduler:5", 2.0)
    assert plan.name == "scheduler:5"
    assert plan.steps == own.compile("maskgit(linear=True):5", 2.0).steps
    x = own.with_options(length=20).sample("scheduler:5", [3], {"class": [1]})
    assert (x == own.with_options(length=20).sample("maskgit(linear=True):5", [3], {"class": [1]})).all()
    assert main(["plan", "--show", "scheduler:5", "--bundle", str(bundle_with_time)]) == 0


def test_tokens_have_one_network(sampler):
    manifest = sampler.bundle.manifest
    carrying = msgspec.structs.replace(manifest, carried=(Carried("keys", (4,)),))
    assert next(manifest_problems(carrying)) == ("vocabulary", "a token denoiser cannot have carried tensors")
    several = msgspec.structs.replace(manifest, networks={"noisy": SimpleNamespace(until=0.0)})
    assert "has one network" in next(said for field, said in manifest_problems(several) if field == "networks")
    with refuses(("vocabulary", "noisy")):
        _check(Expert("noisy", 0.0, lambda: None), spec(), spec())


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (np.full((1, 2, 12), 1.7), "x contains float64"),
        (np.full((1, 2, 12), -1), "x contains -1, an id outside the vocabulary.*16 at masked positions"),
        (np.full((1, 2, 12), 99), "x contains 99, an id"),
        (np.zeros((1, 3, 12), int), r"x has the shape \[1, 3, 12\]"),
        ([[1], [2, 3]], "x is not an array of numbers"),
    ],
)
def test_the_bare_network_takes_ids(sampler, ids, said):
    with pytest.raises(UserError, match=said):
        sampler.evaluate(ids, 500.0, {"class": [0]})


def test_logits_bound_how_many_samples_run_together(sampler):
    manifest = msgspec.structs.replace(sampler.bundle.manifest, vocabulary=Vocabulary(1024, 1024))
    options = RunOptions(Path("bundle"), samples=50)
    assert [batch_size(options, each) for each in (sampler.bundle.manifest, manifest)] == [50, 2]  # of 2 x 12 tokens


def test_a_module_of_another_vocabulary_says_what_to_return():
    with pytest.raises(UserError, match="a last axis of 20 logits"):
        from fewstep.export.trace import trace

        trace(Coded(), spec(vocabulary=Vocabulary(20, 16)))


def test_a_mask_beyond_the_embedding_is_refused_before_the_export():
    from fewstep.export.trace import trace

    with pytest.raises(UserError, match="out of range.* allows ids to 15, the mask 200, class 0 to 2, 3 for none"):
        trace(Coded(), spec(vocabulary=Vocabulary(IDS, 200)))


@pytest.mark.parametrize("verb", ["choose", "fit", "build"])
def test_verbs_of_continuous_samples_say_so(verb, exported_tokens, capsys):
    more = {"fit": ["--steps", "4"]}
    assert main([verb, str(exported_tokens), *more.get(verb, [])]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"is a token denoiser, and {verb} supports only continuous samples; compare bodies with fewstep report" in said
    )
    assert said.endswith("and plans with fewstep measure, --plan and -o")


def test_runs_that_compose_say_so(sampler):
    for run in (
        lambda: population(sampler, "maskgit:4", lambda *_: 0.0, [0], condition={"class": [0]}),
        lambda: sampler.sample_each(["maskgit:4"], [0], {"class": [0]}),
    ):
        with pytest.raises(UserError, match="is for tokens"):
            run()


def test_the_command_line_writes_ids_and_shows_plans(exported_tokens, tmp_path, capsys):
    file = tmp_path / "x.npy"
    assert main(["run", str(exported_tokens), "-n", "3", "-o", str(file), "-c", "class=1"]) == 0
    x = np.load(file)
    assert (x.dtype, x.shape) == (np.int64, (3, 2, 12))
    known = np.full((2, 12), -1)
    known[:, :4] = 5
    np.save(tmp_path / "known.npy", known)
    asked = ["run", str(exported_tokens), "-n", "2", "-o", str(file), "-c", "class=1", "--known"]
    assert main([*asked, str(tmp_path / "known.npy")]) == 0
    assert (np.load(file)[:, :, :4] == 5).all() and (np.load(file) >= 0).all()
    np.save(tmp_path / "each.npy", np.stack([known, np.full((2, 12), 3)]))  # samples take them in turn
    assert main([*asked, str(tmp_path / "each.npy")]) == 0
    assert (np.load(file)[0, :, :4] == 5).all() and (np.load(file)[1] == 3).all()
    np.save(tmp_path / "short.npy", known[:, :5])
    for wrong, said in (("short.npy", "has the shape [2, 5]"), ("none.npy", "cannot be read (No such file")):
        assert main([*asked, str(tmp_path / wrong)]) == 1
        assert said in capsys.readouterr().err
    assert main(["run", str(exported_tokens), "-n", "3"]) == 1
    assert "are tokens, not images; write a .npy file" in capsys.readouterr().err
    assert main(["run", str(exported_tokens), "-o", str(file), "--clip", "1"]) == 1
    assert "--clip does not apply to a token denoiser" in capsys.readouterr().err
    assert main(["plan", "--show", "maskgit:4", "--bundle", str(exported_tokens)]) == 0
    assert "maskgit:4 for [2, 12] tokens of 16 ids: at most 4 evaluations" in capsys.readouterr().out
    assert main(["plan", "--show", "maskgit:4"]) == 1
    assert "depends on the number of tokens; name a token bundle" in capsys.readouterr().err
    assert main(["inspect", str(exported_tokens), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["vocabulary"] == {"size": 16, "mask": 16}
    assert main(["verify", str(exported_tokens)]) == 0
