"""Which part of a network gets features of a picture."""

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.recording.seen_pictures import watch_parts

PICTURE, WIDTH = 9, 4
IDS = torch.tensor([[1, 9, 9, 2]])


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, embeddings: Tensor, mask: Tensor | None = None) -> Tensor:
        made: Tensor = self.layer(embeddings)
        return made


class Sees(nn.Module):
    """Embeds ids, and replaces the embeddings of some by features of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.tower, self.body = nn.Embedding(10, WIDTH), nn.Linear(3, WIDTH), Body()

    def forward(self, ids: Tensor, picture: Tensor, replaced: Tensor) -> Tensor:
        embeddings = self.words(ids)
        embeddings = embeddings.masked_scatter(replaced[..., None], self.tower(picture))
        made: Tensor = self.body(embeddings, mask=torch.ones_like(ids))
        return made


def test_the_part_that_gets_the_features_is_found() -> None:
    network, picture = Sees(), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), watch_parts(network, IDS) as parts:
        returned = network(IDS, picture, IDS == PICTURE)
    (part,) = parts.values()
    assert part.picture is not None and part.entry == "body.forward"
    assert (part.picture.argument, part.picture.embedding) == ("embeddings", "words")
    assert part.picture.token == PICTURE and part.returned is returned
    assert torch.equal(part.picture.features, network.tower(picture).detach())
    assert part.arguments.keys() == {"embeddings", "mask"} and part.takes >= {"embeddings", "mask"}


@pytest.mark.parametrize("replaced", [[0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
def test_features_in_other_places_than_those_of_one_id_are_none(replaced: list[int]) -> None:
    network = Sees()
    with torch.no_grad(), watch_parts(network, IDS) as parts:
        network(IDS, torch.randn(sum(replaced), 3), torch.tensor([replaced]).bool())
    assert not parts


def test_no_hook_stays() -> None:
    network = Sees()
    with watch_parts(network, IDS):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
