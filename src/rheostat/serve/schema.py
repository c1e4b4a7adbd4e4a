"""The service's messages as pydantic models, from which its OpenAPI document is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=100)]


class Problem(BaseModel):
    """Why a request was refused, in a sentence."""

    detail: str


class PolicyBody(BaseModel):
    """The rules by which the server chooses points. Changing them requires a policy token."""

    model_config = ConfigDict(extra="forbid", strict=True, title="Policy")

    ladder: list[Name] = Field(
        min_length=1, max_length=64, description="Names of points, the preferred one first; later ones are cheaper."
    )
    target_ms: float = Field(
        50.0,
        gt=0,
        le=60000,
        description="The time in which a request should be answered (goodput, slack), or the wait above which the "
        "server steps down the ladder (steps).",
    )
    min_robust: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The server uses no point with a lower measured robust accuracy. Default: half the first point's.",
    )
    controller: Literal["goodput", "slack", "steps"] = Field(
        "goodput",
        description="How the server chooses a batch's point: by expected correct answers in time, by the time left to "
        "its requests, or by steps.",
    )


class StoredPolicy(PolicyBody):
    """A policy as a file stores it, with the hash of the model that it was set for."""

    artifact: str | None = Field(None, max_length=100)


class Prediction(BaseModel):
    """Labels and probabilities, and the point that produced them."""

    point: str
    at: dict[str, float]
    labels: list[str]
    probabilities: list[list[float]]
    ms: float


class Listing(BaseModel):
    """The named points, their measured numbers, and the policy."""

    artifact: str
    classes: list[str]
    points: dict[str, Any]
    policy: PolicyBody
    used: list[str] = Field(description="The points of the ladder that the policy's floor admits.")
    current: str


def problem(text: str) -> dict[str, Any]:
    """An OpenAPI response whose body is a `Problem`."""
    return {"description": text, "model": Problem}
