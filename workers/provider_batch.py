"""A step with a provider's own batch API, as a job: only workers hold keys.

    submit   found again by its mark, or uploaded and created ──> how it stands
    find     looked for and not created ──> how it stands, or null
    poll     asked after ──> how it stands
    cancel   asked to stop ──> how it stands
    fetch    its results go into the storage ──> under which key

Every step may be done twice, for its worker may die before anybody hears of it. What `submit` looks for
first is the batch of a try before; what is left is a batch that its provider does not list yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import orjson
from loguru import logger

from shared import faultpoints
from shared.domain.job import Job
from shared.errors import BrokerError, ProviderAnswerInvalid, ProviderTimeout
from shared.providers import refusals
from shared.providers.batch_apis import BatchApi, BatchState, Told
from shared.providers.credentials import OwnKey
from shared.providers.profile import ProviderProfile, not_served
from shared.settings import Settings
from shared.storage.objects import NoSuchObject, Storage, new_key
from workers.call_provider import FOREIGN, map_foreign, read_capped
from workers.transport import Transport, headers_for

_MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 65_536
_SKEW_SECONDS: Final = 600
"""How far a provider's clock may be behind ours."""
_CANNOT_BE_CANCELLED: Final = frozenset({400, 404, 409})
"""It has ended meanwhile, or is not there: asking after it tells."""


async def run_step(
    job: Job,
    profile: ProviderProfile,
    auth_headers: Mapping[str, str],
    *,
    own: OwnKey | None,
    is_again: bool,
    remaining_seconds: float,
    transport: Transport,
    storage: Storage | None,
    settings: Settings,
) -> bytes:
    """The answer of the job. `is_again`: another run of it may have come far.

    Raises BrokerError.
    """
    if profile.batches is None:
        raise not_served(profile, job.kind)
    if storage is None:
        raise BrokerError("This worker has no storage of files.")
    session = transport.session(profile, job.target.credential, {**profile.headers, **auth_headers})
    step = _Step(profile, profile.batches, session, own, storage, settings)
    said = orjson.loads(job.body)
    total = min(settings.batches.provider_transfer_seconds, max(0.0, remaining_seconds))
    try:
        async with asyncio.timeout(total):
            match said["step"]:
                case "submit":
                    return await step.submit(said, is_again=is_again or said["again"])
                case "find":
                    found = await step.find(said)
                    return b"null" if found is None else found.to_wire()
                case "poll":
                    if said["is_new"]:
                        await step.cancel_others(said)
                    return (await step.look(said["id"])).to_wire()
                case "cancel":
                    return (await step.cancel(said["id"])).to_wire()
                case "fetch":
                    return await step.fetch(said["results"])
    except TimeoutError as exc:
        if isinstance(exc, aiohttp.ClientError):
            raise map_foreign(exc, profile) from exc
        raise ProviderTimeout(
            f"{profile.name} did not answer about a batch in time.", provider=profile.id
        ) from exc
    except FOREIGN as exc:
        raise map_foreign(exc, profile) from exc
    raise BrokerError("This step with a batch is not known here.")


@dataclass(frozen=True, slots=True)
class _Step:
    profile: ProviderProfile
    api: BatchApi
    session: aiohttp.ClientSession
    own: OwnKey | None
    storage: Storage
    settings: Settings

    async def submit(self, said: Mapping[str, Any], *, is_again: bool) -> bytes:
        # What no mark tells is not looked for where nothing can be there.
        found = await self.find(said) if self.api.marks or is_again else None
        if found is None:
            # Where its provider keeps no mark, that we created it is known only here.
            found = replace(await self._create(said), mark=said["mark"])
            faultpoints.hit("W13")
        return found.to_wire()

    async def find(self, said: Mapping[str, Any]) -> Told | None:
        """The batch of a submission of which nobody heard how it ended."""
        if not self.api.marks:
            return await self._likely(said)
        marked = await self._marked(said["mark"], since=said["since"])
        return marked[0] if marked else None

    async def look(self, batch: str) -> Told:
        async with self._ask("GET", self._path_of(batch)) as response:
            if response.status == 404:
                return Told(batch, BatchState.FAILED, problem=f"{self.profile.name} knows it no more.")
            return self._read_batch(await self._body(response))

    async def cancel(self, batch: str) -> Told:
        async with self._ask("POST", f"{self._path_of(batch)}/cancel") as response:
            if response.status not in _CANNOT_BE_CANCELLED:
                return self._read_batch(await self._body(response))
        return await self.look(batch)

    async def fetch(self, results: list[str]) -> bytes:
        key, size = new_key(), 0
        async with self.storage.open_writer(key) as writer:
            for where in results:
                last = b"\n"
                async with self._ask("GET", where) as response:
                    if response.status != 200:
                        await self._body(response)
                    async for chunk in response.content.iter_any():
                        size += len(chunk)
                        last = chunk[-1:] or last
                        await writer.write(chunk)
                if last != b"\n":
                    await writer.write(b"\n")
        faultpoints.hit("W14")
        return orjson.dumps({"key": key, "size": size})

    async def cancel_others(self, said: Mapping[str, Any]) -> None:
        """Of the mark of a batch: what a worker created that was thought dead, and was only frozen."""
        if not self.api.marks:
            return
        for told in await self._marked(said["mark"], since=said["since"]):
            if told.id != said["id"] and told.state is BatchState.RUNNING:
                logger.warning("second batch of one hand-over cancelled", mark=said["mark"], batch=told.id)
                await self.cancel(told.id)

    async def _marked(self, mark: str, *, since: int) -> list[Told]:
        """Of that mark, the oldest first."""
        ours = [told async for told in self._listed(since) if told.mark == mark]
        return sorted(ours, key=lambda told: (told.created_at, told.id))

    async def _likely(self, said: Mapping[str, Any]) -> Told | None:
        """The first of as many requests that was created since: whether it is ours, its results tell."""
        found = [
            told
            async for told in self._listed(said["since"])
            if told.total == said["requests"] and told.id not in said["others"]
        ]
        return min(found, key=lambda told: (told.created_at, told.id), default=None)

    async def _listed(self, since: int) -> AsyncIterator[Told]:
        oldest = since - _SKEW_SECONDS
        path: str | None = self.api.list_path(self.profile)
        while path is not None:
            async with self._ask("GET", path) as response:
                body = await self._body(response)
            try:
                page = self.api.read_page(self.profile, body)
            except (ValueError, TypeError) as exc:
                raise self._invalid("no list of batches") from exc
            for told in page.batches:
                if told.created_at < oldest:
                    return
                yield told
            path = page.onward

    async def _create(self, said: Mapping[str, Any]) -> Told:
        key, path = said["key"], self.api.batches_path(self.profile)
        try:
            size = await self.storage.size(key)
        except NoSuchObject:
            raise BrokerError("The worker does not see the storage that holds this batch.") from None
        form = self.api.upload(f"{said['mark']}.jsonl")
        if form is None:
            return self._read_batch(await self._send(path, self._content(key), size, said["headers"]))
        body = await self._send(
            self.api.files_path(self.profile),
            self._content(key, form.head, form.tail),
            len(form.head) + size + len(form.tail),
            {"content-type": form.content_type},
        )
        try:
            file = self.api.read_file(body)
        except (ValueError, TypeError) as exc:
            raise self._invalid("no file") from exc
        faultpoints.hit("W12")
        async with self._ask(
            "POST", path, data=self.api.create(file, said["endpoint"], said["mark"]), headers=said["headers"]
        ) as response:
            return self._read_batch(await self._body(response))

    async def _send(
        self, path: str, content: AsyncGenerator[bytes], size: int, headers: Mapping[str, str]
    ) -> bytes:
        async with (
            aclosing(content),
            self._ask(
                "POST", path, data=content, headers={"content-length": str(size), **headers}
            ) as response,
        ):
            return await self._body(response)

    async def _content(self, key: str, head: bytes = b"", tail: bytes = b"") -> AsyncGenerator[bytes]:
        if head:
            yield head
        async with aclosing(self.storage.read(key)) as chunks:
            async for chunk in chunks:
                yield chunk
        if tail:
            yield tail

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        *,
        data: bytes | AsyncGenerator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`path`: below the base URL, or a URL of the provider's own origin."""
        url = self.profile.url(path) if path.startswith("/") else path
        with_key = headers_for(self.own, url, self.profile, data if isinstance(data, bytes) else b"")
        async with self.session.request(
            method, url, data=data, headers={**(headers or {}), **with_key}, allow_redirects=False
        ) as response:
            yield response

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Raises ProviderError for any answer but a good one."""
        if response.status in {200, 201}:
            return await read_capped(response, _MAX_ANSWER_BYTES, self.profile)
        body = await read_capped(response, _MAX_ERROR_BYTES, self.profile, truncate=True)
        told = {name.lower(): value for name, value in response.headers.items()}
        whose = refusals.OURS if self.own is None else refusals.THE_ACCOUNTS
        raise refusals.from_http(response.status, told, body, profile=self.profile, whose=whose)

    def _path_of(self, batch: str) -> str:
        return f"{self.api.batches_path(self.profile)}/{quote(batch, safe='')}"

    def _read_batch(self, body: bytes) -> Told:
        try:
            return self.api.read_batch(self.profile, body)
        except (ValueError, TypeError) as exc:
            raise self._invalid("no batch") from exc

    def _invalid(self, what: str) -> ProviderAnswerInvalid:
        return ProviderAnswerInvalid(f"{self.profile.name} answered with {what}.", provider=self.profile.id)
