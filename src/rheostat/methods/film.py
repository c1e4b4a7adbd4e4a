"""FiLM conditioning on λ: per-channel γ(λ)·h + β(λ) after each normalisation.

Also called conditional (batch) normalisation. It is neither attention nor a hypernetwork: it leaves the weights of
convolutions unchanged. Sources: OAT (Wang et al., NeurIPS 2020, §3.1); FiLM (Perez et al. 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheostat.methods.base import Method, Term
from rheostat.methods.composition import register
from rheostat.nets.base import Net
from rheostat.nn.layers import seats
from rheostat.nn.norms import Modulation, Norm
from rheostat.points.point import Point
from rheostat.points.resolved import Resolved
from rheostat.runtime.choices import check_choice

PAPER_SUPPORT = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
ENCODINGS = ("cosine", "scalar", "orthogonal")


@dataclass(frozen=True)
class FilmCode:
    """The code of each setting's λ, (S, d): the input of the generators."""

    rows: Tensor


class Generator(Modulation):
    """Linear(d → 2C), LeakyReLU, Linear(2C → 2C); the halves of the output are γ and β.

    With `paper`, γ and β pass through another LeakyReLU and all layers start at random. Otherwise γ = 1 + g and the
    last layer starts at zero, so that the network starts as the plain one. Under slimming, γ and β are each sliced to
    the leading channels. With `joint`, the whole vector is sliced and then halved, so that the same output can be a γ
    at one width and a β at another.
    """

    def __init__(self, dim: int, channels: int, *, paper: bool, joint: bool = False) -> None:
        super().__init__()
        self.joint = joint
        self.hidden = nn.Linear(dim, 2 * channels)
        self.out = nn.Linear(2 * channels, 2 * channels)
        self.channels, self.paper = channels, paper
        if not paper:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, scale: Tensor, shift: Tensor, at: Resolved) -> tuple[Tensor, Tensor]:
        out = self.out(F.leaky_relu(self.hidden(at.of(FilmCode).rows)))
        if self.paper:
            out = F.leaky_relu(out)
        width = scale.shape[1]
        start = width if self.joint else self.channels
        gamma, beta = out[:, :width], out[:, start : start + width]
        if not self.paper:
            gamma = 1 + gamma
        return scale * gamma, torch.addcmul(beta, shift, gamma)


class Codes(nn.Module):
    """The paper's random orthogonal codes, stored with the model; row j is the code of the j-th λ."""

    rows: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        codes = torch.empty(dim, dim)
        nn.init.orthogonal_(codes)
        self.register_buffer("rows", codes)


def cosine_features(level: Tensor, dim: int) -> Tensor:
    """(S,) λ → (S, d) cos(π·k·λ), k = 0..d-1: a smooth code for every λ."""
    k = torch.arange(dim, device=level.device, dtype=level.dtype)
    return torch.cos(math.pi * level[:, None] * k)


@register
@dataclass(frozen=True)
class Film(Method):
    """Reads `robustness`; gives every conditioned norm a FiLM generator and trains λ per example.

    `encoding` is "cosine" (any λ, `dim` features), "scalar" (λ itself) or "orthogonal" (the paper's, trained λ
    only). With 2 cosine features the code of every λ lies between those of its trained neighbours; with more it
    oscillates between trained values (with 4, measured RA at λ = 0.7 is below that at 0.4).
    `initialisation` is "identity" (ours) or "paper". `lambda_support` is "paper" ({0, 0.1, 0.2, 0.3, 0.4, 1}) or
    "uniform" (0 or uniform in (0, 1]); ceil(B/6) rows have λ = 0.
    `ones_clean` also sends rows with λ = 1 through the clean pass: with weight 0, but they enter the statistics of
    the adversarial norms. `joint_slices` halves one slice of γ|β at each width (see `Generator`).

    Settings of the public code, and ours in brackets: encoding "orthogonal" of 128 ("cosine" of 2), initialisation
    "paper" ("identity"), ones_clean True (False, which saves 5-20 % of a step), joint_slices True (False: the
    slices of the public code mix γ and β, a defect), between of `Dual` "at-0" ("blend").
    """

    encoding: str = "cosine"
    dim: int = 2
    initialisation: str = "identity"
    lambda_support: str = "paper"
    ones_clean: bool = False
    joint_slices: bool = False

    seam = 30
    claims = "norm modulation"
    reads = ("robustness",)

    def __post_init__(self) -> None:
        for what, given, allowed in (
            ("encoding", self.encoding, ENCODINGS),
            ("initialisation", self.initialisation, ("identity", "paper")),
            ("lambda_support", self.lambda_support, ("paper", "uniform")),
        ):
            check_choice("film", what, given, allowed)
        if self.encoding == "orthogonal" and self.lambda_support != "paper":
            raise ValueError("film: orthogonal codes exist only for the paper's λ support")
        if self.dim < (6 if self.encoding == "orthogonal" else 1):
            raise ValueError(f"film: dim {self.dim} is too small for {self.encoding} codes")

    def dials(self) -> tuple[()]:
        return ()

    def install(self, net: Net) -> None:
        norms = [norm for norm in seats(net, Norm) if norm.conditioned]
        if not norms:
            raise ValueError("film needs a network with norms; this one has none")
        dim = 1 if self.encoding == "scalar" else self.dim
        if self.encoding == "orthogonal":
            net.add_module("film_codes", Codes(self.dim))
        for norm in norms:
            paper = self.initialisation == "paper"
            norm.modulations.append(Generator(dim, norm.channels, paper=paper, joint=self.joint_slices))

    def derive(self, net: Net, at: Resolved) -> Resolved:
        level = at.robustness.table
        if self.encoding == "scalar":
            code = level[:, None]
        elif self.encoding == "cosine":
            code = cosine_features(level, self.dim)
        else:
            code = self._orthogonal(net, level)
        return at.with_(FilmCode(code))

    def _orthogonal(self, net: Net, level: Tensor) -> Tensor:
        trained = torch.tensor(PAPER_SUPPORT, device=level.device, dtype=level.dtype)
        distance, place = (level[:, None] - trained).abs().min(1)
        if bool((distance > 1e-6).any()):
            missed = level[distance > 1e-6][0].item()
            raise ValueError(
                f"film: orthogonal codes exist only for trained λ, given {missed:g}; allowed: "
                + ", ".join(f"{v:g}" for v in PAPER_SUPPORT)
            )
        codes = net.get_submodule("film_codes")
        assert isinstance(codes, Codes)
        return codes.rows[place]

    def path(self, u: float) -> tuple[float, float]:
        """Up to u = ½ the norm sets blend while λ rises to the smallest trained value; beyond it λ rises to 1."""
        least = PAPER_SUPPORT[1]
        return (2 * u * least, 2 * u) if u < 0.5 else (least + (2 * u - 1) * (1 - least), 1.0)

    def plan(self, batch: int, generator: torch.Generator) -> list[Term]:
        """OAT's loss with one λ per example: clean rows have weight 1-λ, adversarial rows λ; rows of weight zero
        are skipped (`ones_clean` keeps them)."""
        zeros = -(-batch // 6)
        order = torch.randperm(batch, generator=generator)
        rows, robust = order[:zeros].sort().values, order[zeros:].sort().values
        if self.lambda_support == "paper":
            place = torch.randint(1, len(PAPER_SUPPORT), (len(robust),), generator=generator)
            level = torch.tensor(PAPER_SUPPORT)[place]
        else:
            level = 1 - torch.rand(len(robust), generator=generator)
        mixed = torch.ones_like(level, dtype=torch.bool) if self.ones_clean else level < 1
        terms = [
            Term(rows, Point(robustness=0.0)),
            Term(robust[mixed], Point(robustness=level[mixed]), weight=1 - level[mixed]),
            Term(robust, Point(robustness=level), images="adversarial", weight=level),
        ]
        return [term for term in terms if len(term.rows)]
