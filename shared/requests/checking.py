"""A TypeAdapter as a judge of parsed bodies: nothing is converted, what is wrong is told by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from shared.errors import InvalidRequest
from shared.requests.problems import from_pydantic


def check(adapter: TypeAdapter[Any], body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422) with path and problem of what is wrong."""
    try:
        adapter.validator.validate_python(body)
    except ValidationError as exc:
        raise from_pydantic(exc, tagged=_TAGGED) from None


def fault(path: str, problem: str) -> InvalidRequest:
    """The same error for what only a look at several fields tells."""
    return InvalidRequest(
        f"{path}: {problem}", param=path, details={"errors": [{"path": path, "problem": problem}]}
    )


def refuse_several_answers(document: Mapping[str, Any]) -> None:
    """Raises InvalidRequest (422). For streams whose events do not say which answer they are of.

    To be asked once a preset had its say.
    """
    if document.get("n") not in (None, 1):
        raise fault("n", "this route streams one answer alone")


_TAGGED: Final = frozenset({"messages"})
"""Lists whose items are told apart by a field; see `from_pydantic`."""
