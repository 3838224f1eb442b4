"""A classifier of Fashion-MNIST that steers nothing: it judges samples which the shipped classifier has steered.

It shares neither layers nor training with the shipped one: strides in the place of pooling, batch normalisation, GELU,
an average over the picture, no mirrored pictures.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.models.fashion_mnist.data import read

STEPS, BATCH, RATE, SEED = 2000, 128, 2e-3, 7


class Judge(nn.Module):
    """Images [B, 1, 28, 28] in [-1, 1] -> logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64, 64)
        strides = (1, 2, 2, 1)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.GELU(),
                )
                for before, after, stride in zip(widths, widths[1:], strides, strict=False)
            )
        )
        self.logits = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.layers(x).mean((2, 3)))
        return logits


def trained(file: Path) -> Judge:
    """The judge of a file, which is trained where there is none: some minutes of one thread."""
    judge = Judge()
    if file.exists():
        judge.load_state_dict(torch.load(file, weights_only=True))
        return judge.eval()
    torch.manual_seed(SEED)
    images, labels = (torch.from_numpy(part.copy()) for part in read(split="train"))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (BATCH,))
        x = F.pad(images[rows][:, None].float() / 127.5 - 1, (2,) * 4, value=-1.0)
        down, right = torch.randint(5, (2,)).tolist()
        loss = F.cross_entropy(judge(x[:, :, down : down + 28, right : right + 28]), labels[rows].long())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        plan.step()
    torch.save(judge.state_dict(), file)
    return judge.eval()


@torch.no_grad()
def accuracy(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Share of images [N, 1, 28, 28] in [-1, 1] that it takes for their label."""
    guesses = torch.cat([judge(part).argmax(1) for part in images.split(500)])
    return (guesses == labels).float().mean().item()


if __name__ == "__main__":
    judge = trained(Path("judge.pt"))
    images, labels = (torch.from_numpy(part.copy()) for part in read(split="t10k"))
    share = accuracy(judge, images[:, None].float() / 127.5 - 1, labels.long())
    print(f"{100 * share:.2f} % of the 10 000 test images")
