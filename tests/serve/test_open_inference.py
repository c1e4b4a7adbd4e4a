"""The Open Inference Protocol: its own client gets what the model says, and every limit holds there too."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn
from fakes import BEARER, IMAGE, TOKEN, fake, running
from fastapi.testclient import TestClient

from rheostat.serve.app import make_app
from rheostat.serve.connections import config
from rheostat.serve.decoding import Limits
from rheostat.serve.open_inference import HEADER
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy

INFER = "/v2/models/rheostat/infer"


def bright(images: np.ndarray) -> np.ndarray:
    """Ten classes: the class is the mean of the image in tenths."""
    found = np.zeros((len(images), 10), np.float32)
    found[np.arange(len(images)), np.minimum(9, (10 * images.mean((1, 2, 3))).astype(int))] = 1
    return found


def body(values: np.ndarray, **more: object) -> dict[str, object]:
    kind = "UINT8" if values.dtype == np.uint8 else "FP32"
    tensor = {"name": "images", "datatype": kind, "shape": list(values.shape), "data": values.reshape(-1).tolist()}
    return {"inputs": [{**tensor, **more}]}


GREY = np.full((2, *IMAGE), 0.55, np.float32)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    options = Options(token=TOKEN, limits=Limits(max_bytes=20_000, max_images=4))
    with running(make_app(fake(bright), Policy(("balanced",)), options)) as found:
        yield found


def test_what_there_is_and_whether_it_is_ready(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/rheostat/ready",
        "/v2/models/rheostat/versions/1/ready",
    ):
        assert client.get(path).status_code == 200
    found = client.get("/v2/models/rheostat").json()
    assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, *IMAGE]}]
    assert [o["name"] for o in found["outputs"]] == ["probabilities", "labels"]
    for path in ("/v2/models/safe", "/v2/models/rheostat/versions/2", "/v2/models/safe/ready"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "this server has 'rheostat'" in answer.json()["error"]


def test_json_and_binary_give_the_same(client: TestClient) -> None:
    plain = client.post(INFER, json={**body(GREY), "id": "seven"}).json()
    assert plain["id"] == "seven"
    half = json.dumps({**body(GREY), "id": "\ud800"})  # half of a character, which cannot be written
    assert client.post(INFER, content=half).json()["id"] == "?"
    assert plain["parameters"] == {"point": "balanced"}
    assert plain["outputs"][1]["data"] == [5, 5]
    assert plain["outputs"][0]["shape"] == [2, 10]
    head = json.dumps(
        {
            **body(GREY, data=None, parameters={"binary_data_size": GREY.nbytes}),
            "parameters": {"binary_data_output": True},
        }
    )
    answer = client.post(INFER, content=head.encode() + GREY.tobytes(), headers={HEADER: str(len(head))})
    length = int(answer.headers[HEADER])
    described = json.loads(answer.content[:length])
    assert [o["parameters"]["binary_data_size"] for o in described["outputs"]] == [80, 16]
    raw = answer.content[length:]
    assert np.frombuffer(raw[:80], "<f4").tolist() == plain["outputs"][0]["data"]
    assert np.frombuffer(raw[80:], "<i8").tolist() == [5, 5]
    bytes_ = client.post(INFER, json=body(np.full((1, *IMAGE), 140, np.uint8)))
    assert bytes_.json()["outputs"][1]["data"] == [5]


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 9000, 400, "not JSON"),
        (b'{"inputs": [{"data": NaN}]}', 400, "not JSON"),
        (b"[]", 400, "a JSON object"),
        ({}, 422, "a list of one tensor"),
        ({"inputs": [1]}, 422, "a list of one tensor"),
        (body(GREY, name="x"), 422, "named 'images'"),
        (body(GREY, datatype="FP64"), 422, "did you mean 'FP32'"),
        (body(GREY, datatype=[]), 422, "allowed: FP32, UINT8"),
        (body(GREY, shape=[2, 1, 8, 9]), 422, "this model takes"),
        (body(GREY, shape=[True, *IMAGE]), 422, "this model takes"),
        (body(GREY, shape=[10**30, *IMAGE]), 413, "images in one request"),
        (body(GREY, shape=[0, *IMAGE], data=[]), 413, "images in one request"),
        (body(GREY, data=[1.0]), 422, "a list of 128 numbers"),
        (body(GREY, data=["x"] * 128), 422, "a list of 128 numbers"),
        (body(GREY, data=[10**100] * 128), 422, "a list of 128 numbers"),
        (body(GREY, data=[[1], [1, 2]]), 422, "a list of 128 numbers"),
        (body(GREY, data={}), 422, "a list of 128 numbers"),
        (body(GREY, datatype="UINT8", data=[300] * 128), 422, "numbers of type UINT8"),
        (body(GREY + 1), 422, "pixels must lie in"),
        (body(GREY, parameters={"binary_data_size": 512}), 422, "bytes of data"),
        ({**body(GREY), "outputs": [{"name": "label"}]}, 422, "did you mean 'labels'"),
        ({**body(GREY), "outputs": [{"name": "labels", "parameters": {"classification": 3}}]}, 422, "not supported"),
        ({**body(GREY), "outputs": 3}, 422, "a list of objects"),
        ({**body(GREY), "parameters": {"point": "fast"}}, 403, "the policy sets the dial"),
        ({**body(GREY), "parameters": {"point": 3}}, 422, "the name of a point"),
        (b" " * 30_000, 413, "bytes"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(client: TestClient, given, status: int, message: str) -> None:
    content = given if isinstance(given, bytes) else json.dumps(given).encode()
    answer = client.post(INFER, content=content)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]
    assert len(answer.json()["error"]) < 300


@pytest.mark.parametrize("header", ["-1", "9" * 30, "99999", "²", "x", ""])
def test_a_length_that_is_none_is_refused(client: TestClient, header: str) -> None:
    answer = client.post(INFER, content=json.dumps(body(GREY)), headers={HEADER: header.encode()})
    assert answer.status_code == 400


def test_tokens_and_limits_hold_there_too(tmp_path) -> None:
    path = tmp_path / "tokens"
    path.write_text("predict-token-0123456789\n")
    options = Options(token=TOKEN, predict_token_file=path, client_dial=True, rate=1)
    with running(make_app(fake(bright), Policy(("safe",)), options)) as client:
        assert client.post(INFER, json=body(GREY)).status_code == 401
        asked = {**body(GREY), "parameters": {"point": "fast"}}
        there = client.post(INFER, json=asked, headers={**BEARER, "Host": "localhost"})
        assert there.json()["parameters"] == {"point": "fast"}
        assert client.post(INFER, json=asked, headers={**BEARER, "Host": "evil.example"}).status_code == 403
        assert client.post(INFER, json=body(GREY), headers=BEARER).status_code == 429
        packed = client.post(INFER, content=b"x", headers={**BEARER, "Content-Encoding": "gzip"})
        assert packed.status_code == 415


CLIENT = """
    import sys
    import numpy as np
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(sys.argv[1])
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("rheostat")
    assert client.get_server_metadata()["name"] == "rheostat"
    metadata = client.get_model_metadata("rheostat")
    x = np.full((3, 1, 8, 8), 0.75, np.float32)
    for binary in (True, False):
        given = triton.InferInput(metadata["inputs"][0]["name"], x.shape, metadata["inputs"][0]["datatype"])
        given.set_data_from_numpy(x, binary_data=binary)
        wanted = [triton.InferRequestedOutput(n, binary_data=binary) for n in ("probabilities", "labels")]
        for outputs in (wanted, None):
            found = client.infer("rheostat", [given], outputs=outputs, request_id="r")
            assert found.as_numpy("labels").tolist() == [7, 7, 7], found.get_response()
            assert found.as_numpy("probabilities").shape == (3, 10)
            assert found.get_response()["parameters"]["point"] == "safe"
            assert found.get_response()["id"] == "r"
    try:
        client.infer("other", [given])
    except InferenceServerException as error:
        assert "no model 'other'" in str(error), error
        print("answered")
"""


def test_tritonclient_works() -> None:
    """In a process of its own: the client is made of gevent."""
    pytest.importorskip("tritonclient")
    server = uvicorn.Server(config(make_app(fake(bright), Policy(("safe",))), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CLIENT), f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == "answered", done.stderr
    finally:
        server.should_exit = True
        thread.join()
