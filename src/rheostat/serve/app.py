"""The HTTP service: predictions at the point that policy and load decide, never at one the client names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rheostat.serve.decoding import IMAGES, TENSOR, Limits, Refusal, decode
from rheostat.serve.engine import Engine, Full, Run, Served
from rheostat.serve.ladder import Ladder, Policy, Store, checked, floor, parse

log = logging.getLogger("rheostat.serve")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Service:
    """What is served: passes by point name, the points, their measured numbers, classes and image shape."""

    runs: dict[str, Run]
    points: dict[str, dict[str, float]]
    measured: dict[str, dict[str, Any]]
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    artifact: str


@dataclass(frozen=True)
class Options:
    """How it is served. Without a token policy cannot be changed, unless `open_policy` (loopback alone)."""

    token: str | None = None
    open_policy: bool = False
    client_dial: bool = False
    store: Store | None = None
    poll: float | None = None
    """Seconds between looks at the store, where other replicas may write it; None: never."""
    limits: Limits = field(default_factory=Limits)
    most: int = 64
    queue: int = 512
    deadline: float = 0.005


def check_host(host: str, options: Options) -> None:
    """ValueError if anybody on the network could turn the dial."""
    if host not in LOOPBACK and options.open_policy:
        raise ValueError(f"an open policy on {host} lets anybody on the network choose the weakest point; set a token")
    if host not in LOOPBACK and options.client_dial:
        raise ValueError(f"--allow-client-dial on {host} lets an attacker choose the weakest point; it is for loopback")


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.images = Counter("rheostat_images", "Images predicted", ["point"], registry=here)
        self.refused = Counter("rheostat_refused", "Requests refused", ["status"], registry=here)
        self.steps = Counter("rheostat_ladder_steps", "Steps on the load ladder", ["direction"], registry=here)
        self.policies = Counter("rheostat_policy_changes", "Changes of policy", registry=here)
        self.waited = Histogram("rheostat_wait_seconds", "Longest wait of a batch", registry=here)
        self.batch = Histogram("rheostat_batch_seconds", "Time of a batch in the model", registry=here)
        self.waiting = Gauge("rheostat_waiting_images", "Images in the queue", registry=here)
        self.place = Gauge("rheostat_ladder_place", "Place on the ladder; 0 is preferred", registry=here)


def make_app(served: Service, policy: Policy, options: Options | None = None) -> FastAPI:
    """The application. A policy that `options.store` holds comes before the one given."""
    options = options or Options()
    stored = options.store.read() if options.store is not None else None
    current = checked(stored or policy, served.measured)
    metrics = _Metrics()

    def note(found: Served) -> None:
        metrics.images.labels(found.point).inc(found.images)
        metrics.waited.observe(found.waited)
        metrics.batch.observe(found.seconds)
        metrics.place.set(engine.ladder.place)
        if found.step:
            metrics.steps.labels("down" if found.step > 0 else "up").inc()
            log.info("ladder: now at %s (waited %.0f ms)", engine.ladder.name, 1e3 * found.waited)

    engine = Engine(
        served.runs,
        Ladder(floor(current, served.measured), current.target_ms),
        most=options.most,
        queue=options.queue,
        deadline=options.deadline,
        note=note,
    )

    def take(new: Policy) -> None:
        # One assignment: a batch reads the ladder once, so it stands at the old or at the new policy.
        engine.ladder = Ladder(floor(new, served.measured), new.target_ms)
        app.state.policy = new
        metrics.policies.inc()
        log.info("policy: %s", asdict(new))

    async def follow() -> None:
        while options.store is not None and options.poll is not None:
            await asyncio.sleep(options.poll)
            with contextlib.suppress(ValueError):
                new = await asyncio.to_thread(options.store.read)
                if new is not None and new != app.state.policy:
                    take(checked(new, served.measured))

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        follower = asyncio.create_task(follow())
        yield
        follower.cancel()
        await engine.close()

    app = FastAPI(
        title="Rheostat",
        description="Predictions at the operating point that policy decides.",
        version="1",
        lifespan=life,
    )
    app.state.engine, app.state.policy = engine, current
    errors: dict[int | str, dict[str, Any]] = {
        code: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for code, text in {
            400: "Not understood",
            408: "The body came too slowly",
            413: "Too large",
            415: "Not a content type that is taken",
            422: "Not images of this model",
            503: "The queue is full; see Retry-After",
        }.items()
    }

    @app.exception_handler(Refusal)
    async def refuse(request: Request, problem: Refusal) -> JSONResponse:
        metrics.refused.labels(str(problem.status)).inc()
        headers = {"Retry-After": str(engine.retry_after())} if problem.status == 503 else {}
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"detail": problem.detail}, problem.status, headers)

    @app.post(
        "/v1/predict",
        summary="Classify images",
        responses={200: _PREDICTIONS, **errors, 403: _refused("The dial is policy")},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (*IMAGES, TENSOR)},
            },
            "parameters": [
                {
                    "name": "point",
                    "in": "query",
                    "required": False,
                    "schema": {"type": "string"},
                    "description": "Only with --allow-client-dial",
                }
            ],
        },
    )
    async def predict(request: Request) -> JSONResponse:
        started = time.perf_counter()
        asked = request.query_params.get("point")
        if asked is not None and not options.client_dial:
            raise Refusal(403, "the dial is policy, not a field of a request: who may choose it chooses the weakest")
        if asked is not None and asked not in served.runs:
            raise Refusal(422, f"no point {asked!r}")
        body = await _body(request, options.limits)
        images = await asyncio.to_thread(
            decode, body, request.headers.get("content-type", ""), served.image, options.limits
        )
        try:
            point, found = await engine.submit(images, asked)
        except Full:
            raise Refusal(503, "the queue is full") from None
        finally:
            metrics.waiting.set(engine.waiting)
        best = found.argmax(1)
        return JSONResponse(
            {
                "point": point,
                "at": served.points[point],
                "labels": [served.classes[i] for i in best],
                "probabilities": [[round(float(p), 6) for p in row] for row in found],
                "ms": round(1e3 * (time.perf_counter() - started), 3),
            }
        )

    @app.get("/v1/points", summary="Named points, their measured numbers, and the policy")
    async def points() -> JSONResponse:
        now: Policy = app.state.policy
        return JSONResponse(
            {
                "artifact": served.artifact,
                "classes": list(served.classes),
                "points": {n: {"at": p, "measured": served.measured[n]} for n, p in served.points.items()},
                "policy": asdict(now),
                "current": engine.ladder.name,
            }
        )

    @app.put(
        "/v1/policy",
        summary="Change the policy (bearer token)",
        responses={
            **{k: errors[k] for k in (400, 408, 413, 422)},
            401: _refused("No valid token"),
            403: _refused("This server's policy cannot be changed"),
        },
        openapi_extra={
            "security": [{"bearer": []}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _POLICY}}},
        },
    )
    async def put_policy(request: Request) -> JSONResponse:
        _authorised(request, options)
        body = await _body(request, options.limits)
        try:
            new = checked(parse(json.loads(body)), served.measured)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            raise Refusal(400, "not JSON") from None
        except ValueError as error:
            raise Refusal(422, str(error)) from None
        if options.store is not None:
            await asyncio.to_thread(options.store.write, new)
        take(new)
        return JSONResponse(asdict(new))

    @app.get("/healthz", summary="Alive")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", summary="Serving", responses={503: _refused("Not serving")})
    async def readyz() -> JSONResponse:
        return JSONResponse({"ready": engine.ready}, 200 if engine.ready else 503)

    @app.get("/metrics", summary="Prometheus")
    async def show_metrics() -> Response:
        metrics.waiting.set(engine.waiting)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, no longer and no slower than allowed."""
    told = request.headers.get("content-length", "")
    if told and (not told.isdigit() or int(told) > limits.max_bytes):
        raise Refusal(413, f"a body of {told[:20]} bytes; at most {limits.max_bytes} are taken")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_bytes:
                    raise Refusal(413, f"a body of more than {limits.max_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {limits.body_seconds:g} s") from None
    return b"".join(parts)


def _authorised(request: Request, options: Options) -> None:
    if options.open_policy and options.token is None:
        return
    if options.token is None:
        raise Refusal(403, "this server was started without a token: its policy cannot be changed")
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), options.token.encode()):
        raise Refusal(401, "a valid bearer token is needed")


_ERROR = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
_POLICY = {
    "type": "object",
    "required": ["ladder"],
    "additionalProperties": False,
    "properties": {
        "ladder": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "target_ms": {"type": "number", "exclusiveMinimum": 0, "maximum": 60000},
        "min_robust": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_PREDICTIONS = {
    "description": "Labels and probabilities, and the point they were made at",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["point", "at", "labels", "probabilities", "ms"],
                "properties": {
                    "point": {"type": "string"},
                    "at": {"type": "object"},
                    "labels": {"type": "array", "items": {"type": "string"}},
                    "probabilities": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    "ms": {"type": "number"},
                },
            }
        }
    },
}


def _refused(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}
