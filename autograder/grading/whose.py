"""Whose file is it, and when was it handed in? What nbgrader's folders and the exports of learning platforms tell.

A pattern of your own, `c.FileNameCollectorPlugin.named_regexp` in nbgrader_config.py, goes before those here.
"""

import hashlib
import logging
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC
from functools import cache

from dateutil import parser

LONGEST_ID = 100  # bytes of UTF-8: file systems take 255, and nbgrader adds to it
SAYS_NOTHING = re.compile(
    r"(untitled|notebook|homework|hw|assignment|submission|solutions?|answers?|final|exercises?|chapter|copy|of|my|new|"
    r"version|v|\W|_|\d)*",
    re.I,
)

EXCHANGE = "the nbgrader exchange"
# How each platform names the folders, zips or files of its export.
PATTERNS = {
    EXCHANGE: r"(?P<student_id>.+)\+(?P<chapter>[^+]+)\+"
    r"(?P<timestamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^+]*)(?:\+.*)?$",
    "Moodle": r"(?P<student_id>[^_]+)_(?P<number>\d+)_assignsubmission_file(?:_(?P<file_id>.*))?$",
    "Blackboard": r".+_(?P<student_id>[^_]+)_attempt_(?P<timestamp>\d{4}(?:-\d\d){5})(?:[_.](?P<file_id>.*))?$",
    "Brightspace": r"(?P<number>\d+)-\d+ - (?P<student_id>.+?) - "
    r"(?P<timestamp>\w+ \d+, \d{4} \d{3,4} ?[AP]M)(?: - (?P<file_id>.*))?$",
    "Canvas": r"(?P<student_id>[^_]+)_(?:LATE_)?(?P<number>\d{2,})_\d{3,}_(?P<file_id>.+)$",
    "Gradescope": r"submission_(?P<student_id>\d+)$",
}


@dataclass(frozen=True)
class Owner:
    """Whose a file is, as its path tells."""

    student: str
    inside: tuple[str, ...]  # the path below the student's folder, or the name the student gave the file
    unit: tuple[str, ...]  # what the files handed in together have in common
    number: str = ""  # the platform's own number, which tells two students of one name apart
    chapter: str | None = None
    stamp: str | None = None
    how: str = ""

    @property
    def trusted(self):
        """Is a timestamp.txt here nbgrader's, not one that the student brought?"""
        return self.how in ("", f"the way {EXCHANGE} names it")


def level_of(paths, folders):
    """How many folders wrap the students': `week 1/ada/...` gives 1. Each outermost folder has one vote.

    One level holds for the whole source, so that nobody hands in under another's name from inside their own folder.
    """
    votes, tops = Counter(), {}
    for parts in paths:
        if len(parts) > 1:
            tops.setdefault(parts[0], []).append(parts)
        elif ".ipynb" in parts[0].lower():
            votes[0] += 1
    for below in tops.values():
        votes[min(_signs(below, folders), default=0)] += 1
    students = {parts[1] for parts in paths if len(parts) > 2}
    level = max(votes, key=lambda level: (votes[level], -level), default=0)
    if level == 0 and len(tops) == 1 and len(students) > 1:
        return int(not any(_is_student_level(parts, 0, folders) for parts in paths))
    return level


def _signs(paths, folders):
    """The levels at which students may stand. One file that looks like an export's is chance, two are an export."""
    signs = [at for parts in paths for at in range(len(parts) - 1) if _is_student_level(parts, at, folders)]
    files = {parts for parts in paths if ".ipynb" in parts[-1].lower() and read_name(parts[-1])}
    exports = Counter(level for level, _ in {(len(parts) - 1, read_name(parts[-1])["student_id"]) for parts in files})
    return signs + [level for level, count in exports.items() if count > 1]


def _is_student_level(parts, at, folders):
    if at >= len(parts):
        return False
    return bool(read_name(parts[at])) or (at + 2 < len(parts) and parts[at + 1] in folders)


def owner_of(parts, folders, level):
    """The path of a file, the known chapter folders, how many folders wrap the students' -> Owner, or None."""
    at = min(level, len(parts) - 1)
    while at < len(parts) - 1 and parts[at] in folders:  # <chapter>/<student>/...
        at += 1
    chapter = next((part for part in parts[:at] if part in folders), None)
    found, is_file = read_name(parts[at]), at == len(parts) - 1
    if found:
        return _from_pattern(parts, at, found, chapter, folders)
    if is_file:
        student = _from_file_name(parts[at], folders)
        chapter = chapter or next((folder for folder in folders if folder in parts[at]), None)
        return Owner(student, parts[at:], parts, chapter=chapter) if student else None
    inside = parts[at + 1 :]
    if len(inside) > 1 and inside[0] in folders:
        chapter, inside = inside[0], inside[1:]
    return Owner(parts[at], inside, (*parts[: at + 1], chapter or ""), chapter=chapter)


def read_name(name):
    """What a platform put into a name: {student_id, and perhaps number, timestamp, chapter, file_id, how}, or None."""
    configured = _configured().collect(name) if _configured().named_regexp else None
    if configured and configured.get("student_id"):
        return {**configured, "how": "your pattern"}
    for platform, pattern in PATTERNS.items():
        found = re.match(pattern, name)
        if found:
            return {**found.groupdict(), "how": f"the way {platform} names it"}
    return None


@cache
def _configured():
    from nbgrader.plugins.zipcollect import FileNameCollectorPlugin

    from autograder.build import nbgrader_config

    collector = FileNameCollectorPlugin(config=nbgrader_config())
    collector.log = logging.Logger("unheard")  # it warns of every name that does not match
    return collector


def _from_pattern(parts, at, found, chapter, folders):
    is_file = at == len(parts) - 1
    inside = ((found.get("file_id") or parts[at]),) if is_file else parts[at + 1 :]
    if len(inside) > 1 and inside[0] in folders:
        chapter, inside = inside[0], inside[1:]
    chapter = found.get("chapter") or chapter or next((_stem(one) for one in inside if _stem(one) in folders), None)
    student, number = found["student_id"].strip(), found.get("number") or ""
    # Platforms that flatten put everyone's files side by side: together is what bears the same name, number and time.
    unit = (*parts[: at + 1], chapter or "")
    if is_file:
        unit = (*parts[:at], student, number, found.get("timestamp") or "")
    return Owner(student, inside, unit, number, chapter, time_of(found.get("timestamp")), found["how"])


def _stem(name):
    return re.sub(r"\.ipynb.*$", "", name, flags=re.I)


def _from_file_name(name, folders):
    """`ada_02_scaled_dot_product (1).ipynb` -> `ada`; "" where the name tells nothing about a person."""
    stem = re.sub(r"\.\w{1,9}$", "", _stem(name)) if ".ipynb" not in name.lower() else _stem(name)
    for folder in folders:
        stem = stem.replace(folder, " ").replace(folder.split("_", 1)[1], " ")
    stem = re.sub(r"\(\d+\)|\b[Cc]opy( of)?\b|-Copy\d*", " ", stem).strip(" _-.,")
    return "" if SAYS_NOTHING.fullmatch(stem) else stem


def time_of(text):
    """A time stamp in any of the platforms' forms -> "2026-10-01 12:00:00 UTC", or None. Without a zone it is UTC."""
    if not text or len(text) > 80:
        return None
    text = re.sub(r"^(\d{4}-\d\d-\d\d)-(\d\d)-(\d\d)-(\d\d)$", r"\1 \2:\3:\4", text.strip())
    text = re.sub(r"(\d{1,2})(\d\d) ?([AP]M)$", r"\1:\2 \3", text)
    try:
        time = parser.parse(text, tzinfos={"UTC": UTC})
        return written(time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    except (ValueError, OverflowError, TypeError):
        return None


def written(time):
    """A datetime in UTC as nbgrader writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def safe_id(name):
    """A student's name that nbgrader and every file system can hold. The same name always gives the same id."""
    safe = re.sub(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\+*?\[\]<>:"|]', "_", name).strip(" .") or "student"
    if len(safe.encode()) > LONGEST_ID:
        mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
        safe = safe.encode()[: LONGEST_ID - 9].decode("utf-8", "ignore") + "-" + mark
    return safe


def gradescope_names(text):
    """{submission number: ([student ids], time)} of Gradescope's submission_metadata.yml, read line by line."""
    names, number, person = {}, None, None
    for line in text.splitlines():
        if found := re.match(r"submission_(\d+):", line):
            number = found[1]
            names[number] = ([], None)
        elif number and (found := re.match(r"  (- |  ):(name|sid|email): ?(.*)", line)):
            if found[1] == "- ":
                person = {}
                names[number][0].append(person)
            if person is not None:
                person[found[2]] = found[3].strip(" '\"")
        elif number and (found := re.match(r"  :created_at: (.*)", line)):
            names[number] = (names[number][0], time_of(re.sub(r"(\.\d{6})\d*", r"\1", found[1])))
    ids = {
        one: [next(filter(None, map(who.get, ("sid", "email", "name"))), "") for who in people]
        for one, (people, _) in names.items()
    }
    return {one: ([name for name in ids[one] if name], time) for one, (_, time) in names.items()}
