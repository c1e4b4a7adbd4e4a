# %%
# # Your data and network
#
# A folder of photos of several sizes and a network of your own become one model with a dial, which a service then uses
# on photos of any size. It needs the extra `serve`, `pip install httpx` for the test client at the end, no data and no
# internet connection; it takes about a minute on one core.
#
# ## A folder of images
#
# One folder a class, below `train` and `test` (or `val`). We make one of the clothes that come with the package, as
# JPEGs that are wide, tall and square. Yours needs no such step.

# %%
from pathlib import Path

from PIL import Image

import rheostat
from rheostat import data

folder = Path("photos")
shapes = ((56, 42), (42, 56), (48, 48))
for half, images in zip(("train", "test"), data.load("fashion-mini"), strict=True):
    for number, label in enumerate(images.labels[: 1200 if half == "train" else 300].tolist()):
        place = folder / half / images.classes[label].replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[number, 0].numpy()).resize(shapes[number % 3]).save(place / f"{number}.jpg")
print(*sorted(p.name for p in (folder / "train").iterdir()), sep=", ")

# %%
# ## One size
#
# Without a rule the reader refuses images of several sizes, and says what to give. The rule has a default, `crop`: the
# shorter side is resized with antialiasing, and the centre is cropped. `stretch` and `pad` keep the whole image.

# %%
try:
    data.load(f"folder:{folder}")
except ValueError as error:
    print(error)

rule = data.Preprocessing(size=(28, 28), resize="stretch", mode="L")
sets = data.make_splits(*data.load(f"folder:{folder}", preprocessing=rule), calibrate=300)
print(rule.image, len(sets.train), len(sets.test))

# %%
# A tree that does not fit in memory is read image by image: `train, test = data.read_folder(folder, rule,
# in_memory=False)`, and `train, validation = train.held_out(500)` holds out images for validation. Pass these two to
# `fit`.
#
# ## A network
#
# Any module that maps images to logits. `adopt` gives it a dial and keeps its weights; the mean and standard deviation
# go inside, so that pixels stay in [0, 1].

# %%
from torch import nn


def make_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10)),
    )


mean, std = sets.train.statistics()
model = rheostat.adopt(make_network, "dual", image=rule.image, mean=mean, std=std)
print(model)

# %%
# ## Train
#
# `fit` trains with adversarial images of radius `eps`, selects weights and calibrates the dial on the validation images
# alone. The same call continues a run that was killed. The weights kept are those of the best scored epoch among the
# last third. If the output shows the flag `robust-overfitting`, robust accuracy fell on the validation images while it
# rose on the training images, of which there are few.

# %%
run = rheostat.fit(
    model, sets.train, sets.fit, eps="16/255", epochs=12, batch=50, lr=0.05, out="runs/photos", attack={"steps": 3}
)
print(run)

# %%
# ## Measure

# %%
rows = run.evaluate(sets.test, "robustness=0:1:0.25", "pgd20")
for row in (row for row in rows if row.attack.name == "worst"):
    print(f"t = {row.at['robustness']:g}   SA {100 * row.clean_accuracy:.1f} %   RA {100 * row.robust_accuracy:.1f} %")
rheostat.plot(rows, title=f"PGD-20, test, n = {rows[0].n}").savefig("dial.png", dpi=110)

# %%
# With 300 images the intervals are wide, and 900 training images are few: look at the shape, not at the numbers.
#
# ## One file
#
# The file holds the weights, the classes and the rule, but not the network's code: `load` takes what makes it.

# %%
path = model.save("photos.safetensors")
again = rheostat.load(path, net=make_network)
print(again.about.classes)
print(again.about.preprocessing)

# %%
# ## Choose a point
#
# A point is chosen on images that nothing else has seen, never on the test images. `choose` keeps points whose lower
# confidence bounds meet the limits, and `store_point` puts one into the file under a name, with its numbers.

# %%
from rheostat import Need
from rheostat.deploy.named_points import store_point

measured = run.evaluate(sets.choose, "robustness=0:1:0.25", "pgd20")
found = rheostat.choose(measured, Need(min_clean=0.6), maximise="robust")
best = found.chosen
assert best is not None
numbers = store_point(str(path), "safe", best, found, images=(sets.fit, sets.choose), net=make_network)
print(best.point.label())
print(
    f"RA {100 * best.robust:.1f} % (at least {100 * best.robust_bound:.1f}), temperature {numbers['temperature']:.2f}"
)

# %%
# ## Any photo
#
# A service reads the rule from the file. We send it a test photo as it lies on the disk, and compare with the pixels
# that the evaluation saw.

# %%
from fastapi.testclient import TestClient

from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.policy import Policy

served = service(str(path), backend="torch", net=f"{__name__}:make_network")
photo = sorted((folder / "test" / "Trouser").glob("*.jpg"))[0]
with TestClient(make_app(served, Policy(("safe",), 50.0, None))) as client:
    answer = client.post("/v1/predict", content=photo.read_bytes(), headers={"content-type": "image/jpeg"}).json()
print(Image.open(photo).size, "->", answer["labels"])
own = rheostat.load(path, net=make_network).at("safe").probabilities(data.to_pixels(rule.read(photo))[None])
print("as the model itself says:", round(float(own.max()), 4) == round(max(answer["probabilities"][0]), 4))
