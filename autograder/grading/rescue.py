"""Read the cells out of whatever bytes were handed in: any encoding, any nbformat, broken JSON as far as it is whole.

Of a cell only what it holds matters: its kind, its source and the name it bears. Outputs are never trusted, so they
are not read at all.
"""

import json
import re
from dataclasses import dataclass, field

from autograder.grading.breaches import breach
from autograder.grading.cells import Cell
from autograder.grading.results import Breach

LARGEST_FILE = 64 * 2**20  # bytes
MOST_PARTS = 2_000_000  # lists and objects: small in a file, and large in memory
MOST_ENTRIES = 20_000  # cells that are read at all
MOST_SCANNED = 400 * 2**20  # characters that the search for whole cells may read before it gives up
# What "surrogateescape" makes of a byte that is not UTF-8, and the character that the byte is in Latin-1. Byte by byte,
# so that one stray character does not turn every other one of a UTF-8 file into two.
LATIN_1 = {0xDC00 + byte: byte for byte in range(128, 256)}
STRAY = re.compile("[\udc80-\udcff]")
# A comma before a closing bracket, but not inside a string. Nothing is tried twice (*+), so no text makes it slow.
SURPLUS_COMMA = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))|,(?=\s*+[\]}])', re.S)
PART = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[{])', re.S)  # a string, or the beginning of a list or object
PICTURES = ("image/png", "image/jpeg", "image/gif")
KINDS = ("code", "markdown", "raw")

NOTES = {
    "encoding": "The file was not saved as UTF-8 but as {encoding}; it was read as that.",
    "some bytes": "Some characters of the file are not UTF-8 and were read as Latin-1; look at accents and symbols.",
    "commas": "The file is not valid JSON: it has commas too many. They were passed over.",
    "around": "The file holds something before or after the notebook, which was passed over.",
    "broken": "The file is broken or cut off. The {count} cells that are whole were read; what else it held is lost. "
    "Open it in JupyterLab to see what is there, and hand it in again if something is missing.",
    "old": "The notebook is in the old format {version}; it was brought up to date.",
    "no cells": "The notebook holds {count} entries that are no cells; they were left out.",
    "too many": "The notebook has {count} cells; only the first {limit} were read.",
    "line ends": "Lines ended as they do on Windows; they were given the usual ends.",
    "characters": "Characters that no text file can hold (such as NUL) were left out.",
}
HOW = {
    "web page": "it is a web page; download the notebook itself, not the page that shows it",
    "archive": "it is an archive or an office document",
    "pdf": "it is a PDF",
    "binary": "it holds binary data",
    "python": "it holds Python code, not a notebook",
    "json": "it is JSON without cells",
    "nested": "it is nested too deeply",
    "parts": "it is made of more parts than any notebook",
    "text": "line {line}: {message}",
}


@dataclass
class Rescued:
    """The cells that could be read, what was done to read them, and why there are none where there are none."""

    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    breach: Breach | None = None


def rescue(data):
    """bytes -> Rescued. Never raises."""
    if len(data) > LARGEST_FILE:
        return Rescued(breach=breach("too large", mib=len(data) / 2**20, limit=LARGEST_FILE / 2**20))
    if not data.strip(b" \t\r\n\0\xef\xbb\xbf\xff\xfe"):
        return Rescued(breach=breach("empty file"))
    if data.startswith((b"PK\x03\x04", b"%PDF")):
        return Rescued(breach=breach("not a notebook", how=HOW["pdf" if data[:1] == b"%" else "archive"]))
    notes = []
    entries, how = _entries(_decode(data, notes), notes)
    if entries is None:
        return Rescued(notes=notes, breach=breach("not a notebook", how=how))
    if len(entries) > MOST_ENTRIES:
        notes.append(NOTES["too many"].format(count=len(entries), limit=MOST_ENTRIES))
        del entries[MOST_ENTRIES:]
    cells = [cell for cell in map(_cell, entries) if cell is not None]
    if len(cells) < len(entries):
        notes.append(NOTES["no cells"].format(count=len(entries) - len(cells)))
    return Rescued(_clean(cells, notes), notes)


def _decode(data, notes):
    encoding = json.detect_encoding(data)
    if encoding != "utf-8":
        name = "UTF-8 with a byte-order mark" if encoding == "utf-8-sig" else encoding.upper()
        notes.append(NOTES["encoding"].format(encoding=name))
    text = data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "replace")
    if STRAY.search(text):
        notes.append(NOTES["some bytes"])
        text = text.translate(LATIN_1)
    return text


def _entries(text, notes):
    """(the notebook's cells as JSON data, ""), or (None, why there are none)."""
    if text.count("[") + text.count("{") > MOST_PARTS and sum(1 for one in PART.finditer(text) if one[1]) > MOST_PARTS:
        return None, HOW["parts"]
    try:
        # Not strict: a tab or a line end inside a string is no reason to lose a notebook.
        return _cells_of(json.loads(text, strict=False), notes)
    except RecursionError:
        how = HOW["nested"]
    except ValueError as error:  # every JSONDecodeError is one, and so is a number of ten thousand digits
        how = _why(text, error)
    found = _without_surplus(text, notes)
    if found is None and (found := _whole_cells(text)):
        notes.append(NOTES["broken"].format(count=len(found)))
    return found or None, how


def _without_surplus(text, notes):
    """The cells, once surplus commas and what stands around the notebook are passed over; None if that is no help."""
    without_commas = SURPLUS_COMMA.sub(r"\1", text)
    start = max(0, without_commas.find("{"))
    try:
        data, end = json.JSONDecoder(strict=False).raw_decode(without_commas, start)
    except (ValueError, RecursionError):
        return None
    found, _ = _cells_of(data, notes)
    if found is not None:
        around = without_commas[:start].strip("\ufeff \t\r\n") or without_commas[end:].strip(" \t\r\n")
        notes += [NOTES["commas"]] * (without_commas != text) + [NOTES["around"]] * bool(around)
    return found


def _cells_of(data, notes):
    if not isinstance(data, dict):
        return None, HOW["json"]
    cells = data.get("cells")
    if not isinstance(cells, list):
        sheets = [sheet for sheet in _list(data.get("worksheets")) if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets for cell in _list(sheet.get("cells"))]
        if not cells:
            return None, HOW["json"]
        notes.append(NOTES["old"].format(version=str(data.get("nbformat", 3))[:8]))
    return cells, ""


def _list(value):
    return value if isinstance(value, list) else []


def _whole_cells(text):
    """Every cell that can be read whole, wherever it stands. The work is bounded, whatever the text."""
    decoder, found, position, scanned = json.JSONDecoder(strict=False), [], 0, 0
    start = re.compile(r'\{\s*"(?:attachments|cell_type|execution_count|id|input|metadata|outputs|source)"\s*:')
    while scanned < MOST_SCANNED and len(found) <= MOST_ENTRIES and (match := start.search(text, position)):
        position = match.end()
        try:
            data, position = decoder.raw_decode(text, match.start())
            scanned += position - match.start()
            if "cell_type" in data:
                found.append(data)
        except RecursionError:
            scanned += 100_000
        except ValueError as error:
            scanned += 1_000 + getattr(error, "pos", len(text)) - match.start()
    return found


def _why(text, error):
    beginning = text.lstrip()[:2000]
    if beginning[:1] == "<":
        return HOW["web page"]
    if sum(character < " " and character not in "\t\r\n\f" for character in beginning) > 5:
        return HOW["binary"]
    if re.search(r"^(import|from|def|class|#) ?\w*", beginning, re.M) and beginning[:1] not in "{[":
        return HOW["python"]
    return HOW["text"].format(line=getattr(error, "lineno", 1), message=getattr(error, "msg", "not JSON"))


def _cell(entry):
    """A Cell, or None. Of nbformat 3 a code cell has `input`, and a heading is a kind of its own."""
    if not isinstance(entry, dict):
        return None
    kind, source = entry.get("cell_type"), entry.get("source", entry.get("input"))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    if not isinstance(source, str):
        return None
    if kind == "heading":
        level = entry.get("level")
        kind, source = "markdown", "#" * (level if isinstance(level, int) and level < 7 else 1) + " " + source
    if kind not in KINDS:
        kind = "raw"
    metadata = entry.get("metadata") if isinstance(entry.get("metadata"), dict) else {}
    named, own_id = metadata.get("nbgrader"), entry.get("id")
    return Cell(
        kind,
        source,
        own_id if isinstance(own_id, str) else "",
        named if isinstance(named, dict) else {},
        [tag for tag in _list(metadata.get("tags")) if isinstance(tag, str)],
        _pictures(entry.get("attachments")) if kind == "markdown" else {},
    )


def _pictures(attachments):
    """Pictures pasted into a text, which may be part of an answer; nothing that could be more than a picture."""
    kept = {}
    for name, held in attachments.items() if isinstance(attachments, dict) else ():
        for mime, content in held.items() if isinstance(held, dict) else ():
            is_base64 = isinstance(content, str) and re.fullmatch(r"[A-Za-z0-9+/=\s]*", content)
            if mime in PICTURES and is_base64 and name.isprintable():
                kept[name] = {mime: content}
    return kept


def _clean(cells, notes):
    for cell in cells:
        source = re.sub("[\0\ud800-\udfff]", "", cell.source)
        if source != cell.source and NOTES["characters"] not in notes:
            notes.append(NOTES["characters"])
        cell.source = re.sub("\r\n?", "\n", source)
        if cell.source != source and NOTES["line ends"] not in notes:
            notes.append(NOTES["line ends"])
    return cells
