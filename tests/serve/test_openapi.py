"""The service against its own OpenAPI description."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import BEARER, MEASURED, TOKEN

from rheostat.models import artifact
from rheostat.points.point import Point
from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """The packaged model with three named points."""
    file = tmp_path_factory.mktemp("serve") / "model.safetensors"
    shutil.copy(artifact.packaged()["oat-digits"], file)
    for name, t in (("safe", 1.0), ("balanced", 0.5), ("fast", 0.0)):
        artifact.name_point(file, name, Point(robustness=t), MEASURED[name])
    return file


@pytest.mark.slow
def test_the_openapi_contract(model_file: Path) -> None:
    """schemathesis: whatever the schema allows, and what it does not, no answer is a server's error."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    app = make_app(service(str(model_file), backend="torch"), Policy(("safe",)), Options(token=TOKEN))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen = []
    assert json.loads(json.dumps(app.openapi()))["paths"].keys() >= {"/v1/predict", "/v1/policy", "/v1/points"}
    for operation in schema.get_all_operations():

        @settings(
            max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        @given(operation.ok().as_strategy())
        def run(case) -> None:
            answer = case.call(headers=BEARER)
            seen.append(answer.status_code)
            assert answer.status_code < 500 or case.operation.path in ("/readyz", "/v1/predict")

        run()
    assert len(seen) > 50
