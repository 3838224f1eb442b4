"""A checkpoint is refused in one line, which says what to write."""

from pathlib import Path

import pytest

from fewstep.export.export import load_source
from fewstep.plans.errors import UserError


@pytest.mark.parametrize("name", ["edm-cifar10-32x32-cond-vp.pkl", "folder/unet.PTH", "last.ckpt"])
def test_a_pickle_is_not_opened(name: str) -> None:
    with pytest.raises(UserError, match="runs code") as error:
        load_source(name)
    assert Path(name).name in error.value.what and "FILE.py:FUNCTION" in error.value.fix


def test_weights_alone_are_no_denoiser(tmp_path: Path) -> None:
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="holds weights only.*FILE.py:FUNCTION"):
        load_source(str(file))


@pytest.mark.parametrize(
    ("config", "content", "file"),
    [
        ("model_index.json", "{}", "unet/diffusion_pytorch_model.safetensors"),
        ("config.json", '{"type": "diffusion"}', "model.safetensors"),
    ],
    ids=["diffusers", "lerobot"],
)
def test_weights_in_a_folder_that_is_a_source_name_it(tmp_path: Path, config: str, content: str, file: str) -> None:
    (tmp_path / config).write_text(content)
    with pytest.raises(UserError) as error:
        load_source(str(tmp_path / file))
    assert error.value.fix == f"give its folder, {tmp_path}"
