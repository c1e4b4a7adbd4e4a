"""Trace the forward of a user's module to a graph (torch.fx), with all sizes known except the batch size.

The tracer evaluates two batches of different sizes. A size that is equal in both becomes a number, so that the forward
may branch on it; other sizes stay in the graph. Code that depends on tensor values cannot be traced.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from rheostat.runtime.seeding import preserved, stream

BATCHES = (2, 5)


class Sized(fx.Proxy):
    """A traced value with its actual values for the two batches."""

    values: tuple[Any, Any]

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes: numbers, or proxies if they depend on the batch."""
        return tuple(self.size(dim) for dim in range(self.ndim))

    @property
    def ndim(self) -> int:
        """How many dimensions the tensor has."""
        count: int = self.values[0].ndim
        return count

    def dim(self) -> int:
        """How many dimensions the tensor has."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """One size, or all of them."""
        return self.shape if dim is None else self.tracer.create_proxy("call_method", "size", (self, dim), {})


class Traced(fx.Tracer):
    """Records a graph; `values` holds each node's value for the larger batch, `ends` each module's last node."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        super().__init__()
        self.examples = tuple(torch.rand(n, *image, generator=stream("trace")) for n in BATCHES)
        self.values: dict[fx.Node, Any] = {}
        self.ends: dict[str, fx.Node] = {}
        self._evaluating = False

    def logits(self) -> Tensor:
        """The module's output for the larger batch."""
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        value = self.values.get(output.args[0]) if isinstance(output.args[0], fx.Node) else output.args[0]
        if not isinstance(value, Tensor):
            raise ValueError(f"the forward returns a {type(value).__name__}, expected one tensor of logits")
        return value

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Sized(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = _value(obj, 0)
        if isinstance(value, tuple | list):
            return iter([operator.getitem(obj, i) for i in range(len(value))])
        return super().iter(obj)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._evaluating:
            return forward(*args, **kwargs)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.ends[self.path_of_module(m)] = result.node
        return result

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        if kind == "placeholder" and any(node.op == "placeholder" for node in self.graph.nodes):
            return _default(target, args)
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        self._evaluating = True
        try:
            first, second = (self._evaluated(kind, target, args, kwargs, i) for i in range(2))
        finally:
            self._evaluating = False
        if target is not getattr and _constant(first) and first == second:
            return first
        assert isinstance(proxy, Sized)
        proxy.values = (first, second)
        self.values[proxy.node] = second
        return proxy

    def _evaluated(self, kind: str, target: Any, args: Any, kwargs: Any, which: int) -> Any:
        if kind == "output":
            return None
        given = fx.node.map_aggregate(args, lambda a: _value(a, which))
        named = fx.node.map_aggregate(kwargs, lambda a: _value(a, which))
        assert isinstance(given, tuple)
        assert isinstance(named, dict)
        if kind == "placeholder":
            return self.examples[which]
        if kind == "get_attr":
            return operator.attrgetter(target)(self.root)
        if kind == "call_module":
            return self.root.get_submodule(target)(*given, **named)
        if kind == "call_method":
            return getattr(given[0], target)(*given[1:], **named)
        return target(*given, **named)


def _default(name: str, args: tuple[Any, ...]) -> Any:
    """The value of a forward argument other than the images: its default, or None."""
    if args:
        return args[0]
    return {} if name.startswith("**") else ()


def _value(given: Any, which: int) -> Any:
    if isinstance(given, fx.proxy.Attribute):
        return getattr(_value(given.root, which), given.attr)
    return given.values[which] if isinstance(given, Sized) else given


def _constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_constant(v) for v in value)
    return isinstance(value, bool | int)


def trace(module: nn.Module, image: tuple[int, int, int]) -> tuple[nn.Module, fx.Graph, Traced]:
    """A copy of the module in eval mode, its graph, and the recorded values; ValueError if it cannot be traced.

    A forward is refused if it depends on tensor values, takes arguments other than the images, or behaves differently
    in training without a layer for it (stochastic depth, auxiliary outputs).
    """
    required = [p for p in inspect.signature(module.forward).parameters.values() if _required(p)]
    if len(required) > 1:
        raise ValueError(f"the forward takes {len(required)} arguments, expected only the images")
    own = copy.deepcopy(module).cpu().eval()
    found = _graph(own, image, module)
    training = _graph(copy.deepcopy(module).cpu().train(), image, module)
    for a, b in itertools.zip_longest(_operations(found.graph), _operations(training.graph), fillvalue="nothing"):
        if a != b:
            raise ValueError(
                f"the forward of {type(module).__name__} does something else in training ({b} in place of {a}): "
                "stochastic depth, functional dropout or extra outputs; set the rate to 0 or use the layer"
            )
    _drop_unused(found)
    return own, found.graph, found


def _graph(own: nn.Module, image: tuple[int, int, int], module: nn.Module) -> Traced:
    tracer = Traced(image)
    name = type(module).__name__
    try:
        with torch.no_grad(), preserved(torch.device("cpu")):
            tracer.graph = tracer.trace(own)
    except (fx.proxy.TraceError, TypeError, NotImplementedError, AttributeError) as error:
        raise ValueError(
            f"the forward of {name} cannot be traced ({error}); it may not branch on values of tensors"
        ) from None
    except (RuntimeError, AssertionError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{name} does not take images of {' × '.join(map(str, image))} ({text})") from None
    (output,) = (node for node in tracer.graph.nodes if node.op == "output")
    if isinstance(output.args[0], list) and len(output.args[0]) == 1:  # fx flattens a forward with *args this way
        output.args = (output.args[0][0],)
    return tracer


def _required(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not variable


def _operations(graph: fx.Graph) -> list[str]:
    """The operation of each node, as far as training and evaluation must agree."""
    found = []
    for node in graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        drawn = node.target is F.scaled_dot_product_attention and node.kwargs.get("dropout_p")
        found.append(f"{name} with dropout" if drawn else name)
    return found


def _drop_unused(found: Traced) -> None:
    """Remove sizes and comparisons that became numbers; tensor operations stay, because they may act in place."""
    for node in reversed(list(found.graph.nodes)):
        computes = isinstance(found.values.get(node), Tensor | tuple | list)
        inert = node.op == "get_attr" or (node.op in ("call_function", "call_method") and not computes)
        if inert and not node.users:
            found.graph.erase_node(node)
