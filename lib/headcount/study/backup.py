"""A copy of a study in a place that outlives the machine: Colab's Drive, a cluster's store.

What a study needs in order to go on is copied after each chapter: its results, its models, and
Snakemake's notes on what is up to date. Checkpoints of the chapter under way stay behind. A
manifest says what the copy holds, with sizes and times (the place may not keep them); it forgets a
file before that changes and names it again once it is whole, so that a copy that was cut off
half way brings back less, and nothing that does not fit together.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from pathlib import Path

from headcount.errors import InputError
from headcount.parameters import check_writable
from headcount.records import write_json

BACKUP_VARIABLE = "HEADCOUNT_BACKUP"
"""Environment variable that stands for a ``--backup`` that is not given."""
MANIFEST = "manifest.json"
NOTES = Path(".snakemake/metadata")
LEFT_BEHIND = {"training", "logs"}


def keep(profile: str, place: Path) -> None:
    """Bring the copy of a study in ``place``/``profile`` up to date.

    Raises:
        InputError: ``place`` cannot be written.
    """
    copy = place / profile
    check_writable(copy)
    there, here = _manifest(copy), _files(profile)
    changed = [name for name, stamp in here.items() if there.get(name) != stamp]
    gone = [name for name in there if name not in here]
    if not changed and not gone:
        return
    try:
        write_json(copy / MANIFEST, {n: s for n, s in there.items() if here.get(n) == s})
        for name in gone:
            (copy / name).unlink(missing_ok=True)
        for name in changed:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).exists():  # else the next chapter has removed it, and writes it again
                shutil.copyfile(name, copy / name)
        write_json(copy / MANIFEST, here)
    except OSError as error:
        raise InputError(
            f"cannot keep a copy in {copy} ({error.strerror}): make room there or choose another "
            "place; what is finished here is not lost"
        ) from None


def bring(profile: str, place: Path) -> int:
    """Bring back a study that has never run here; returns the number of files.

    A study that has run here is newer than its copy, and nothing is brought.
    """
    copy, mark = place / profile, Path("work", profile, "study.yaml")
    manifest = _manifest(copy)
    if mark.exists() or not manifest:
        return 0
    # The mark comes last: what was cut off half way is brought again.
    names = sorted(manifest, key=lambda name: name == mark.as_posix())
    brought = 0
    for name in names:
        size, time_ns = manifest[name]
        source, target = copy / name, Path(name)
        if not source.exists() or source.stat().st_size != size:
            continue  # its chapter runs again
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        os.utime(target, ns=(time_ns, time_ns))
        brought += 1
    return brought


def _manifest(copy: Path) -> dict[str, list[int]]:
    path = copy / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _files(profile: str) -> dict[str, list[int]]:
    """Size and time of each file of the study that is worth a copy."""
    own = {Path("work", profile), Path("artifacts", profile)}
    paths = [note for note in NOTES.rglob("*") if Path(*_subject(note).parts[:2]) in own]
    for folder in own:
        paths += [path for path in folder.rglob("*") if _kept(path.relative_to(folder))]
    found = {}
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # the next chapter has begun
            if path.is_file():
                status = path.stat()
                found[path.as_posix()] = [status.st_size, status.st_mtime_ns]
    return found


def _kept(path: Path) -> bool:
    return not any(part in LEFT_BEHIND or part.startswith(".") for part in path.parts)


def _subject(note: Path) -> Path:
    """The file that a note of Snakemake's is about: its name is that path, in base64."""
    code = "".join(part.removeprefix("@") for part in note.relative_to(NOTES).parts)
    try:
        return Path(base64.urlsafe_b64decode(code).decode())
    except ValueError:  # a folder, which has only the beginning of a long name
        return note
