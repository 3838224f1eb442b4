"""A pipeline that a user's function returns, with a user-supplied class and network."""

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from fewstep.export.companions.text import tokenize_prompts
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.pipelines.encode import EncodeOptions, encode
from fewstep.pipelines.recording.live import build_from_pipeline, find_own_encoders
from fewstep.plans.configs.pipelines import PIPELINE, RECORDED
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_file import run_file
from fewstep.runtime.autoencoder import load_autoencoder
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")

FILE = """
import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor

class Net(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 3, 3, padding=1)
        self.label, self.time = torch.nn.Linear(4, 16), torch.nn.Linear(1, 16)

    def forward(self, sample, timestep, label):
        added = self.time(timestep[:, None] / 1000) + self.label(label)
        return self.last(torch.nn.functional.silu(self.first(sample) + added[:, :, None, None]))

class Mine(DiffusionPipeline):
    def __init__(self, net, scheduler):
        super().__init__()
        self.register_modules(net=net, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=10, guidance_scale=3.0, generator=None):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        x = randn_tensor((len(prompts), 3, 8, 8), generator=generator)
        label = torch.tensor([[sum(map(ord, each)) % n / n for n in (7, 11, 13, 17)] for each in prompts])
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            times = time.expand(len(x)).float()
            with_label, without = self.net(x, times, label), self.net(x, times, torch.zeros_like(label))
            guided = without + guidance_scale * (with_label - without)
            x = self.scheduler.step(guided, time, x, return_dict=False)[0]
        return (x,)

def make():
    torch.manual_seed(0)
    return Mine(Net(), DDIMScheduler(clip_sample=False))

def number():
    return 3
"""


PICTURES = (Path(__file__).parents[3] / "docs/examples/own_pipeline.py").read_text()


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    (tmp_path / "painter.py").write_text(PICTURES)
    return tmp_path / "painter.py"


def test_an_own_text_encoder_is_no_denoiser(painter: Path) -> None:
    source, pipeline = load_source(f"{painter}:painter"), run_file(str(painter)).painter()
    assert source.companions is not None and source.companions.text is not None
    text = source.companions.text
    ids = map(torch.from_numpy, tokenize_prompts(text.tokens, ["red cat"]).values())
    with torch.no_grad():
        (label,) = text.companion.load()(*ids)
        torch.testing.assert_close(label, pipeline.encode(["red cat"]))


def test_the_first_argument_of_a_forward_may_have_any_name(painter: Path) -> None:
    text = painter.read_text().replace("def forward(self, ids, mask):", "def forward(net, ids, **others):")
    text = text.replace("(self.mix(self.table(ids)) * mask", "(net.mix(net.table(ids)) * others['mask']")
    painter.write_text(text.replace("ids.attention_mask)", "mask=ids.attention_mask)"))
    companions = load_source(f"{painter}:painter").companions
    assert companions is not None and companions.text is not None


def test_arguments_without_names_are_refused(painter: Path) -> None:
    painter.write_text(
        painter.read_text().replace(
            "def forward(self, ids, mask):", "def forward(self, *words):\n        ids, mask = words"
        )
    )
    with refuses("the forward of a network takes *words", "give each a name"):
        load_source(f"{painter}:painter")


def test_nor_is_one_next_to_a_denoiser_of_diffusers(painter: Path) -> None:
    pipeline = run_file(str(painter)).painter()
    type(pipeline.net).__module__ = "diffusers.models.unets.net"
    assert find_own_encoders(pipeline, "painter", {}) == {"words"}


def test_the_default_guidance_of_a_pipeline_is_stored(painter: Path) -> None:
    scheduler = load_source(f"{painter}:painter").scheduler
    assert scheduler is not None and scheduler[RECORDED]["guidance"] == 3.0


def test_an_autoencoder_built_by_position_has_its_own_sizes(painter: Path) -> None:
    source, pipeline = load_source(f"{painter}:painter"), run_file(str(painter)).painter()
    assert source.companions is not None and source.companions.autoencoder is not None
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        (picture,) = source.companions.autoencoder.decoder.load()(x)
        torch.testing.assert_close(picture, pipeline.vae.decode(x / 0.5).sample.clamp(-1, 1))


def test_an_encoder_of_pictures_has_the_sizes_of_its_pipeline(painter: Path) -> None:
    text = painter.read_text().replace("3, 8, 8), generator", "3, height // 2, width // 2), generator")
    painter.write_text(text.replace('output_type="pt"):', 'output_type="pt", height=16, width=16):'))
    companions, pipeline = load_source(f"{painter}:painter").companions, run_file(str(painter)).painter()
    assert companions is not None and companions.autoencoder is not None
    encoder = companions.autoencoder.encoder
    assert encoder is not None and encoder.at is not None
    resized, picture = encoder.at((3, 12, 6)), torch.rand(1, 3, 24, 12)
    assert resized.inputs[0].shape == ("batch", 3, 24, 12)
    with torch.no_grad():
        (x,) = encoder.load()(picture)
        torch.testing.assert_close(x, pipeline.vae.encode(picture).latent_dist.mode() * 0.5)


def test_a_call_without_a_type_of_output_is_decoded_if_it_returns_tensors(painter: Path) -> None:
    text = painter.read_text().replace(', output_type="pt"):', "):").replace('x if output_type == "latent" else ', "")
    painter.write_text(text)
    companions = load_source(f"{painter}:painter").companions
    assert companions is not None and companions.autoencoder is not None


def test_a_call_that_returns_only_arrays_says_that_its_pictures_are_left_out(
    painter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = painter.read_text().replace(', output_type="pt"):', "):").replace('x if output_type == "latent" else ', "")
    painter.write_text(text.replace(".clamp(0, 1)\n", ".clamp(0, 1).numpy()\n"))
    load_source(f"{painter}:painter")
    assert "the bundle returns x: its call takes no output_type, and returns ndarray, not tensors" in caplog.text


def test_a_constructor_that_registers_other_names_is_refused(painter: Path) -> None:
    text = painter.read_text().replace("def __init__(self, tokenizer, words,", "def __init__(self, tokenizer, own,")
    painter.write_text(text.replace("words=words, net", "words=own, net"))
    with refuses("the constructor of Painter takes other components than it registers", "self.register_modules"):
        load_source(f"{painter}:painter")


@pytest.mark.parametrize(
    ("statement", "error"), [("int('a')", "ValueError: invalid literal"), ("sclae", "NameError: name 'sclae' is not")]
)
def test_the_fix_of_a_failing_call_is_to_run_it(painter: Path, statement: str, error: str) -> None:
    painter.write_text(painter.read_text().replace("prompts = [prompt]", f"{statement}; prompts = [prompt]"))
    run = "run it in Python first: pipeline(output_type='latent', prompt='a red cat on a mat', num_inference_steps=3);"
    number = next(number for number, line in enumerate(painter.read_text().splitlines(), 1) if statement in line)
    with refuses([f"the call of Painter failed: {error}", f"(painter.py:{number})"], run):
        load_source(f"{painter}:painter")


def test_prompts_of_a_pipeline_in_a_file_are_encoded(painter: Path, tmp_path: Path) -> None:
    made = encode(EncodeOptions(f"{painter}:painter", ("red cat", "a big dog"), output=tmp_path / "p.npz"))
    own = run_file(str(painter)).painter().encode(["red cat", "a big dog"])
    np.testing.assert_allclose(made["label"], own.detach().numpy(), atol=1e-6)


def test_encode_needs_a_pipeline(file: Path, tmp_path: Path) -> None:
    with refuses("mine.py:number returns no DiffusionPipeline", "encode texts yourself"):
        encode(EncodeOptions(f"{file}:number", ("a cat",), output=tmp_path / "p.npz"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_samples_of_a_pipeline_of_an_own_class_are_compared(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_source(f"{file}:make")
    assert "mine.py:make: samples of Mine agree within" in caplog.text
    assert "the default guidance of its pipeline is --guidance 3" in caplog.text


def test_conditions_of_an_own_network_have_its_names(file: Path) -> None:
    spec = load_source(f"{file}:make").spec
    assert (spec.name, spec.x_shape) == ("mine.py:make", (3, 8, 8))
    assert [(each.name, each.shape, each.null) for each in spec.conditions] == [("label", (4,), 0.0)]


def test_the_scheduler_is_that_of_the_pipeline(file: Path) -> None:
    scheduler = load_source(f"{file}:make").scheduler
    assert scheduler is not None
    assert (scheduler["_class_name"], scheduler[PIPELINE]) == ("DDIMScheduler", "Mine")


def test_x_that_starts_from_the_prompt_is_refused(file: Path) -> None:
    label = next(line for line in FILE.splitlines(keepends=True) if line.lstrip().startswith("label = "))
    start = "        x = x + 0.1 * label.mean(1)[:, None, None, None]\n"
    file.write_text(FILE.replace(label, label + start))
    with refuses("Mine starts from a different x when the prompt"):
        load_source(f"{file}:make")


def test_guidance_that_ends_after_the_third_step_is_said_to_change(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guided = "guided = without + guidance_scale * (with_label - without)"
    ended = f"{guided} if time > self.scheduler.timesteps[3:4].sum() else with_label"
    file.write_text(FILE.replace(guided, ended))
    load_source(f"{file}:make")
    assert "the guidance of its pipeline changes with the step, unlike --guidance; it begins with" in caplog.text


@pytest.mark.parametrize("names", [("", "", ""), ("original_samples=", "noise=", "timesteps=")])
def test_x_that_starts_from_a_noised_picture_is_accepted(
    file: Path, names: tuple[str, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    times = "        self.scheduler.set_timesteps(num_inference_steps)\n"
    picture = "label.mean(1)[:, None, None, None].expand(x.shape)"
    values = zip(names, (picture, "x", "self.scheduler.timesteps[:1]"), strict=True)
    start = f"        x = self.scheduler.add_noise({', '.join(map(''.join, values))})\n"
    file.write_text(FILE.replace(times, times + start))
    load_source(f"{file}:make")
    assert "its first x contains a part of the image" in caplog.text


def test_x_with_the_noise_of_a_later_step_is_refused(file: Path) -> None:
    times = "        self.scheduler.set_timesteps(num_inference_steps)\n"
    picture = "label.mean(1)[:, None, None, None].expand(x.shape)"
    start = f"        x = self.scheduler.add_noise({picture}, x, self.scheduler.timesteps[1:2])\n"
    file.write_text(FILE.replace(times, times + start))
    with refuses("Mine starts from a different x when the prompt"):
        load_source(f"{file}:make")


def test_a_scheduler_may_add_noise_with_more_arguments(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = """class Own(DDIMScheduler):
    def add_noise(self, original_samples, noise, timesteps, sigmas=None, generator=None):
        return super().add_noise(original_samples, noise, timesteps)

class Mine("""
    text = FILE.replace("class Mine(", own).replace("DDIMScheduler(clip", "Own(clip")
    times = "        self.scheduler.set_timesteps(num_inference_steps)\n"
    unused = "        self.scheduler.add_noise(x, x, self.scheduler.timesteps[:1], None, generator)\n"
    file.write_text(text.replace(times, times + unused))
    load_source(f"{file}:make")
    assert "samples of Mine agree within" in caplog.text


def test_a_converted_prediction_is_measured_and_its_steps_are_stored(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guided = "            guided = without + guidance_scale * (with_label - without)\n"
    text = FILE.replace(guided, guided + "            guided = (x - guided) / (time / 1000)\n")
    file.write_text(
        text.replace("DDIMScheduler(clip_sample=False)", "FlowMatchEulerDiscreteScheduler()").replace(
            "DDIMScheduler,", "FlowMatchEulerDiscreteScheduler,"
        )
    )
    source = load_source(f"{file}:make")
    assert source.spec.prediction == "sample"
    assert source.scheduler is not None and set(source.scheduler["_recorded"]["steps"]) == {"3", "8"}
    assert "samples of Mine agree within" in caplog.text


def test_projected_guidance_is_that_of_the_plan(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = "            guided = without + guidance_scale * (with_label - without)\n"
    projected = """
            average = with_label - without - (0.5 * average if "average" in locals() else 0)
            direction = torch.nn.functional.normalize(with_label, dim=[-1, -2, -3])
            norm = average.flatten(1).norm(dim=1)[:, None, None, None]
            short = average * (6 / norm).clamp(max=1)
            across = short - 0.8 * (short * direction).sum(dim=[-1, -2, -3], keepdim=True) * direction
            guided = with_label + (guidance_scale - 1) * across
"""
    file.write_text(FILE.replace(plain, projected))
    scheduler = load_source(f"{file}:make").scheduler
    assert scheduler is not None
    shaping = scheduler["_recorded"]["shaping"]
    assert (shaping["eta"], shaping["limit"], shaping["momentum"]) == (0.2, 6.0, -0.5)
    assert "--guidance 3, with projected guidance" in caplog.text


def test_noise_that_does_not_follow_from_the_seed_is_accepted(file: Path) -> None:
    file.write_text(FILE.replace("8, 8), generator=generator)", "8, 8))"))
    assert load_source(f"{file}:make").spec.x_shape == (3, 8, 8)


def test_a_call_of_a_function_without_a_pipeline_is_refused(file: Path) -> None:
    with refuses("mine.py:number", "leave --call out"):
        load_source(f"{file}:number", call=("height=8",))


def test_a_pipeline_without_a_scheduler_is_refused(file: Path) -> None:
    file.write_text(FILE + "\ndef bare():\n    return Mine(Net(), None)\n")
    with pytest.raises(UserError, match="mine.py:bare: Mine has no scheduler"):
        load_source(f"{file}:bare")


def test_the_networks_of_a_pipeline_are_unchanged(tmp_path: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(recorded_pipelines.bria(tmp_path / "bria"))
    before = {name: weight.clone() for name, weight in pipeline.text_encoder.state_dict().items()}
    built = build_from_pipeline(pipeline, "bria")
    assert set(built.denoisers) == {"transformer"} and pipeline.transformer.device.type == "cpu"
    assert built.pipeline.transformer.device.type == "meta"
    assert all(torch.equal(before[name], each) for name, each in pipeline.text_encoder.state_dict().items())


def test_an_attribute_of_the_pipeline_changes_its_call(file: Path) -> None:
    factor = 'times = time.expand(len(x)).float() * getattr(self, "sharp", 1.0)'
    sharp = "\ndef sharp():\n    pipeline = make()\n    pipeline.sharp = 0.5\n    return pipeline\n"
    file.write_text(FILE.replace("times = time.expand(len(x)).float()", factor) + sharp)
    time = torch.full((1,), 500.0)
    x, label = torch.zeros(1, 3, 8, 8), torch.ones(1, 4)
    usual, halved = (load_source(f"{file}:{name}").module for name in ("make", "sharp"))
    assert torch.equal(halved(x, time, label), usual(x, time / 2, label))


def test_a_changed_part_of_the_pipeline_is_that_of_the_copy(tmp_path: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(recorded_pipelines.bria(tmp_path / "bria"))
    pipeline.image_processor = pipeline.own = object()
    built = build_from_pipeline(pipeline, "bria").pipeline
    assert built.image_processor is built.own is pipeline.own


@pytest.mark.slow
def test_a_known_pipeline_in_memory_has_its_autoencoder(tmp_path: Path) -> None:
    folder = recorded_pipelines.bria(tmp_path / "bria")
    code = f"""
    from diffusers import BriaPipeline

    def make():
        return BriaPipeline.from_pretrained({str(folder)!r})
    """
    (tmp_path / "mine.py").write_text(dedent(code))
    options = tuple(f"{key}={value}" for key, value in CALLS["bria"].items())
    export(ExportOptions(f"{tmp_path / 'mine.py'}:make", tmp_path / "bundle", call=options, verify="quick"))
    assert load_autoencoder(tmp_path / "bundle").image_shape == (3, 16, 16)
