"""AutoAttack (pyautoattack) on one point of a dialled model: `model.at(...)` is a plain module."""

import torch
from pyautoattack import AutoAttack

import rheostat
from rheostat import data

model = rheostat.load("oat-digits").at(robustness=1.0)
_, test = data.load("digits")
x, y = data.to_pixels(test.images[:40]), test.labels[:40]

attack = AutoAttack(model, norm="Linf", eps=0.1, seed=0, version="standard", device="cpu")
moved, said = attack.run_standard_evaluation(x, y, batch_size=40)

with torch.no_grad():
    clean = (model(x).argmax(1) == y).float().mean()
print(f"clean {100 * clean:.1f} %, AutoAttack {100 * (said == y).float().mean():.1f} %")
