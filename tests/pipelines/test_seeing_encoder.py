"""A pipeline whose text encoder also sees a picture, from its prompts to its own x."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.pipelines.encode import EncodeOptions, encode
from fewstep.plans.names.user_file import run_file
from fewstep.runtime.sampling.loading import load

pytest.importorskip("diffusers")
from tests.pipelines.recording.test_live import PICTURES

PROMPT, STEPS = "a big dog on a cat", 3
WORDS = """
class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, rows, mask):
        return (self.mix(rows).tanh() * mask[..., None]).sum(1)

class Words(nn.Module):  # of neither diffusers nor transformers
    def __init__(self):
        super().__init__()
        self.table, self.tower, self.body = nn.Embedding(9, 4), nn.Linear(12, 4), Body()

    def forward(self, ids, mask, pixels):
        places = (ids == 8)[..., None]
        return self.body(self.table(ids).masked_scatter(places, self.tower(pixels)), mask=mask)

"""
ENCODE = """
    def encode(self, prompts, image):
        pixels = torch.from_numpy(np.asarray(image.convert("RGB").resize((4, 2)), "float32") / 255).reshape(2, 12)
        options = dict(padding="max_length", truncation=True, max_length=10, return_tensors="pt")
        texts = [self.tokenizer(f"# # {prompt}", **options) for prompt in prompts]
        return torch.cat([self.words(text.input_ids, text.attention_mask, pixels) for text in texts])

"""
CHANGES = {
    "__call__(self, prompt": "__call__(self, image, prompt",
    'self.encode(prompts), self.encode([""] * len(prompts))': (
        'self.encode(prompts, image), self.encode([""] * len(prompts), image)'
    ),
    '"dog"]': '"dog", "#"]',
    "TOKENS = 6 ": "TOKENS = 10 ",
}


def write_editor(path: Path) -> Path:
    """Write a file whose function returns the pipeline."""
    start, end = PICTURES.index("class Words("), PICTURES.index("class Painter(")
    text = PICTURES[:start] + "import numpy as np\n" + WORDS + PICTURES[end:]
    start = text.index("    def encode(")
    end = text.index("    @torch.no_grad()", start)
    text = text[:start] + ENCODE.lstrip("\n") + text[end:]
    for before, after in CHANGES.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_device_takes_prompts_for_an_encoded_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, bundle, picture = write_editor(tmp_path / "editor.py"), tmp_path / "bundle", tmp_path / "in.png"
    pixels = np.random.default_rng(5).integers(0, 256, (32, 32, 3)).astype("uint8")
    Image.fromarray(pixels).save(picture)
    export(ExportOptions(f"{source}:painter", bundle, verify="quick"))
    options = EncodeOptions(f"{source}:painter", image=(str(picture),), output=tmp_path / "picture.npz")
    assert {name: value.shape for name, value in encode(options).items()} == {"words_picture": (1, 2, 4)}
    output, plan = tmp_path / "x.npy", f"scheduler:{STEPS}"
    words = ["-p", PROMPT, "--guidance", "3", "--plan", plan, "-o", str(output)]
    assert main(["run", str(bundle), "--conditions", str(options.output), *words]) == 0
    with load(bundle) as sampler:
        noise = torch.from_numpy(sampler.draws([0])(0))
    pipeline = run_file(str(source)).painter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(type(pipeline).__call__.__wrapped__.__globals__, "randn_tensor", lambda *_, **__: noise)
        own = pipeline(Image.open(picture), PROMPT, num_inference_steps=STEPS, output_type="latent")
    np.testing.assert_allclose(np.load(output), own.numpy(), rtol=1e-5, atol=1e-4)
    encoded = EncodeOptions(options.source, (PROMPT,), image=options.image, output=tmp_path / "prompt.npz")
    encode(encoded)
    assert main(["run", str(bundle), "--conditions", str(encoded.output), "--plan", plan, "-o", str(output)]) == 0
    own_place = ["-p", "a # on a cat", *words[2:]]
    assert main(["run", str(bundle), "--conditions", str(options.output), *own_place]) == 1
    assert "'a # on a cat' contains the token 8, which stands for a part of the picture" in capsys.readouterr().err
    assert main(["run", str(bundle), *words]) == 1
    assert "encodes prompts with the condition 'words_picture', which is missing" in capsys.readouterr().err
