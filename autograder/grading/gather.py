"""Every file under a folder or in a zip, read and never touched: no link is followed, nothing is unpacked to disk.

Zips inside are opened too, one level deep. Sizes are counted as bytes come out, because what a zip says of itself may
be a lie.
"""

import io
import lzma
import os
import stat
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autograder.grading.rescue import LARGEST_FILE, LATIN_1

LARGEST_ARCHIVES = 4 * 2**30  # bytes that all zips of one intake may hold together
MOST_ENTRIES = 50_000  # of one zip
DEEPEST = 40  # folders in folders
MOST_RATIO = 200  # a zip that packs more tightly than this, and holds more than a notebook may, is a bomb
BROKEN_ZIP = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    zlib.error,
    lzma.LZMAError,
)

REASONS = {
    "link": "a link, which is not followed",
    "special": "a pipe, a socket or a device, not a file",
    "empty folder": "an empty folder",
    "unreadable": "it cannot be read ({why})",
    "outside": "its path leads out of the zip",
    "encrypted": "it is locked with a password",
    "broken zip": "the zip cannot be read ({why})",
    "bomb": "the zip unpacks to more than it plausibly holds ({mib:.0f} MiB from {packed:.1f})",
    "nested": "folders in folders, more than {limit} deep",
    "deep": "a zip in a zip in a zip; unpack it",
    "no room": "the zips hold more than {gib} GiB together; hand them over in parts",
    "many": "the zip has {count} entries and may have {limit}",
}


@dataclass(eq=False)
class Found:
    """One file: its path below the source (zips counting as folders), its first bytes, its size, its age."""

    parts: tuple[str, ...]
    data: bytes  # no more than LARGEST_FILE + 1
    size: int
    changed: float = 0.0  # seconds; only to tell which of two copies is newer
    stamp: datetime | None = None  # UTC, of an entry of the outermost zip
    zipped_at: int = 0  # how many of the parts lead to that zip

    @property
    def path(self):
        return shown(*self.parts)


class _Budget:
    left = LARGEST_ARCHIVES


def gather(source):
    """Path of a folder, a zip or a file -> (list of Found in order, list of (path, why not read))."""
    found, refused = [], []
    source, budget = Path(source), _Budget()
    if source.is_dir():
        _folder(source, (), found, refused, budget)
    elif _is_zip(source.name):
        _zip(source, (), None, found, refused, budget)
    else:
        _file(source, (readable(source.name),), found, refused, budget)
    return sorted(found, key=lambda one: one.parts), sorted(refused)


def readable(name):
    """A file name as text: bytes that are not UTF-8 read as Latin-1, and one spelling for each accented letter."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "surrogateescape").translate(LATIN_1))


def shown(*parts):
    """A path for a person: no character in it steers a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in "/".join(parts))


def is_junk(name):
    """What operating systems, editors and version control leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini")


def _is_zip(name):
    return name.lower().endswith(".zip")


def _folder(folder, parts, found, refused, budget):
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        refused.append((shown(*parts) or str(folder), REASONS["unreadable"].format(why=error.strerror)))
        return
    if len(parts) > DEEPEST:
        refused.append((shown(*parts), REASONS["nested"].format(limit=DEEPEST)))
        return
    if not entries and parts:
        refused.append((shown(*parts), REASONS["empty folder"]))
    for entry in entries:
        here = (*parts, readable(entry.name))
        if entry.is_dir(follow_symlinks=False):
            if not _left_aside(entry):
                _folder(entry.path, here, found, refused, budget)
        elif is_junk(entry.name):
            continue
        elif entry.is_symlink():
            refused.append((shown(*here), REASONS["link"]))
        elif not entry.is_file(follow_symlinks=False):
            refused.append((shown(*here), REASONS["special"]))
        elif _is_zip(entry.name):
            _zip(entry.path, (*parts, here[-1][:-4]), None, found, refused, budget)
        else:
            _file(entry.path, here, found, refused, budget)


def _left_aside(entry):
    """A hidden folder is looked into only where its name may be a student's."""
    if not is_junk(entry.name):
        return False
    return not entry.name.startswith(".") or entry.name in (".ipynb_checkpoints", ".git", ".venv", ".cache", ".Trash")


def _file(path, parts, found, refused, budget):
    try:
        # Opened without waiting and without following, in case the file was exchanged since it was looked at.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                refused.append((shown(*parts), REASONS["special"]))
                return
            found.append(Found(parts, file.read(LARGEST_FILE + 1), status.st_size, status.st_mtime))
    except OSError as error:
        refused.append((shown(*parts), REASONS["unreadable"].format(why=error.strerror)))


def _zip(source, parts, outer, found, refused, budget):
    """`source` is a path or an open file; `parts` the folder it counts as; `outer` its entry in a zip around it."""
    place = f"{shown(*parts)}.zip" if parts else str(source)
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            size, packed = sum(one.file_size for one in entries), sum(one.compress_size for one in entries)
            if len(entries) > MOST_ENTRIES:
                refused.append((place, REASONS["many"].format(count=len(entries), limit=MOST_ENTRIES)))
            elif size > max(2 * LARGEST_FILE, MOST_RATIO * packed):
                refused.append((place, REASONS["bomb"].format(mib=size / 2**20, packed=packed / 2**20)))
            else:
                for entry in entries:
                    _entry(archive, entry, parts, outer, found, refused, budget)
    except BROKEN_ZIP as error:
        refused.append((place, REASONS["broken zip"].format(why=error)))


def _entry(archive, entry, parts, outer, found, refused, budget):
    names = [name for name in _name_of(entry).split("/") if name not in ("", ".")]
    here = (*parts, *names)
    why = None
    if not names or any(is_junk(name) and name != ".." for name in names):
        return
    if ".." in names or entry.filename.startswith(("/", "\\")) or names[0][1:2] == ":":
        why = REASONS["outside"]
    elif stat.S_ISLNK(entry.external_attr >> 16):
        why = REASONS["link"]
    elif entry.flag_bits & 1:
        why = REASONS["encrypted"]
    elif budget.left <= 0:
        why = REASONS["no room"].format(gib=LARGEST_ARCHIVES // 2**30)
    elif _is_zip(names[-1]) and outer:
        why = REASONS["deep"]
    if why:
        refused.append((shown(*here), why))
        return
    try:
        with archive.open(entry) as file:
            data = file.read(LARGEST_FILE + 1)
    except BROKEN_ZIP as error:
        refused.append((shown(*here), REASONS["unreadable"].format(why=error)))
        return
    budget.left -= len(data)
    if _is_zip(names[-1]):
        _zip(io.BytesIO(data), (*here[:-1], here[-1][:-4]), (entry, len(parts)), found, refused, budget)
        return
    newer, (timed, zipped_at) = _stamp_of(entry), outer or (entry, len(parts))
    changed = newer.timestamp() if newer else 0.0
    found.append(Found(here, data, max(entry.file_size, len(data)), changed, _stamp_of(timed), zipped_at))


def _name_of(entry):
    """Old tools write UTF-8 without saying so, and backslashes between folders."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        name = name.encode("cp437", "replace").decode("utf-8", "surrogateescape").translate(LATIN_1)
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _stamp_of(entry):
    try:
        return datetime(*entry.date_time, tzinfo=UTC) if entry.date_time[0] > 1980 else None
    except ValueError:
        return None
