"""What matters of a cell of somebody's notebook, and what can be told of it by reading.

Nothing is parsed as Python here, let alone run: a hostile source can bring a parser down, and magics are no Python.
"""

import re
from dataclasses import dataclass, field


@dataclass(eq=False)
class Cell:
    """Kind, source, names and tags; outputs are never trusted. Two cells are the same only if they are one object."""

    kind: str  # code, markdown or raw
    source: str
    id: str = ""
    nbgrader: dict = field(default_factory=dict)  # as the metadata say
    tags: list[str] = field(default_factory=list)
    pictures: dict = field(default_factory=dict)  # pasted into text: {name: {MIME type: base64}}
    slot: str | None = None  # the id of the released cell that it stands for; None is a cell of the learner's own
    _read: tuple = (None, frozenset())

    @property
    def name(self):
        """Its name in nbgrader, as its metadata or, where a converter dropped them, its id gives it; or ""."""
        for name in (self.nbgrader.get("grade_id"), self.id):
            if isinstance(name, str) and re.fullmatch(r"(exercise|check|written)-\d{1,3}-\w{1,9}", name):
                return name
        return ""

    @property
    def defined(self):
        """The names that it defines at the outermost level."""
        if self._read[0] is not self.source:
            self._read = (self.source, defined_names(self.source))
        return self._read[1]

    def make_own(self):
        """Take its names away, so that it is a cell of the learner's own."""
        self.nbgrader, self.id, self.slot = {}, "", None


def slot_of(kind, one):
    """`slot_of("exercise", "2.1")` is `exercise-2-1`, the name of a cell in nbgrader's gradebook."""
    return f"{kind}-{one.replace('.', '-')}"


def defined_names(source):
    """The functions, classes and variables defined at the outermost level. Text in triple quotes does not count."""
    code = re.sub(r'"""[^\0]*?"""|\'\'\'[^\0]*?\'\'\'', "", source)
    found = re.findall(r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", code, re.M)
    return frozenset(one or other for one, other in found)


def holds_check(source, exercise):
    """Is this the released check of the exercise, however it is spaced and quoted?"""
    said = "".join(source.split()).replace("'", '"').removesuffix(";").replace(",)", ")")
    return said == f'check("{exercise.id}",{exercise.name})'


def bare(source):
    """What a source says, without blank lines, comments of their own line, and spaces at the ends of lines."""
    lines = (line.rstrip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
