# %%
# # Evaluate and believe
#
# A robust accuracy is what is left after a search for adversarial images. A weak search flatters. This tutorial shows
# three ways to see whether a number is worth believing, on the model that ships with the package. It takes about a
# minute.

# %%
import rheostat
from rheostat import EvaluationOptions, data

model = rheostat.load("oat-digits")
few = data.subset(data.load("digits")[1], 100)
print(f"{len(few)} of 360 test images; trained against eps 0.2")

# %%
# ## One attack, and its interval
#
# A hundred images give wide intervals. Never compare two numbers without them.

# %%
options = EvaluationOptions(eps=0.2)


def show(rows):
    for row in rows:
        low, high = row.interval.robust
        print(
            f"{row.attack.name:>12}  RA {100 * row.robust_accuracy:5.1f} % [{100 * low:.0f}, {100 * high:.0f}]  "
            f"{', '.join(row.flags) or 'no flag'}"
        )


show(rheostat.evaluate(model, "robustness=1", ["fgsm"], few, options=options))

# %%
# ## Stronger attacks
#
# Each attack runs only on images that the earlier ones failed to fool, so RA falls from line to line, and `worst` is
# what all of them leave. If the last attack still finds something, there may be more to find.

# %%
ladder = rheostat.evaluate(model, "robustness=1", ["fgsm", "pgd20", "apgd-ce", "square"], few, options=options)
show(ladder)

# %%
# ## A defence that only hides its gradients
#
# Round the pixels inside the model, and gradient attacks find nothing: the gradient of rounding is zero. RA looks
# better than that of a trained defence. The checks notice, and put a flag on the row.

# %%
from torch import nn


class Rounded(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((x * 4).round() / 4)


hidden = Rounded(model.at(robustness=0.0))
fooled = rheostat.evaluate(hidden, None, ["pgd20"], few, options=EvaluationOptions(eps=0.2, probing=True))
show(fooled)

# %%
# What a flag means and what to do about it is in [evaluation](../evaluation.md). In scripts use
# `rheostat evaluate --strict`: it exits with 3 where a flag is raised.
#
# ## What the attacker knows
#
# A dial can also be attacked through what is not known of it: images made at another point, or an attacker who may
# choose the point.

# %%
rows = rheostat.evaluate(model, "robustness=0,0.5,1", ["pgd20"], few, options=EvaluationOptions(eps=0.2, transfer=True))
for row in rows:
    if row.knowledge in ("unknown", "chosen") or row.attack.name == "worst":
        at = f"t = {row.at['robustness']:g}" if row.at else "any point"
        flags = f"   {', '.join(row.flags)}" if row.flags else ""
        print(f"{row.knowledge:>8} attacker, {at}: RA {100 * row.robust_accuracy:.1f} %{flags}")

# %%
# In the middle of the dial, the attacker who does not know the point fools more images than PGD-20 made at the point
# itself. So PGD-20 at that point is too weak: whoever knows the point can use the other images too. The flag
# `transfer-beats-known` says so; report the strongest attack.

# %%
from rheostat.reports.evaluation_plots import transfer_map

figure = transfer_map(rows)
figure.savefig("transfer.png", dpi=110)
