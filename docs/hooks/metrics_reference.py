"""Reference of the metrics, made of those that are declared."""

from __future__ import annotations

import re
from typing import Final

from shared.observability import metrics

PAGE: Final = "reference/metrics.md"
_HEAD: Final = """# Metrics

What `/metrics` tells, made of the declarations. Label values come from code and configuration, never from a request. Who
may read them is in [security](../security.md#what-is-open).

| metric | kind | labels | |
| --- | --- | --- | --- |
"""
_LABELLED: Final = re.compile(r"^ {4}(gateway_\w+)\{([^}]*)\}", re.MULTILINE)
_SUFFIX: Final = {"counter": "_total"}


def page() -> str:
    labels = dict(_LABELLED.findall(metrics.__doc__ or ""))
    rows = []
    for family in sorted(metrics.REGISTRY.collect(), key=lambda family: family.name):
        name = family.name + _SUFFIX.get(family.type, "")
        told = " ".join(family.documentation.split()).replace("|", "\\|")
        named = ", ".join(f"`{label}`" for label in labels.get(name, "").split(",") if label)
        rows.append(f"| `{name}` | {family.type} | {named} | {told} |")
    return _HEAD + "\n".join(rows) + "\n"
