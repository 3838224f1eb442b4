"""Train the feature extractor: `python -m benchmarks.shipped.cifar10_classifier --work FOLDER --data FOLDER`."""

from benchmarks.shipped.classifiers import Classified, train_classifier
from fewstep.models.cifar10 import data
from fewstep.models.cifar10.unet import IMAGE_SHAPE

CIFAR10 = Classified(
    name="cifar10-cnn",
    title="CIFAR-10",
    about="(Krizhevsky 2009), whose authors state no licence and ask that the report be cited",
    x_shape=IMAGE_SHAPE,
    classes=len(data.CLASSES),
    width=48,
    shift=3,
    read=data.read,
    test_split="test",
    module="benchmarks.shipped.cifar10_classifier",
    folder=None,
    how_to_get=f"folder of the package's files: {data.HOW_TO_GET}",
)

if __name__ == "__main__":
    train_classifier(CIFAR10, steps=8_000)
