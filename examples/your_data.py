"""Your images, your network: a class-per-folder tree becomes a model whose robustness is dialled.

    python examples/your_data.py FOLDER [NETWORK] [EPOCHS]

FOLDER holds train/CLASS and test/CLASS with images of any size. NETWORK is package.module:function or a timm name,
"timm:resnet18(num_classes=10)"; without it a small network is trained. Without FOLDER a small tree is made from the
clothes that come with the package. The run is written to runs/your-data; the same command continues it.
"""

import sys
from pathlib import Path

from PIL import Image
from torch import nn

import rheostat
from rheostat import data


def make_network(classes: int) -> nn.Module:
    """A small network for 48 × 48 colour images; put your own here."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def make_tree(folder: Path, each: int = 30) -> Path:
    """A tree of JPEGs of several sizes, `each` of every class in train and a third of them in test."""
    for half, images in zip(("train", "test"), data.load("fashion-mini"), strict=True):
        most = each if half == "train" else each // 3
        for number, label in enumerate(images.labels.tolist()):
            if number // len(images.classes) < most:
                place = folder / half / images.classes[label].replace("/", "-")
                place.mkdir(parents=True, exist_ok=True)
                side = (40, 48, 64)[number % 3]
                picture = Image.fromarray(images.images[number, 0].numpy()).resize((side, 48))
                picture.save(place / f"{number}.jpg")
    return folder


def main(folder: str = "", network: str = "", epochs: str = "2", *, size: int = 48, eps: str = "8/255") -> list:
    """Train, measure and save; the rows of the measurement."""
    tree = Path(folder) if folder else make_tree(Path("runs/your-data/images"))
    rule = data.Preprocessing(size=(size, size))  # shorter side resized, centre cropped
    sets = data.make_splits(*data.load(f"folder:{tree}", preprocessing=rule), calibrate=100)
    mean, std = sets.train.statistics()
    net = network or make_network(len(sets.train.classes))
    model = rheostat.adopt(net, "dual", image=rule.image, mean=mean, std=std)
    options = {"batch": 32, "lr": 0.05, "attack": {"steps": 2}, "augment": "crop-flip", "select": {"images": 50}}
    run = rheostat.fit(model, sets.train, sets.fit, eps=eps, epochs=int(epochs), out="runs/your-data", **options)
    rows = run.evaluate(sets.test, "robustness=0,0.5,1", "pgd10")
    model.save("runs/your-data/mine.safetensors")  # with classes, threat and the rule above
    for row in (row for row in rows if row.attack.name == "worst"):
        print(f"t = {row.at['robustness']:g}: SA {row.clean_accuracy:.3f}, RA {row.robust_accuracy:.3f}, n = {row.n}")
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
