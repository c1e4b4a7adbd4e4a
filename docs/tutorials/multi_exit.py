# %%
# # Multi-exit
#
# Easy images can leave a network early. This tutorial trains a small network with exits on handwritten digits, under
# attack, and looks at who leaves where. It takes about a minute.

# %%
from pathlib import Path

import rheostat
from rheostat import EvaluationOptions, Point

changes = ["paper=rdi", "train.epochs=15", "calibrate_dial=false", "attack.steps=2", "net.depth=14"]
changes += ['method={"heads": "light", "defence": "average"}', "name=rdi-digits"]
recipe = rheostat.load_recipe("oat-digits", changes=changes)
trained = rheostat.train(recipe, out=Path("runs/exits"))
model = trained.model
print(", ".join(model.dials))

# %%
# ## The policy
#
# Thresholds on the uncertainty of each exit were fitted on calibration images after training. The dial `exit` scales
# them: at 0 every image takes the last exit, at 1 the fitted policy decides.

# %%
for value in (0.0, 1.0):
    cost = rheostat.observe(model, model.net.image, Point(exit=value))
    print(f"exit = {value:g}: at most {cost.macs / 1e6:.2f} M MACs an image")

# %%
# ## Who leaves where, clean and attacked
#
# An exit that is passed has been paid for: the cost of a row counts every head before the one it leaves by.
# The attack here climbs the loss of the exit that an image takes. A claim needs every form of attack
# (`pgd20@all`): each exit alone, their average, the routed decision, and more.

# %%
test = trained.splits.test
options = EvaluationOptions(eps=recipe.attack.eps)
rows = rheostat.evaluate(model, "exit=0,0.5,1", ["pgd20"], test, options=options)
worst = [row for row in rows if row.attack.name == "worst"]
for row in worst:
    print(
        f"exit = {row.at['exit']:g}: SA {100 * row.clean_accuracy:.1f} %, RA {100 * row.robust_accuracy:.1f} %, "
        f"{row.macs.mean / 1e6:.2f} M MACs on average"
    )

# %%
# ## Attack the cost
#
# An attacker may want the network to be slow instead of wrong. The form `slowdown` pushes every image past the exits.

# %%
slow = rheostat.evaluate(model, "exit=1", ["pgd20@slowdown"], test, options=options)[-1]
print(f"clean    {slow.macs.mean / 1e6:.2f} M MACs an image")
print(f"attacked {slow.macs_attacked.mean / 1e6:.2f} M MACs an image, of {slow.macs_static / 1e6:.2f} M without exits")

# %%
from rheostat.reports.exit_plots import shares_per_exit

shares_per_exit([row for row in worst if row.exit_shares]).savefig("exits.png", dpi=110)
