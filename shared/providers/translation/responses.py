"""OpenAI Responses, said through chat to every provider, OpenAI's own among them.

    responses_request.py   parameters on the way out
    responses_input.py     the conversation on the way out
    responses_events.py    an answer on the way back, streamed or whole
    responses_object.py    the object that both end in

Through chat for OpenAI as well: what is stored, resumed and continued is ours, so a
conversation can go on with any other provider.
"""

from __future__ import annotations

from typing import Any, Final

from shared.errors import InvalidRequest
from shared.providers.dialect import Call, ProviderRequest
from shared.providers.dialects.openai_chat import parse_request
from shared.providers.not_carried_over import not_carried_over
from shared.providers.translation.responses_events import ResponseEvents
from shared.providers.translation.responses_request import in_this_form, to_chat
from shared.providers.translation.via_chat import ViaChat


class ResponsesViaChat:
    """See `Translation`."""

    def to_chat(self, call: Call) -> dict[str, Any]:
        return to_chat(call)

    def from_chat(self, completion: dict[str, Any], call: Call) -> dict[str, Any]:
        """A whole answer is a stream of one chunk, so that both are read alike."""
        events = self.open_events(call)
        choices = completion.get("choices") or []
        events.feed({**completion, "choices": [{**choice, "delta": choice["message"]} for choice in choices]})
        events.end()
        return events.response

    def open_events(self, call: Call) -> ResponseEvents:
        return ResponseEvents(
            parse_request(call.body), job_id=call.job_id, model=call.target.model, profile=call.profile
        )


class _ResponsesCodec(ViaChat):
    def encode(self, call: Call) -> ProviderRequest:
        try:
            return super().encode(call)
        except InvalidRequest as refusal:
            if refusal.code != "unsupported_parameter" or refusal.param is None:
                raise
            param = in_this_form(refusal.param, parse_request(call.body))
            reason = refusal.message.removeprefix(f"{refusal.param}: ")
            raise not_carried_over(param, reason) from refusal


responses_via_chat: Final = _ResponsesCodec(ResponsesViaChat())
