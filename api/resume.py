"""Reading on in a stream, on whatever api process, from its event log."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.answers import event_stream, job_headers
from api.departure import Departure
from api.deps import Broker
from api.replies import job_id_of, new_reader
from api.sse import NO_OPENING, Opening, StreamForm
from shared.domain.job import JobState, Surface
from shared.domain.principal import Principal
from shared.errors import InvalidRequest, NotFound
from shared.ids import JOB_ID
from shared.queue.frames import Result

_FORMS: Final[dict[Surface, StreamForm]] = {}


def register_form(surface: Surface, form: StreamForm) -> StreamForm:
    """Each surface says once how its stream events look, so that any process can replay them."""
    _FORMS[surface] = form
    return form


def form_of(surface: Surface) -> StreamForm:
    return _FORMS[surface]


async def resume(
    event_id: str,
    request: Request,
    principal: Principal,
    via: Broker,
    *,
    surface: Surface | None,
    opening: Opening = NO_OPENING,
    with_ids: bool = True,
) -> Response:
    """Go on with a stream behind `event_id`, on whatever process. Raises InvalidRequest, NotFound."""
    position = job_id_of(event_id)
    if position is None or not JOB_ID.match(position[0]):
        raise InvalidRequest("Last-Event-ID is not one that this API sent.", param="Last-Event-ID")
    job_id, ordinal = position
    reader = new_reader()
    found = await via.producer.attach(
        job_id, principal.account, reply_to=via.replies.channel, reader=reader, surface=surface
    )
    if found is None:
        raise NotFound("There is no such stream.")
    job = found.job
    reply = via.replies.expect(job, request.receive, reader=reader)
    departure = Departure(via, reply)
    departure.accepted = found.state in {JobState.QUEUED, JobState.RUNNING}
    try:
        reply.start_after(max(ordinal, opening.count))
        # Ended between attaching and registering: the hint is gone, the result is not.
        stored = found.result or await via.producer.result(job_id)
        if isinstance(stored, Result):
            if ordinal > opening.count:
                _check_ordinal(ordinal, stored)
            reply.offer(stored)
        return event_stream(
            reply, request, via, job.surface, _FORMS[job.surface], with_ids=with_ids,
            headers=job_headers(job, reply.result), departure=departure, opening=opening,
        )  # fmt: skip
    except BaseException:
        departure()
        raise


def _check_ordinal(ordinal: int, stored: Result) -> None:
    if ordinal > stored.last:
        raise InvalidRequest("Last-Event-ID lies behind the end of its stream.", param="Last-Event-ID")
