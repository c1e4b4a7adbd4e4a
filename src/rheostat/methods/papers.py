"""Each paper as a composition of parts, by its name."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from rheostat import methods
from rheostat.methods import Dedicated, Dual, Exits, Experts, Film, Masks, Mixing, Noise, Slim
from rheostat.methods.base import Method, Stack
from rheostat.runtime.choices import nearest


@dataclass(frozen=True)
class Paper:
    """A composition by name: its parts, and the options whose defaults are not those of the parts.

    Every option of a part is an option of the composition; where two parts have one of the same name,
    it is the first part's.
    """

    about: str
    parts: tuple[type[Method], ...]
    defaults: Mapping[str, object] = field(default_factory=dict)

    def options(self) -> dict[str, type[Method]]:
        """The names of the options and the part that each belongs to."""
        return {f.name: part for part in reversed(self.parts) for f in dataclasses.fields(part)}  # type: ignore[arg-type]


PAPERS = {
    "oat": Paper("Once-for-all adversarial training (Wang et al., NeurIPS 2020): dual norms and FiLM.", (Dual, Film)),
    "oats": Paper("OAT and slimming (same paper, §3.3): λ and width, two live dials.", (Dual, Film, Slim)),
    "float": Paper(
        "FLOAT (Kundu et al., WACV 2023): dual norms and noise on the weights, trained in halves.", (Dual, Noise)
    ),
    "float-slim": Paper("FLOAT with widths (same paper).", (Dual, Noise, Slim)),
    "floats": Paper("Sparse FLOAT by non-iterative pruning (same paper).", (Dual, Noise, Masks)),
    "smart": Paper(
        "Sparse mixture once-for-all (Kundu et al., ICASSP 2023): two expert paths, a reconstruction.", (Dual, Experts)
    ),
    "rdi": Paper("RDI-Nets (Hu et al., ICLR 2020): exits trained jointly and attacked together.", (Exits,)),
    "rdi-slim-dual": Paper(
        "Exits, widths and a dual norm (ours): three live dials, robustness × width × exit.",
        (Exits, Dual, Slim),
        {"defence": "average"},
    ),
    "dual": Paper("A dual norm and nothing else (ours): the baseline that richer conditioning must beat.", (Dual,)),
    "pgd-at": Paper("Adversarial training at one fixed λ: a dedicated model.", (Dedicated,)),
    "mixing": Paper(
        "Logit mixing of a standard and a robust network (a baseline): two models, two passes between.", (Mixing,)
    ),
}


def compose(name: str, **options: object) -> Stack:
    """A paper's composition by its name; ValueError names the nearest paper or option."""
    if name not in PAPERS:
        raise ValueError(f"no composition {name!r}; {nearest(name, PAPERS)}")
    paper = PAPERS[name]
    known = paper.options()
    given: dict[type[Method], dict[str, object]] = {part: {} for part in paper.parts}
    for option, value in {**paper.defaults, **options}.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
        given[known[option]][option] = tuple(value) if isinstance(value, list) else value
    return Stack(*(part(**given[part]) for part in paper.parts))


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
