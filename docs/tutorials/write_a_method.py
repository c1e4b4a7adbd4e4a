# %%
# # Write a method
#
# A method is one frozen dataclass. This one gives every norm a learned gain per channel, scaled by the dial. It takes
# half a minute. The same in fewer words is in CONTRIBUTING.
#
# ## The part
#
# A method gives parts to seats and never subclasses layers. A `Modulation` takes the scales and shifts of a norm, one
# row per setting of the dial, and returns new ones.

# %%
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import rheostat
from rheostat import EvaluationOptions, Point
from rheostat.methods import Method, compose_as, register
from rheostat.methods.dual import Dual
from rheostat.nn.layers import seats
from rheostat.nn.norms import Modulation, Norm


class Gain(Modulation):
    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels))  # at the start the plain network

    def forward(self, scale, shift, at):
        gain = 1 + at.robustness.table[:, None] * self.gain[: scale.shape[1]]
        return scale * gain, shift * gain


# %%
# ## The method
#
# `claims` is what it gives parts to, and `reads` the dial that it needs. A stack that lacks the dial, or in which two
# methods claim the same, is refused by name.


# %%
@register
@dataclass(frozen=True)
class Gains(Method):
    seam = 30
    claims = "norm modulation"
    reads = ("robustness",)

    def dials(self):
        return ()

    def install(self, net):
        for norm in seats(net, Norm):
            if norm.conditioned:
                norm.modulations.append(Gain(norm.channels))


compose_as("gains", "A dual norm and a gain a channel.", Dual, Gains)
try:
    rheostat.Stack(Gains())
except ValueError as error:
    print(error)

# %%
# ## Train it like any other

# %%
changes = ["paper=gains", "method={}", "train.epochs=20", "name=gains-digits"]
recipe = rheostat.load_recipe("oat-digits", changes=changes)
trained = rheostat.train(recipe, out=Path("runs/gains"))
print(trained.model.method)

# %%
# ## Measure it like any other
#
# Attacks, folding, export and serving need no line of code from the method.

# %%
options = EvaluationOptions(eps=recipe.attack.eps)
rows = rheostat.evaluate(trained.model, "robustness=0:1:0.25", ["pgd20"], trained.splits.test, options=options)
for row in (r for r in rows if r.attack.name == "worst"):
    print(f"t = {row.at['robustness']:g}   SA {100 * row.clean_accuracy:.1f} %   RA {100 * row.robust_accuracy:.1f} %")

images = trained.splits.test.images[:8] / 255
plain = rheostat.fold(trained.model, Point(robustness=1.0))
print("folds:", torch.allclose(plain(images), trained.model(images, Point(robustness=1.0)), atol=1e-4))

# %%
from rheostat.reports import along_dial

along_dial(rows).savefig("gains.png", dpi=110)
