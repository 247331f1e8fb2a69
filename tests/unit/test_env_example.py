"""`.env.example` and the settings cannot drift apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import AliasChoices, BaseModel

from shared.settings import Settings

_LINE = re.compile(r"#([A-Z][A-Z0-9_]*)=(.*)")


def written() -> dict[str, str]:
    text = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def names_of(field: str) -> set[str]:
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return {str(choice) for choice in alias.choices}
    return {str(alias or f"HEADRACE_{field.upper()}")}


def groups() -> dict[str, BaseModel]:
    return {
        name: field.default
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
    }


def test_every_setting_is_in_the_example_once_and_nothing_else_is() -> None:
    expected = {
        f"HEADRACE_{group.upper()}__{name.upper()}"
        for group, settings in groups().items()
        for name in type(settings).model_fields
    }
    flat = [names_of(name) for name in Settings.model_fields if name not in groups()]

    found = set(written())

    assert all(len(names & found) == 1 for names in flat)
    assert found - set().union(*flat) == expected


def test_the_example_shows_the_defaults() -> None:
    lines = written()

    for group, settings in groups().items():
        for name in type(settings).model_fields:
            value = getattr(settings, name)
            as_json = isinstance(value, bool | tuple)
            unset = "" if value is None else str(value)
            shown = json.dumps(value) if as_json else unset
            assert lines[f"HEADRACE_{group.upper()}__{name.upper()}"] == shown


def test_the_example_uncommented_is_a_valid_configuration(tmp_path: Path) -> None:
    example = tmp_path / ".env"
    example.write_text("\n".join(f"{name}={value}" for name, value in written().items()))

    settings = Settings(_env_file=example)

    assert settings.port == 8000
    assert settings.queue.lease_idle_seconds == 20


def test_no_secret_has_a_default() -> None:
    kinds: list[type[BaseModel]] = [Settings, *(type(group) for group in groups().values())]
    for settings in kinds:
        for name, field in settings.model_fields.items():
            if "SecretStr" in str(field.annotation):
                assert field.default is None, name
