"""Files, through the official OpenAI client: uploaded, listed in pages, read and deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import openai
import pytest

from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

LINES = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@pytest.fixture(autouse=True)
def no_files(client: openai.OpenAI) -> None:
    for file in client.files.list():
        client.files.delete(file.id)


def test_a_file_is_uploaded_read_and_deleted(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(LINES)

    file = client.files.create(file=path, purpose="batch")

    assert file.id.startswith("file-")
    assert (file.object, file.filename, file.purpose) == ("file", "input.jsonl", "batch")
    assert (file.bytes, file.status) == (len(LINES), "processed")
    assert abs(file.created_at - time.time()) < 60
    assert file.expires_at == file.created_at + 2_592_000
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == LINES
    assert client.files.wait_for_processing(file.id) == file
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


async def test_the_asynchronous_client_does_the_same(async_client: openai.AsyncOpenAI) -> None:
    content = os.urandom(3_000_000)

    file = await async_client.files.create(file=("données.bin", content), purpose="user_data")

    assert (file.filename, file.expires_at) == ("données.bin", None)
    async with async_client.files.with_streaming_response.content(file.id) as answer:
        assert b"".join([chunk async for chunk in answer.iter_bytes()]) == content
    assert [listed.id async for listed in async_client.files.list()] == [file.id]


def test_a_file_expires_when_its_upload_says(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", LINES),
        purpose="batch",
        extra_body={"expires_after": {"anchor": "created_at", "seconds": 3600}},
    )

    assert file.expires_at == file.created_at + 3600


def test_files_are_listed_in_pages_newest_first(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.jsonl", LINES), purpose="batch").id for n in range(5)]
    client.files.create(file=("other.bin", LINES), purpose="user_data")

    page = client.files.list(limit=2, purpose="batch")

    assert [file.id for file in page.data] == [made[4], made[3]]
    assert page.has_more
    assert [file.id for file in page] == made[::-1]
    assert [file.id for file in client.files.list(limit=2, purpose="batch", order="asc")] == made
    assert len(list(client.files.list())) == 6


def test_a_purpose_that_is_none_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.files.create(file=("a.jsonl", LINES), purpose="fun")  # type: ignore[arg-type]  # wrong on purpose

    assert raised.value.param == "purpose"


def test_another_account_s_file_is_not_there(client: openai.OpenAI, broker: BrokerUnderTest) -> None:
    file = client.files.create(file=("a.jsonl", LINES), purpose="batch")

    with openai.OpenAI(base_url=broker.base_url, api_key=broker.other_api_key, max_retries=0) as other:
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(file.id)
        assert file.id not in {one.id for one in other.files.list()}
    assert client.files.content(file.id).content == LINES
