"""The HTTP service: your policy and the current load choose the operating point; a client cannot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rheostat.serve import standard
from rheostat.serve.answering import answered
from rheostat.serve.budgets import client_of
from rheostat.serve.decoding import IMAGES, TENSOR, Array, Refusal
from rheostat.serve.docs_page import POLICY as DOCS_POLICY
from rheostat.serve.docs_page import page
from rheostat.serve.gate import read_body
from rheostat.serve.guard import Guard
from rheostat.serve.options import LOOPBACK, Options, Service, check_host
from rheostat.serve.policy import NotJSON, Policy, floor, parse_policy
from rheostat.serve.schema import Listing, PolicyBody, Prediction, problem
from rheostat.serve.state import State

log = logging.getLogger("rheostat.serve")
__all__ = ["LOOPBACK", "Options", "Service", "check_host", "make_app"]

ERRORS: dict[int | str, dict[str, Any]] = {
    code: problem(text)
    for code, text in {
        400: "Malformed request",
        401: "No valid token",
        403: "Clients may not set the dial",
        408: "The body arrived too slowly",
        413: "Too large",
        415: "Unsupported content type",
        422: "Not images that this model accepts",
        429: "Too many requests from one client; see Retry-After",
        503: "The server is full; see Retry-After",
        504: "The request took too long",
    }.items()
}


def make_app(served: Service, policy: Policy, options: Options | None = None) -> FastAPI:
    """Build the application.

    A policy stored in `options.store` overrides `policy`, but the stricter of their two floors applies;
    `app.state.notes` explains the decision. If `policy.min_robust` is set, every later policy must respect it.
    """
    state = State(served, policy, options or Options())

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        state.engine.start()
        await asyncio.to_thread(state.decoders.start)
        follower = asyncio.create_task(state.follow())
        try:
            yield
        finally:
            follower.cancel()
            try:
                await state.engine.close()
            finally:
                state.decoders.close()

    app = FastAPI(
        title="Rheostat",
        description="Predictions at the operating point that the policy chooses.",
        version="1",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    app.state.engine, app.state.notes = state.engine, state.notes
    app.add_middleware(Guard, metrics=state.metrics, access_log=state.options.access_log)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, found: Refusal) -> JSONResponse:
        state.metrics.refused.labels(str(found.status)).inc()
        headers = {}
        if found.status in (429, 503):
            headers["Retry-After"] = str(found.retry or state.engine.retry_after())
        if found.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if found.status == 408:
            headers["Connection"] = "close"
        key = "error" if request.url.path.startswith(f"{standard.BASE}/") else "detail"
        return JSONResponse({key: found.detail}, found.status, headers)

    _predictions(app, state)
    _policy(app, state)
    _health(app, state)
    standard.add_routes(app, state)
    return app


def _predictions(app: FastAPI, state: State) -> None:
    served, options = state.served, state.options

    @app.post(
        "/v1/predict",
        summary="Classify images",
        response_model=Prediction,
        responses=ERRORS,
        openapi_extra={
            "security": [{"bearer": []}, {}],
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
    async def predict(request: Request) -> Response:
        started = time.perf_counter()

        async def read(body: bytes) -> tuple[Array, None]:
            kind = request.headers.get("content-type", "")
            return await state.decoders.decode(body, kind, served.image, options.limits, served.resize), None

        point, found = await answered(state, request, read, asked=request.query_params.get("point"))
        body = {
            "point": point,
            "at": served.points[point],
            "labels": [served.classes[i] for i in found.argmax(1)],
            "probabilities": np.round(found.astype(np.float64), 6),
            "ms": round(1e3 * (time.perf_counter() - started), 3),
        }
        return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _policy(app: FastAPI, state: State) -> None:
    served, options = state.served, state.options

    @app.get(
        "/v1/points",
        summary="Named points, their measured numbers, and the policy",
        response_model=Listing,
        responses={401: ERRORS[401]},
    )
    async def points(request: Request) -> JSONResponse:
        state.gate.look(request)
        return JSONResponse(
            {
                "artifact": served.artifact,
                "classes": list(served.classes),
                "points": {n: {"at": p, "measured": served.measured[n]} for n, p in served.points.items()},
                "policy": asdict(state.policy),
                "used": list(floor(state.policy, served.measured)),
                "current": state.engine.controller.name,
            }
        )

    @app.put(
        "/v1/policy",
        summary="Change the policy (bearer token)",
        response_model=PolicyBody,
        responses={k: ERRORS[k] for k in (400, 401, 403, 408, 413, 422, 503)},
        openapi_extra={
            "security": [{"bearer": []}],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": PolicyBody.model_json_schema()}},
            },
        },
    )
    async def put_policy(request: Request) -> JSONResponse:
        client = client_of(request.client.host if request.client else None)
        state.rate.check(client)
        state.gate.change_policy(request)
        with state.bytes.hold(client) as held:
            body = await read_body(request, options.limits, held)
            try:
                new = state.allowed(parse_policy(body))
            except NotJSON as error:
                raise Refusal(400, str(error)) from None
            except ValueError as error:
                raise Refusal(422, str(error)) from None
        await state.keep(new)
        return JSONResponse(asdict(new))


def _health(app: FastAPI, state: State) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Alive", responses={503: {"description": "Failed; start the server again"}})
    async def healthz() -> JSONResponse:
        failed = state.engine.failed
        return JSONResponse({"status": "failed" if failed else "alive"}, 503 if failed else 200)

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Serving", responses={503: {"description": "Not serving"}})
    async def readyz() -> JSONResponse:
        return JSONResponse({"ready": state.ready}, 200 if state.ready else 503)

    @app.get("/metrics", summary="Prometheus", responses={401: ERRORS[401]})
    async def show_metrics(request: Request) -> Response:
        state.gate.look(request)
        state.metrics.waiting.set(state.engine.waiting)
        state.metrics.held.set(state.bytes.used)
        return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": DOCS_POLICY})
