"""Each paper as a composition of parts, by its name."""

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

compose_as("oat", "Once-for-all adversarial training (Wang et al., NeurIPS 2020): dual norms and FiLM.", Dual, Film)
compose_as("oats", "OAT and slimming (same paper, §3.3): λ and width, two live dials.", Dual, Film, Slim)
compose_as(
    "float", "FLOAT (Kundu et al., WACV 2023): dual norms and noise on the weights, trained in halves.", Dual, Noise
)
compose_as("float-slim", "FLOAT with widths (same paper).", Dual, Noise, Slim)
compose_as("floats", "Sparse FLOAT by non-iterative pruning (same paper).", Dual, Noise, Masks)
compose_as(
    "smart",
    "Sparse mixture once-for-all (Kundu et al., ICASSP 2023): two expert paths, a reconstruction.",
    Dual,
    Experts,
)
compose_as("rdi", "RDI-Nets (Hu et al., ICLR 2020): exits trained jointly and attacked together.", Exits)
compose_as(
    "rdi-slim-dual",
    "Exits, widths and a dual norm (ours): three live dials, robustness × width × exit.",
    Exits,
    Dual,
    Slim,
    defence="average",
)
compose_as("dual", "A dual norm and nothing else (ours): the baseline that richer conditioning must beat.", Dual)
compose_as("pgd-at", "Adversarial training at one fixed λ: a dedicated model.", Dedicated)
compose_as(
    "mixing", "Logit mixing of a standard and a robust network (a baseline): two models, two passes between.", Mixing
)
