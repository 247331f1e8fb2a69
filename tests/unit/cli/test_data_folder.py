"""Files of the data folder: whole, private, and one broker's at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli import data_folder


def test_an_empty_secret_that_a_crash_left_is_made_anew_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "key-pepper"
    file.touch()

    made = data_folder.kept_secret(file)

    assert len(made) >= 32
    assert data_folder.kept_secret(file) == made
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_crash_while_a_secret_is_written_leaves_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: int) -> None:
        raise OSError

    monkeypatch.setattr(os, "fsync", crash)

    with pytest.raises(OSError):  # noqa: PT011 - whichever it is
        data_folder.kept_secret(tmp_path / "key-pepper")

    assert list(tmp_path.iterdir()) == []


def test_folder_and_database_are_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    data_folder.prepare(folder)

    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "headrace.db").stat().st_mode & 0o777 == 0o600


def test_the_lock_is_held_once_and_tells_whose_redis_runs(tmp_path: Path) -> None:
    data_folder.announce_redis(tmp_path, "redis://here")
    assert data_folder.running_redis(tmp_path) is None

    held = data_folder.lock(tmp_path)

    assert held is not None
    assert data_folder.lock(tmp_path) is None
    assert data_folder.running_redis(tmp_path) == "redis://here"
    os.close(held)
    assert data_folder.running_redis(tmp_path) is None
