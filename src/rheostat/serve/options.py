"""What is served and how: the values that an application is made of."""

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
    """What is served: passes by point name, the points, their measured numbers, classes and image shape.

    `costs`: the time of a pass at each point, which all controllers but `steps` need. `resize`: how an encoded image of
    another size is made to fit (`data.Preprocessing`).
    """

    runs: dict[str, Run]
    points: dict[str, dict[str, float]]
    measured: dict[str, dict[str, Any]]
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    artifact: str
    costs: Costs = field(default_factory=dict)
    resize: str = "stretch"


@dataclass(frozen=True)
class Options:
    """How it is served. Without a token policy cannot be changed, unless `open_policy` (loopback alone)."""

    token: str | None = None
    open_policy: bool = False
    client_dial: bool = False
    store: Store | None = None
    poll: float | None = None
    """Seconds between looks at the store, where other servers may write it; None: never."""
    limits: Limits = field(default_factory=Limits)
    most: int = 64
    queue: int = 512
    deadline: float = 0.005
    token_file: Path | None = None
    """Tokens that may change the policy, one a line; the file is read again when it changes."""
    predict_token_file: Path | None = None
    """Tokens that may ask for predictions; None: anybody may. A policy token may too."""
    private: bool = False
    """Whether /metrics and /v1/points need one of these tokens."""
    rate: float | None = None
    """Predictions a second that one client may ask for; None: no limit."""
    request_seconds: float = 30.0
    """From a request's headers to its answer, all waits included; then 504."""
    bytes_in_flight: int = 128 * 2**20
    """Bytes of all bodies held at once; then 503."""
    decoders: int = 2
    """Processes that unpack images."""
    access_log: bool = False
    """Whether each request is one line of JSON in the log `rheostat.access`."""


def check_host(host: str, options: Options) -> None:
    """ValueError if anybody on the network could turn the dial."""
    if host not in LOOPBACK and options.open_policy:
        raise ValueError(f"an open policy on {host} lets anybody on the network choose the weakest point; set a token")
    if host not in LOOPBACK and options.client_dial:
        raise ValueError(f"--allow-client-dial on {host} lets an attacker choose the weakest point; it is for loopback")
