"""`POST /api/v1/embeddings`: vectors alone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("contract")

PATH = "/api/v1/embeddings"


def asked(model: str = "plain", **fields: Any) -> dict[str, Any]:
    return {"provider": "library", "model": model, "input": ["one text", "another"], **fields}


@pytest.mark.parametrize("model", ["plain", "base64"])
def test_an_answer_is_a_list_of_vectors(http: httpx.Client, model: str) -> None:
    answer = http.post(PATH, json=asked(model)).json()

    assert answer == {
        "embeddings": [[0.0, 0.5, -0.25], [1.0, 0.5, -0.25]],
        "model": model,
        "usage": {"total_tokens": 3},
    }


def test_one_input_has_a_list_of_one_vector(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asked(input="one text")).json()

    assert answer["embeddings"] == [[0.0, 0.5, -0.25]]


def test_the_provider_may_stand_in_the_model_instead(http: httpx.Client) -> None:
    body = asked("library/plain")
    del body["provider"]

    assert http.post(PATH, json=body).json()["model"] == "plain"


@pytest.mark.parametrize(("model", "status"), [("garbage", 502), ("refuse", 400)])
def test_a_failing_provider_is_named(http: httpx.Client, model: str, status: int) -> None:
    response = http.post(PATH, json=asked(model))

    assert response.status_code == status
    assert response.json()["error"]["details"]["provider"] == "library"


def test_an_unknown_provider_is_not_found_and_those_there_are_get_listed(http: httpx.Client) -> None:
    response = http.post(PATH, json=asked() | {"provider": "nobody"})

    assert response.status_code == 404
    assert "library" in response.json()["error"]["details"]["available_providers"]
