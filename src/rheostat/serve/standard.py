"""The routes of the Open Inference Protocol, under the same limits, tokens and floor as the service's own routes."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import rheostat
from rheostat.serve import open_inference as protocol
from rheostat.serve.answering import answered
from rheostat.serve.decoding import Array, Refusal
from rheostat.serve.state import State

BASE = "/v2"
_MODEL = f"{BASE}/models/{{model}}"
_PLACES = (_MODEL, f"{_MODEL}/versions/{{version}}")


def add_routes(app: FastAPI, state: State) -> None:
    """Add the routes under `/v2`. The protocol publishes its own schema, so ours does not repeat it."""
    served, options = state.served, state.options

    def known(model: str, version: str) -> None:
        if model != protocol.MODEL or version != protocol.VERSION:
            raise Refusal(
                404,
                f"no model {model[:60]!r} of version {version[:20]!r}; this server has "
                f"{protocol.MODEL!r}, version {protocol.VERSION!r}",
            )

    def readiness() -> JSONResponse:
        return JSONResponse({"ready": state.ready}, 200 if state.ready else 503)

    async def server() -> JSONResponse:
        return JSONResponse(protocol.server_metadata(rheostat.__version__))

    async def live() -> JSONResponse:
        live = not state.engine.failed
        return JSONResponse({"live": live}, 200 if live else 503)

    async def ready() -> JSONResponse:
        return readiness()

    async def metadata(model: str, version: str = protocol.VERSION) -> JSONResponse:
        known(model, version)
        return JSONResponse(protocol.model_metadata(served.image, len(served.classes)))

    async def model_ready(model: str, version: str = protocol.VERSION) -> JSONResponse:
        known(model, version)
        return readiness()

    async def infer(request: Request, model: str, version: str = protocol.VERSION) -> Response:
        known(model, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "compressed bodies are not accepted")
        asked: list[protocol.Asked] = []

        async def read(body: bytes) -> tuple[Array, str | None]:
            header = request.headers.get(protocol.HEADER)
            asked.append(await asyncio.to_thread(protocol.parse, body, header, served.image, options.limits))
            return asked[0].images, asked[0].point

        point, found = await answered(state, request, read)
        body, head = protocol.answer(asked[0], point, found)
        if head is None:
            return Response(body, media_type="application/json")
        return Response(body, headers={protocol.HEADER: str(head)}, media_type="application/octet-stream")

    app.get(BASE, include_in_schema=False)(server)
    app.get(f"{BASE}/health/live", include_in_schema=False)(live)
    app.get(f"{BASE}/health/ready", include_in_schema=False)(ready)
    for place in _PLACES:
        app.get(place, include_in_schema=False)(metadata)
        app.get(f"{place}/ready", include_in_schema=False)(model_ready)
        app.post(f"{place}/infer", include_in_schema=False)(infer)
