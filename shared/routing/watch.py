"""The routing table in force: the file's latest version that can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loguru import logger

from shared.providers.catalogue import Catalogue
from shared.providers.registry import Registry
from shared.routing.routing_file import RoutingFileInvalid
from shared.routing.table import RoutingTable, read_table

LOOK_SECONDS: Final = 2.0

_Version = tuple[int, int, int]


class RoutingWatch:
    """`table` is replaced whole, so whoever took it reads one version."""

    def __init__(
        self, path: Path | None, registry: Registry, catalogue: Catalogue, default_provider: str
    ) -> None:
        """Raises RoutingFileInvalid."""
        self._path = path
        self._registry = registry
        self._catalogue = catalogue
        self._default_provider = default_provider
        self._seen = None if path is None else _version(path)
        self.table = RoutingTable() if path is None else self._read(path)

    def look(self) -> bool:
        """Read the file again if it changed; whether its table is now in force. A version that cannot
        be used is told once, and the one before it stays.
        """
        if self._path is None:
            return False
        # Taken before the file is read: what is written meanwhile is a change at the next look.
        version = _version(self._path)
        if version == self._seen:
            return False
        self._seen = version
        try:
            self.table = self._read(self._path)
        except RoutingFileInvalid as invalid:
            logger.warning("routing file not used", problem=str(invalid))
            return False
        logger.info("routing file read", routes=len(self.table.routes), fallbacks=len(self.table.fallbacks))
        return True

    def _read(self, path: Path) -> RoutingTable:
        return read_table(path, self._registry, self._catalogue, self._default_provider)


def _version(path: Path) -> _Version | None:
    """The inode too: a file that was moved over another may keep time and size. None: not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
