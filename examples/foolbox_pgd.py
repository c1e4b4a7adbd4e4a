"""Foolbox's PGD at several points of one model, without loading it twice."""

import foolbox
import torch

import rheostat
from rheostat import data

model = rheostat.load("oat-digits")
_, test = data.load("digits")
x, y = data.to_pixels(test.images[:100]), test.labels[:100]

for robustness in (0.0, 0.5, 1.0):
    point = foolbox.PyTorchModel(model.at(robustness=robustness), bounds=(0, 1))
    torch.manual_seed(0)
    _, _, fooled = foolbox.attacks.LinfPGD(steps=20)(point, x, y, epsilons=[0.1])
    print(f"robustness {robustness:g}: {100 * (1 - fooled.float().mean()):.1f} % stand")
