"""The list of models through the official Anthropic client: its form, its pages, its errors."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import httpx
import pytest

from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
def claude(broker: BrokerUnderTest) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=broker.url, api_key=broker.api_key, max_retries=0) as client:
        yield client


def test_models_of_every_provider_are_listed_page_by_page(
    claude: anthropic.Anthropic, http: httpx.Client
) -> None:
    pages = list(claude.models.list(limit=3).iter_pages())
    found = [model for page in pages for model in page.data]

    assert len(pages) > 3
    assert all(len(page.data) == 3 for page in pages[:-1])
    assert [page.has_more for page in pages] == [True] * (len(pages) - 1) + [False]
    assert all(page.first_id == page.data[0].id for page in pages)
    assert all(page.last_id == page.data[-1].id for page in pages)
    assert len({model.id for model in found}) == len(found)
    assert {"gpt-4o-mini", "claude-haiku-4-5"} <= {model.id for model in found}
    assert {model.type for model in found} == {"model"}


def test_a_page_before_a_model_ends_with_its_neighbour(claude: anthropic.Anthropic) -> None:
    first = claude.models.list(limit=5).data

    page = claude.models.list(limit=2, before_id=first[4].id)

    assert [model.id for model in page.data] == [first[2].id, first[3].id]
    assert page.has_more
    assert not claude.models.list(limit=9, before_id=first[2].id).has_more
    assert [m.id for m in claude.models.list(limit=9, before_id=first[2].id).data] == [
        m.id for m in first[:2]
    ]


@pytest.mark.parametrize("name", ["claude-haiku-4-5", "anthropic/claude-haiku-4-5"])
def test_a_model_is_described(claude: anthropic.Anthropic, name: str) -> None:
    model = claude.models.retrieve(name)

    assert (model.type, model.id, model.display_name) == ("model", "claude-haiku-4-5", "claude-haiku-4-5")
    assert model.created_at.isoformat() == "2025-10-01T00:00:00+00:00"


def test_an_unknown_model_is_not_found_in_anthropic_s_form(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missed:
        claude.models.retrieve("claude-nine")

    assert isinstance(missed.value.body, dict)
    assert missed.value.body["type"] == "error"
    assert missed.value.body["error"]["type"] == "not_found_error"


def test_a_wrong_key_is_refused_in_anthropic_s_form(broker: BrokerUnderTest) -> None:
    with (
        anthropic.Anthropic(base_url=broker.url, api_key="gw_live_wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        stranger.models.list()

    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "limit=",
        "after_id=nobody-s-model",
        "before_id=",
        "after_id=gpt-4o-mini&before_id=gpt-4o-mini",
    ],
)
def test_a_page_that_makes_no_sense_is_refused_with_the_field(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/v1/models?{query}", headers=VERSION)

    assert answer.status_code == 400
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert query.partition("=")[0] in body["error"]["message"] or "before_id" in body["error"]["message"]


def test_the_same_path_without_a_version_keeps_openai_s_form(http: httpx.Client) -> None:
    assert http.get("/v1/models?limit=0").json()["object"] == "list"
    assert http.get("/v1/models/claude-haiku-4-5").json()["object"] == "model"
    assert http.get("/v1/models/anthropic%2Fclaude-haiku-4-5", headers=VERSION).json()["type"] == "model"
    assert http.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"
