"""The files, read once, and the one route that serves them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from shared.errors import NotFound

router: Final = APIRouter(include_in_schema=False)

PREFIX: Final = "/dashboard"
FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> File:
        content = path.read_bytes()
        return cls(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


# By name: what is not in the folder at the start is nowhere, however a path is written.
FILES: Final = {path.name: File.read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in _TYPES}


@router.get(PREFIX)
async def without_slash() -> Response:
    """Where the names of the files are relative to."""
    return Response(status_code=307, headers={"location": f"{PREFIX}/"})


@router.get(f"{PREFIX}/")
async def index(request: Request) -> Response:
    return _answer(request, "index.html")


@router.get(f"{PREFIX}/{{name}}")
async def file(request: Request, name: str) -> Response:
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    found = FILES.get(name)
    if found is None:
        raise NotFound("There is nothing at this path.")
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if found.etag in known:
        return Response(status_code=304, headers={"etag": found.etag})
    return Response(found.content, headers={"etag": found.etag, "content-type": found.media_type})
