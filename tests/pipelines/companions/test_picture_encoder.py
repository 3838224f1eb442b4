"""The encoder of a recorded pipeline's pictures takes those of the size and the channels that are decoded."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.companions.picture_encoder import RecordedEncoder
from fewstep.pipelines.recording.element_map import ElementMap

LATENTS = (2, 4, 4)


class Autoencoder(nn.Module):
    """Halves a picture. The mean of its distribution is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 2, 2, 2)

    def encode(self, picture: Tensor, return_dict: bool) -> tuple[object]:
        mean = self.network(picture)
        return (SimpleNamespace(mode=lambda: mean),)


@pytest.mark.parametrize(("shape", "is_taken"), [((3, 8, 8), True), ((3, 2, 2), False), ((1, 8, 8), False)])
def test_a_picture_of_another_size_or_of_other_channels_is_not_taken(
    shape: tuple[int, int, int], is_taken: bool
) -> None:
    encoder = RecordedEncoder(Autoencoder(), ElementMap(torch.arange(32), LATENTS, LATENTS, torch.ones(LATENTS)))
    assert encoder.takes(shape) is is_taken
