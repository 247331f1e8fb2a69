"""docker-compose.yml as compose would read it: files merged, variables put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
BASE: Final = ROOT / "docker-compose.yml"
DEMO: Final = ROOT / "deploy" / "compose" / "demo.yml"
_VARIABLE: Final = re.compile(r"\$(?:(\$)|\{([A-Z_]+)(?::([-?])([^}]*))?\})")


class _Loader(yaml.SafeLoader):
    """Refuses what stands twice, as compose does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.value != "<<"]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"{node.start_mark}: {twice} twice"
        return super().construct_mapping(node, deep)


class Missing(Exception):
    """A variable that has no default is not set; the message is the file's own."""


def read(*files: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in files:
        text = file.read_text(encoding="utf-8")
        merged = _merge(merged, yaml.load(text, _Loader))  # noqa: S506 - it is a SafeLoader
    found: dict[str, Any] = _filled(merged, variables)
    return found


def env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def variables_of(text: str) -> set[str]:
    return {match[2] for match in _VARIABLE.finditer(text) if match[2]}


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|m)", text)
    assert found is not None, text
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]


def _merge(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        return {**under, **{key: _merge(under.get(key), value) for key, value in over.items()}}
    return over


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _put_in(match, variables), value)
    return value


def _put_in(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match[1]:
        return "$"
    found = variables.get(match[2], "")
    if not found and match[3] == "?":
        raise Missing(match[4])
    return found or (match[4] or "" if match[3] == "-" else "")
