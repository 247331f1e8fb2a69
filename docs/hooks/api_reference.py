"""Reference of the HTTP API, made of the broker's own OpenAPI document: a page a tag, one of all schemas."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from http import HTTPStatus
from typing import Any, Final

from api.main import create_app
from shared.settings import Settings

Pages = dict[str, str]

FOLDER: Final = "reference/api"
_SCHEMAS: Final = "schemas.md"
_PREFIX: Final = "#/components/schemas/"
_NOT_FOR_ANCHORS: Final = re.compile(r"[^a-z0-9]+")
_LIMITS: Final = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "format")


def document() -> dict[str, Any]:
    """What an api with default settings serves at /openapi.json."""
    # Nothing is opened: connections are made when the application starts.
    settings = Settings(_env_file=None)
    _, app = create_app(settings, "redis://127.0.0.1:6379", b"no key is digested here: just the document")
    found: dict[str, Any] = app.openapi()
    return found


def pages(openapi: dict[str, Any]) -> Pages:
    """By path within docs/."""
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append((method.upper(), path, operation))
    made = {f"{FOLDER}/{_anchor(tag)}.md": _tag_page(tag, operations) for tag, operations in by_tag.items()}
    made[f"{FOLDER}/{_SCHEMAS}"] = _schemas_page(openapi["components"]["schemas"])
    made[f"{FOLDER}/index.md"] = _index(by_tag)
    return made


def anchor_of(method: str, path: str) -> str:
    return _anchor(f"{method} {path}")


def _index(by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]]) -> str:
    lines = [
        "# HTTP API",
        "",
        "Made of the broker's own OpenAPI document, which a running broker shows at `/docs` and serves at",
        "`/openapi.json` ([security](../../security.md) says when). The same document: [openapi.json](../openapi.json).",
        "",
        "Send the key as `Authorization: Bearer ...`, or as `x-api-key`. What request headers mean, and which headers",
        "answers carry, is in [the API at a glance](../../api.md); errors are in [errors](../errors.md).",
    ]
    for tag, operations in by_tag.items():
        page = f"{_anchor(tag)}.md"
        lines += ["", f"## [{tag}]({page}) {{#{_anchor(tag)}}}", "", "| route | what |", "| --- | --- |"]
        lines += [
            f"| [`{method} {path}`]({page}#{anchor_of(method, path)}) | {_cell(operation.get('summary', ''))} |"
            for method, path, operation in operations
        ]
    return "\n".join(lines) + "\n"


def _tag_page(tag: str, operations: list[tuple[str, str, dict[str, Any]]]) -> str:
    lines = [f"# {tag}"]
    for method, path, operation in operations:
        lines += ["", f"## `{method} {path}` {{#{anchor_of(method, path)}}}", ""]
        lines += [f"**{operation.get('summary', '')}.**", "", operation.get("description", ""), ""]
        if "security" not in operation:
            lines += ["Asks for no key.", ""]
        lines += _parameters(operation)
        lines += _body(operation)
        lines += _answers(operation)
    return "\n".join(lines) + "\n"


def _parameters(operation: dict[str, Any]) -> list[str]:
    found = operation.get("parameters", [])
    if not found:
        return []
    lines = ["| parameter | in | type | |", "| --- | --- | --- | --- |"]
    for one in found:
        name = f"`{one['name']}`" + (" (required)" if one.get("required") else "")
        schema = one.get("schema", {})
        told = one.get("description") or schema.get("description", "")
        lines.append(f"| {name} | {one['in']} | {_type(schema)} | {_cell(told)} {_default(schema)} |")
    return [*lines, ""]


def _body(operation: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        lines += [f"Body, `{kind}`: {_type(schema)}", ""]
        if required := schema.get("required"):
            lines += ["Required: " + ", ".join(f"`{name}`" for name in required), ""]
        if "example" in content:
            lines += ["```json", json.dumps(content["example"], indent=2, ensure_ascii=False), "```", ""]
    return lines


def _answers(operation: dict[str, Any]) -> list[str]:
    lines = ["| status | | body |", "| --- | --- | --- |"]
    for status, answer in operation["responses"].items():
        bodies = [
            _type(content["schema"]) if content.get("schema") else f"`{kind}`"
            for kind, content in answer.get("content", {}).items()
        ]
        told = answer.get("description", "")
        if told == "Successful Response":
            told = HTTPStatus(int(status)).phrase
        lines.append(f"| {status} | {_cell(told)} | {', '.join(bodies)} |")
    return [*lines, ""]


def _schemas_page(schemas: dict[str, Any]) -> str:
    lines = ["# Schemas", "", "Bodies of requests and answers, as the routes name them."]
    for name, schema in sorted(schemas.items(), key=lambda item: _shown(item[0]).lower()):
        lines += ["", f"## {_shown(name)} {{#{_schema_anchor(name)}}}", ""]
        if told := schema.get("description"):
            lines += [told, ""]
        lines += _fields(schema)
    return "\n".join(lines) + "\n"


def _fields(schema: dict[str, Any]) -> list[str]:
    fields = schema.get("properties")
    if not fields:
        return [_type({key: value for key, value in schema.items() if key != "title"}), ""]
    required = set(schema.get("required", []))
    lines = ["| field | type | |", "| --- | --- | --- |"]
    for name, field in fields.items():
        shown = f"`{name}`" + (" (required)" if name in required else "")
        lines.append(
            f"| {shown} | {_type(field)} | {_cell(field.get('description', ''))} {_default(field)} |"
        )
    return [*lines, ""]


def _type(schema: dict[str, Any]) -> str:
    """One line of markdown that fits into a cell."""
    if ref := schema.get("$ref"):
        name = ref.removeprefix(_PREFIX)
        return f"[{_shown(name)}]({_SCHEMAS}#{_schema_anchor(name)})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}{_limits(schema)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return f"{kind}{_limits(schema)}"


def _limits(schema: dict[str, Any]) -> str:
    told = [f"{name} `{_code(schema[name])}`" for name in _LIMITS if name in schema]
    return f" ({', '.join(told)})" if told else ""


def _default(schema: dict[str, Any]) -> str:
    if schema.get("default") is None:
        return ""
    return f"Default `{_code(json.dumps(schema['default']))}`."


def _code(value: object) -> str:
    return str(value).replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shown(name: str) -> str:
    """`api__unified_v1__schemas__ErrorAnswer` is how pydantic tells two of one name apart."""
    *modules, last = name.split("__")
    return f"{last} ({modules[1].split('_')[0]})" if len(modules) > 1 else name


def _schema_anchor(name: str) -> str:
    return _anchor(name)


def _anchor(text: str) -> str:
    return _NOT_FOR_ANCHORS.sub("-", text.lower()).strip("-")
