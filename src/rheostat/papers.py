"""Each paper as a composition of parts, by its name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from rheostat import methods
from rheostat.method import Method, Stack
from rheostat.methods import Dedicated, Dual, Exits, Experts, Film, Masks, Mixing, Noise, Slim
from rheostat.points import nearest


def oat(
    *,
    sets: int = 2,
    between: str = "blend",
    encoding: str = "cosine",
    dim: int = 2,
    initialisation: str = "identity",
    lambda_support: str = "paper",
) -> Stack:
    """Once-for-all adversarial training (Wang et al., NeurIPS 2020): dual norms and FiLM."""
    return Stack(
        Dual(sets=sets, between=between),
        Film(
            encoding=encoding,
            dim=dim,
            initialisation=initialisation,
            lambda_support=lambda_support,
        ),
    )


def dual(*, between: str = "blend") -> Stack:
    """A dual norm and nothing else (ours): the baseline that richer conditioning must beat."""
    return Stack(Dual(between=between))


def pgd_at(*, robustness: float = 1.0) -> Stack:
    """Adversarial training at one fixed λ: a dedicated model."""
    return Stack(Dedicated(robustness=robustness))


def mixing() -> Stack:
    """Logit mixing of a standard and a robust network (a baseline): two models, two passes between."""
    return Stack(Mixing())


def oats(
    *, widths: tuple[float, ...] = (0.5, 0.75, 1.0), heads: str = "shared", **options: Any
) -> Stack:
    """OAT and slimming (same paper, §3.3): λ and width, two live dials."""
    return Stack(oat(**options), Slim(widths=widths, heads=heads))


def float_(
    *,
    between: str = "blend",
    draw: str = "frozen",
    alpha: str = "free",
    initial: float = 0.25,
    scale: str = "linear",
    clean_through_adversarial_norm: bool = False,
) -> Stack:
    """FLOAT (Kundu et al., WACV 2023): dual norms and noise on the weights, trained in halves."""
    return Stack(
        Dual(between=between),
        Noise(
            draw=draw,
            alpha=alpha,
            initial=initial,
            scale=scale,
            clean_through_adversarial_norm=clean_through_adversarial_norm,
        ),
    )


def float_slim(
    *, widths: tuple[float, ...] = (0.5, 0.75, 1.0), heads: str = "shared", **options: Any
) -> Stack:
    """FLOAT with widths (same paper)."""
    return Stack(float_(**options), Slim(widths=widths, heads=heads))


def floats(
    *,
    density: float = 0.3,
    prune: float = 0.5,
    structure: str = "unstructured",
    **options: Any,
) -> Stack:
    """Sparse FLOAT by non-iterative pruning (same paper)."""
    return Stack(float_(**options), Masks(density=density, prune=prune, structure=structure))


def smart(
    *,
    between: str = "blend",
    density: float = 0.35,
    overlap: str = "free",
    masks: str = "learned",
    shared_stages: int = 0,
    prune: float = 0.5,
    structure: str = "unstructured",
) -> Stack:
    """Sparse mixture once-for-all (Kundu et al., ICASSP 2023): two expert paths, a reconstruction."""
    return Stack(
        Dual(between=between),
        Experts(
            density=density,
            overlap=overlap,
            masks=masks,
            shared_stages=shared_stages,
            prune=prune,
            structure=structure,
        ),
    )


def rdi(
    *,
    positions: tuple[int, ...] = (),
    heads: str = "light",
    measure: str = "entropy",
    defence: str = "max-average",
) -> Stack:
    """RDI-Nets (Hu et al., ICLR 2020): exits trained jointly and attacked together."""
    return Stack(Exits(positions=positions, heads=heads, measure=measure, defence=defence))


def rdi_slim_dual(
    *,
    positions: tuple[int, ...] = (),
    heads: str = "light",
    measure: str = "entropy",
    defence: str = "average",
    widths: tuple[float, ...] = (0.5, 0.75, 1.0),
    between: str = "blend",
) -> Stack:
    """Exits, widths and a dual norm (ours): three live dials, robustness × width × exit."""
    return Stack(
        rdi(positions=positions, heads=heads, measure=measure, defence=defence),
        dual(between=between),
        Slim(widths=widths),
    )


PAPERS: dict[str, Callable[..., Stack]] = {
    "oat": oat,
    "oats": oats,
    "float": float_,
    "float-slim": float_slim,
    "floats": floats,
    "smart": smart,
    "rdi": rdi,
    "rdi-slim-dual": rdi_slim_dual,
    "dual": dual,
    "pgd-at": pgd_at,
    "mixing": mixing,
}
# Where a composition passes options on, which one it passes them to.
PASSED_ON: dict[str, Callable[..., Stack]] = {
    "oats": oat,
    "float-slim": float_,
    "floats": float_,
}


def options_of(name: str) -> list[str]:
    """The options of a composition, those it passes on included."""
    own = [
        k
        for k, p in inspect.signature(PAPERS[name]).parameters.items()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    inner = PASSED_ON.get(name)
    return own + (list(inspect.signature(inner).parameters) if inner is not None else [])


def compose(name: str, **options: object) -> Stack:
    """A paper's composition by its name; ValueError names the nearest paper or option."""
    if name not in PAPERS:
        raise ValueError(f"no composition {name!r}; {nearest(name, PAPERS)}")
    known = options_of(name)
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
    return PAPERS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def _kinds() -> dict[str, type[Method]]:
    kinds = {name: getattr(methods, name) for name in methods.__all__}
    return {n: k for n, k in kinds.items() if isinstance(k, type) and issubclass(k, Method)}


def parse_method(text: str) -> Stack:
    """A stack from its repr, `Stack(Dual(...), Film(...))`, by its syntax: nothing is evaluated."""
    kinds = _kinds()

    def value(node: ast.expr) -> object:
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"not a plain value in a composition: {ast.unparse(node)}") from None

    def call(node: ast.expr) -> tuple[str, ast.Call]:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError(f"not a composition: {text!r}")
        return node.func.id, node

    def part(node: ast.expr) -> Method:
        name, found = call(node)
        if name not in kinds:
            raise ValueError(f"no method {name!r}; {nearest(name, kinds)}")
        fields = {f.name for f in dataclasses.fields(kinds[name])}  # type: ignore[arg-type]
        options = {str(k.arg): value(k.value) for k in found.keywords}
        for option in options:
            if option not in fields:
                raise ValueError(f"{name} has no option {option!r}; {nearest(option, fields)}")
        return kinds[name](**options)

    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        raise ValueError(f"not a composition: {text!r}") from None
    name, outer = call(tree.body)
    return Stack(*(part(a) for a in outer.args)) if name == "Stack" else Stack(part(tree.body))
