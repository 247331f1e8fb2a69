"""What pydantic finds wrong with a request, as our error: paths and problems, never values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from shared.errors import InvalidRequest
from shared.requests.json_body import render_path

MAX_PROBLEMS: Final = 10


def from_pydantic(exc: ValidationError, *, tagged: frozenset[str] = frozenset()) -> InvalidRequest:
    """The validation error as ours: paths and problems, never values.

    `tagged` names the lists whose items are told apart by a field: pydantic puts the
    tag into the path behind the index, where no caller would look for it. Tags of other
    unions are left out when they start with `~`.
    """
    return from_problems(
        exc.errors(include_url=False, include_context=True, include_input=False), tagged=tagged
    )


def from_problems(
    problems: Iterable[Mapping[str, Any]], *, tagged: frozenset[str] = frozenset()
) -> InvalidRequest:
    found: dict[tuple[str | int, ...], list[tuple[str, str]]] = {}
    for problem in problems:
        path, said = _restate(problem, _path(problem["loc"], tagged))
        found.setdefault(path, []).append((problem["type"], said))
    # A union reports each branch; the branch that got deepest is the one that was meant.
    deepest = {
        path: _one_sentence(told)
        for path, told in found.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in found)
    }
    details = [{"path": render_path(path), "problem": said} for path, said in deepest.items()]
    first = details[0]
    where = first["path"] or "The body"
    more = f" ({len(details) - 1} more)" if len(details) > 1 else ""
    return InvalidRequest(
        f"{where}: {first['problem']}{more}",
        param=first["path"] or None,
        details={"errors": details[:MAX_PROBLEMS]},
    )


def _one_sentence(told: list[tuple[str, str]]) -> str:
    """At one path, a branch of the right type and a wrong value tells more than "not a string"."""
    about_values = [said for kind, said in told if not kind.endswith("_type")]
    return about_values[0] if about_values else ", or: ".join(dict.fromkeys(said for _, said in told))


def _path(location: tuple[str | int, ...], tagged: frozenset[str]) -> tuple[str | int, ...]:
    path: list[str | int] = []
    for index, step in enumerate(location):
        if isinstance(step, str):
            if step.startswith("~") or step == "[key]":
                continue
            if index >= 2 and isinstance(location[index - 1], int) and location[index - 2] in tagged:
                continue
        path.append(step)
    return tuple(path)


def _restate(problem: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """Pydantic's sentence, except where it quotes the value."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "union_tag_invalid":
            field = str(context["discriminator"]).strip("'")
            return (*path, field), f"must be one of {context['expected_tags']}"
        case "union_tag_not_found":
            return (*path, str(context["discriminator"]).strip("'")), "is required"
        case "missing":
            return path, "is required"
        case "value_error":
            return path, str(context["error"])
        case _:
            return path, str(problem["msg"])
