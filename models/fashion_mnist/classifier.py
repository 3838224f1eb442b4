"""A small classifier of Fashion-MNIST, whose 64 features serve as the named extractor `fashion-mnist-cnn`.

Distances between sets of samples are taken between these features (`fewstep.calibration.evaluation.distance`).
Evaluation runs it without torch: `train_classifier.py` writes it as ONNX, the only form that is shipped.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE

FEATURES = 64  # few beside the samples of a distance (2 000), so that their covariance is well determined
DROPOUT = 0.3  # of what the features are made from, in training
WEIGHTS = "fashion-mnist-cnn.safetensors"  # of a training run
GRAPH = "fashion-mnist-cnn.onnx"


class Classifier(nn.Module):
    """Images [B, 1, 28, 28] in [-1, 1] -> features [B, 64], logits [B, 10]. Convolutions and no normalisation."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(IMAGE_SHAPE[0], width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.conv4 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.features = nn.Linear(2 * width * 7 * 7, FEATURES)
        self.logits = nn.Linear(FEATURES, len(CLASSES))
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv3(F.relu(self.conv2(h)))), 2)
        h = F.relu(self.conv4(h)).flatten(1)
        features = self.features(F.dropout(h, DROPOUT, self.training))
        return features, self.logits(F.relu(features))
