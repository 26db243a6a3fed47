"""A copy of a study in a place that outlives the machine: Colab's Drive, a cluster's store.

What a study needs in order to go on is copied after each chapter: its results, its models, and
Snakemake's notes on what is up to date. Checkpoints of the chapter under way stay behind. A
manifest says what the copy holds, with sizes and times (the place may not keep them); it forgets a
file before that changes and names it again once it is whole, so that a copy that was cut off
half way brings back less, and nothing that does not fit together.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headcount.errors import InputError
from headcount.records import write_json

MANIFEST = "manifest.json"
NOTES = Path(".snakemake/metadata")
# Checkpoints and finished trainings are large and made again from whole chapters; reports/ is not
# in the copy, so that publishing has to run again.
LEFT_BEHIND = {"training", "logs", "published"}


def keep(profile: str, place: Path) -> None:
    """Bring the copy of a study in ``place``/``profile`` up to date.

    Raises:
        InputError: ``place`` cannot be read or written; what is finished here is not lost.
    """
    copy = place / profile
    with _told(copy):
        there, here = _manifest(copy), _files(profile)
        changed = [name for name, stamp in here.items() if there.get(name) != stamp]
        gone = [name for name in there if name not in here]
        if not changed and not gone:
            return
        write_json(copy / MANIFEST, {n: s for n, s in there.items() if here.get(n) == s})
        for name in gone:
            (copy / name).unlink(missing_ok=True)
        for name in changed:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).exists():  # else the next chapter has removed it, and writes it again
                shutil.copyfile(name, copy / name)
        write_json(copy / MANIFEST, here)


def bring(profile: str, place: Path) -> int:
    """Bring back a study that has never run here; returns the number of files.

    A study that has run here is newer than its copy, and nothing is brought.

    Raises:
        InputError: ``place`` cannot be read.
    """
    copy, mark = place / profile, Path("work", profile, "study.yaml")
    if mark.exists():
        return 0
    with _told(copy):
        manifest = _manifest(copy)
        brought = 0
        # The mark comes last: what was cut off half way is brought again.
        for name in sorted(manifest, key=lambda name: name == mark.as_posix()):
            size, time_ns = manifest[name]
            source, target = copy / name, Path(name)
            if not source.exists() or source.stat().st_size != size:
                continue  # its chapter runs again
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            os.utime(target, ns=(time_ns, time_ns))
            brought += 1
    return brought


@contextmanager
def _told(copy: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"the copy of the study in {copy} cannot be used ({reason}): make room there, or "
            "choose another place or none"
        ) from None


def _manifest(copy: Path) -> dict[str, list[int]]:
    path = copy / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _files(profile: str) -> dict[str, list[int]]:
    """Size and time of each file of the study that is worth a copy."""
    own = (Path("work", profile), Path("artifacts", profile))
    paths = [path for folder in own for path in _walk(folder)]
    paths += [note for note in _walk(NOTES) if Path(*_subject(note).parts[:2]) in own]
    found = {}
    for path in sorted(paths):
        with suppress(FileNotFoundError):  # the next chapter has begun
            status = path.stat()
            found[path.as_posix()] = [status.st_size, status.st_mtime_ns]
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _worth(name)]
        yield from (Path(parent, name) for name in names if _worth(name))


def _worth(name: str) -> bool:
    return name not in LEFT_BEHIND and not name.startswith(".")


def _subject(note: Path) -> Path:
    """The file that a note of Snakemake's is about: its name is that path, in base64."""
    code = "".join(part.removeprefix("@") for part in note.relative_to(NOTES).parts)
    return Path(base64.urlsafe_b64decode(code).decode())
