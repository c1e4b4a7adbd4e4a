"""The papers as named compositions of methods."""

from __future__ import annotations

from rheostat.methods.composition import compose_as
from rheostat.methods.dedicated import Dedicated
from rheostat.methods.dual import Dual
from rheostat.methods.exits import Exits
from rheostat.methods.experts import Experts
from rheostat.methods.film import Film
from rheostat.methods.masks import Masks
from rheostat.methods.mixing import Mixing
from rheostat.methods.noise import Noise
from rheostat.methods.slim import Slim

OAT = {"encoding": "orthogonal", "dim": 128, "initialisation": "paper", "ones_clean": True, "between": "at-0"}
"""Options of a paper's published recipe that differ from ours; the docstring of each method lists them."""
FLOAT = {
    "draw": "sampled",
    "correction": 1,
    "decayed_alpha": True,
    "clean_through_adversarial_norm": True,
    "late_attack": True,
    "threshold": 0.6,
    "between": "at-0.1",
}
FLOATS = {**FLOAT, "under_masks": False, "gradients": "dense", "growth": "capped"}
SMART = {"masks": "random", "overlap": "disjoint", "density": 0.5, "shared_stages": 2}
"""From the authors' earlier public code, because we did not have the text of SMART's own rule."""
RDI = {"heads": "paper", "defence": "max-average"}

compose_as(
    "oat", "Once-for-all adversarial training (Wang et al., NeurIPS 2020): dual norms and FiLM.", Dual, Film, paper=OAT
)
compose_as(
    "oats",
    "OAT and slimming (same paper, §3.3): λ and width, two live dials.",
    Dual,
    Film,
    Slim,
    paper={**OAT, "joint_slices": True},
)
compose_as(
    "float",
    "FLOAT (Kundu et al., WACV 2023): dual norms and noise on the weights, trained in halves.",
    Dual,
    Noise,
    paper=FLOAT,
)
compose_as("float-slim", "FLOAT with widths (same paper).", Dual, Noise, Slim, paper=FLOAT)
compose_as("floats", "Sparse FLOAT by non-iterative pruning (same paper).", Dual, Noise, Masks, paper=FLOATS)
compose_as(
    "smart",
    "Sparse mixture once-for-all (Kundu et al., ICASSP 2023): two expert paths, a reconstruction.",
    Dual,
    Experts,
    paper=SMART,
)
compose_as("rdi", "RDI-Nets (Hu et al., ICLR 2020): exits trained jointly and attacked together.", Exits, paper=RDI)
compose_as(
    "rdi-slim-dual",
    "Exits, widths and a dual norm (ours): three live dials, robustness × width × exit.",
    Exits,
    Dual,
    Slim,
    defence="average",
)
compose_as("dual", "A dual norm and nothing else (ours): the baseline that richer conditioning must beat.", Dual)
compose_as("pgd-at", "Adversarial training at one fixed λ: a dedicated model.", Dedicated, paper={})
compose_as(
    "mixing", "Logit mixing of a standard and a robust network (a baseline): two models, two passes between.", Mixing
)
