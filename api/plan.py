"""HOT PATH. Where a request goes, and what a preset adds to it first."""

from __future__ import annotations

from typing import Any

from api.deps import Broker
from shared.domain.job import JobKind, Target
from shared.providers.presets import apply
from shared.providers.resolve import resolve


def choose_target(document: dict[str, Any], kind: JobKind, via: Broker) -> Target:
    """The target of a checked request. Where `model` is a preset's name, `document` is completed by it.

    Raises ModelNotFound, or InvalidRequest for what the preset cannot say in this kind of request.
    """
    registry = via.registry
    name = document["model"]
    if registry.presets and (preset := registry.presets.get(name)) is not None:
        apply(preset, document, kind)
        name = preset.model
    return resolve(name, registry, via.settings.default_provider, via.catalogue)
