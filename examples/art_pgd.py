"""The Adversarial Robustness Toolbox on one point of a dialled model."""

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

import rheostat
from rheostat import data

model = rheostat.load("oat-digits").at(robustness=1.0)
_, test = data.load("digits")
x, y = data.to_pixels(test.images[:100]).numpy(), test.labels[:100].numpy()

classifier = PyTorchClassifier(
    model=model, loss=torch.nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10, clip_values=(0, 1)
)
attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.0125, max_iter=20, num_random_init=1, verbose=False)
said = classifier.predict(attack.generate(x, y)).argmax(1)
print(f"clean {100 * np.mean(classifier.predict(x).argmax(1) == y):.1f} %, PGD {100 * np.mean(said == y):.1f} %")
