"""Each paper as a composition of parts, by its name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable

from rheostat import methods
from rheostat.method import Method, Stack
from rheostat.methods import Dedicated, Dual, Film
from rheostat.points import nearest


def oat(
    *,
    sets: int = 2,
    between: str = "blend",
    encoding: str = "cosine",
    dim: int = 4,
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


PAPERS: dict[str, Callable[..., Stack]] = {"oat": oat, "dual": dual, "pgd-at": pgd_at}


def compose(name: str, **options: object) -> Stack:
    """A paper's composition by its name; ValueError names the nearest paper or option."""
    if name not in PAPERS:
        raise ValueError(f"no composition {name!r}; {nearest(name, PAPERS)}")
    known = inspect.signature(PAPERS[name]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
    return PAPERS[name](**options)


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
