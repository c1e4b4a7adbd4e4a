"""The values that define an application: what it serves, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rheostat.serve.costs import Costs
from rheostat.serve.decoding import Limits
from rheostat.serve.engine import Run
from rheostat.serve.stores import Store

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Service:
    """What is served: forward passes by point name, the points, their measured numbers, classes and image shape.

    `costs` holds the time of a pass at each point, which all controllers except `steps` need. `resize` is the rule that
    fits an encoded image of another size (`data.Preprocessing`). `left_out` are named points that cannot be served
    here, and why.
    """

    runs: dict[str, Run]
    points: dict[str, dict[str, float]]
    measured: dict[str, dict[str, Any]]
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    artifact: str
    costs: Costs = field(default_factory=dict)
    resize: str = "stretch"
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How it is served. Without a token nobody can change the policy, unless `open_policy` is set (loopback only)."""

    token: str | None = None
    open_policy: bool = False
    client_dial: bool = False
    store: Store | None = None
    """Where a changed policy is kept; a `FileStore` is told the hash of the model that is served."""
    poll: float | None = None
    """Seconds between reads of the store, for stores that other servers write to; None never reads it again."""
    limits: Limits = field(default_factory=Limits)
    most: int = 64
    queue: int = 512
    deadline: float = 0.005
    token_file: Path | None = None
    """A file of tokens that may change the policy, one per line; the server reads it again when it changes."""
    predict_token_file: Path | None = None
    """A file of tokens that may request predictions, as any policy token may; None admits everybody."""
    private: bool = False
    """Whether /metrics and /v1/points require one of these tokens."""
    rate: float | None = None
    """Requests per second that one client may send; None sets no limit."""
    request_seconds: float = 30.0
    """Seconds from a request's headers to its answer, all waits included; then the server answers 504."""
    bytes_in_flight: int = 128 * 2**20
    """Bytes of all request bodies in memory at once, at least those of one body; beyond that the server answers 503."""
    decoders: int = 2
    """Number of processes that decode images."""
    access_log: bool = False
    """Whether to write each request as one line of JSON to the log `rheostat.access`."""


def check_host(host: str, options: Options) -> None:
    """ValueError if these options on this host let anybody on the network set the dial."""
    if host not in LOOPBACK and options.open_policy:
        raise ValueError(f"an open policy on {host} lets anybody on the network choose the weakest point; set a token")
    if host not in LOOPBACK and options.client_dial:
        raise ValueError(f"--allow-client-dial on {host} lets an attacker choose the weakest point; use loopback")
