"""The pages beside the chapters: the map of the course and the glossary, and in each chapter the links to the latter.

`solutions/map.md` and `solutions/glossary.md` are the texts that a person edits. What the map says of a chapter is read
from the head of that chapter's own text. A term is linked where the chapter that introduces it first uses it.
"""

import re
from dataclasses import dataclass

import nbformat

from autograder.exercise import chapters, folder_of

PAGES = ("map", "glossary")
# Of the map, to be read on light and on dark pages: JupyterLab keeps a drawing when its theme is changed.
COLOURS = (
    '%%{init: {"theme": "base", "themeVariables": {"primaryColor": "#d6e6f2", "primaryTextColor": "#111111", '
    '"primaryBorderColor": "#0072b2", "lineColor": "#888888"}}}%%'
)
# Where no link may be put: headings, code, formulas, links, HTML.
_KEPT = re.compile(
    r"```.*?```|`[^`\n]*`|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<details.*?</details>|<[^>]+>|^#[^\n]*$", re.S | re.M
)


class BuildError(Exception):
    """A text is not in its form, or disagrees with the definitions; the message names file and line."""


@dataclass(frozen=True)
class Term:
    """A row of the glossary."""

    name: str
    chinese: str
    chapter: int
    meaning: str
    spellings: tuple[str, ...]  # as the chapter's prose may write it, the name among them


@dataclass(frozen=True)
class Head:
    """What the first cell of a chapter says of it."""

    number: int
    title: str
    promise: str
    minutes: int
    runs_on: str
    needs: tuple[int, ...]


def terms(root):
    """The glossary, in the order of its text. Rows: | term (other spellings) | Chinese | chapter | meaning |"""
    path, found = root / "solutions" / "glossary.md", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = re.fullmatch(r"\| ([^|(]+?)(?: \(([^|)]+)\))? \| ([^|]+) \| (\d\d) \| ([^|]+) \|", line)
        if row is None:
            if line.startswith("|") and not re.match(r"\| term|\|---", line):
                raise BuildError(
                    f"{path}:{number}: a row reads | term (other spellings) | Chinese | chapter | meaning |"
                )
            continue
        name, others, chinese, chapter, meaning = row.groups()
        spellings = (name, *(re.split(r", ", others) if others else ()))
        found.append(Term(name, chinese, int(chapter), meaning, spellings))
    return found


def link_first_uses(cells, introduced):
    """In a chapter's own prose, link each of the terms that it introduces to the glossary, once.

    The place is where the term is set in bold, which is where it is explained; else its first mention, for which the
    title's cell and the list of what the reader will be able to do come last.
    """
    prose = [cell for cell in cells if cell.cell_type == "markdown"]
    prose.sort(key=lambda one: one.source.startswith("# ") or "be able to" in one.source)
    for term in introduced:
        words = "|".join(re.escape(one).replace(r"\ ", r"\s") for one in sorted(term.spellings, key=len, reverse=True))
        places = [rf"(?<=\*\*)(?:{words})s?(?=[^*\n]*\*\*)", rf"(?<![\w-])(?:{words})s?(?![\w-])"]
        if not any(_link(cell, re.compile(place, re.I), term) for place in places for cell in prose):
            raise BuildError(
                f"solutions/glossary.md: chapter {term.chapter:02d} never writes {term.name!r} in its prose"
            )


def _link(cell, mention, term):
    """Link the first mention in one cell, if there is one."""
    kept = [one.span() for one in _KEPT.finditer(cell.source)]
    for found in mention.finditer(cell.source):
        if not any(start < found.end() and found.start() < end for start, end in kept):
            link = f"[{found[0]}](../glossary.ipynb#{_anchor(term.name)})"
            cell.source = cell.source[: found.start()] + link + cell.source[found.end() :]
            return True
    return False


def _anchor(heading):
    return heading.replace(" ", "-")


def head(number, root):
    """The Head of a chapter, from its text."""
    folder = folder_of(number)
    path = root / "solutions" / folder / f"{folder}.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    top = "\n".join(line.removeprefix("#").strip() for line in lines[: lines.index("# %% [markdown]", 1)])
    found = re.search(
        r"^# (\d\d) · (.+)\n\n((?:.+\n)+)\n(\d+) min(?:, [^·]+)? · CPU[^·]* · (.+) · needs (.+)$", top, re.M
    )
    if not found:
        raise BuildError(f"{path}: the head reads # NN · Title, a promise, and N min · CPU · library · needs NN")
    _, title, promise, minutes, runs_on, needs_words = found.groups()
    needs = tuple(int(one) for one in re.findall(r"\b\d\d\b", needs_words.split(". ")[0]))
    return Head(number, title, " ".join(promise.split()), int(minutes), runs_on, needs)


def glossary(root, there=None):
    """The glossary's notebook: the terms under the chapter that introduces them, linked if it is `there` (all are)."""
    cells, known = [_text(root, "glossary").split("\n| term")[0].strip()], terms(root)
    for number in chapters():
        entries = [f"### {term.name}\n\n{term.chinese}\n\n{term.meaning}" for term in known if term.chapter == number]
        chapter = _link_to(number) if there is None or number in there else f"{number:02d}"
        if entries:
            cells.append("\n\n".join([f"## {head(number, root).title}", f"From chapter {chapter}.", *entries]))
    return _notebook(cells)


def course_map(root, there=None):
    """The map's notebook: which chapter needs which, and what each is about; of those that are `there` (all are)."""
    heads = [head(number, root) for number in chapters() if there is None or number in there]
    facts = {
        "count": f"{len(heads)} chapter{'s' * (len(heads) > 1)}",
        "hours": str(round(sum(one.minutes for one in heads) / 60)),
        "graph": _graph(heads),
        "table": _table(heads),
    }
    text = re.sub(r"\{(\w+)\}", lambda found: facts[found[1]], _text(root, "map"))
    return _notebook([part.strip() for part in re.split(r"(?m)^(?=## )", text)])


def _graph(heads):
    """A drawing in Mermaid's language, which JupyterLab draws itself; its description is the same in words."""
    drawn = {one.number for one in heads}
    boxes = [f'  c{one.number:02d}["{one.number:02d} · {one.title.split(":")[0]}"]' for one in heads]
    arrows = [f"  c{need:02d} --> c{one.number:02d}" for one in heads for need in _direct(one, heads) if need in drawn]
    words = [
        f"{one.number:02d} needs {' and '.join(f'{need:02d}' for need in one.needs)}" for one in heads if one.needs
    ]
    told = ["  accTitle: Which chapter needs which", f"  accDescr: {'; '.join(words) or 'it stands alone'}"]
    return "\n".join(["```mermaid", COLOURS, "flowchart TD", *told, *boxes, *arrows, "```"])


def _table(heads):
    rows = ["| | chapter | time | runs on | needs |", "|---|---|---|---|---|"]
    for one in heads:
        about = f"{_link_to(one.number, one.title)}<br>{one.promise}"
        needs = ", ".join(f"{need:02d}" for need in one.needs) or "–"
        rows.append(f"| {one.number:02d} | {about} | {one.minutes} min | {one.runs_on} | {needs} |")
    return "\n".join(rows)


def _direct(one, heads):
    """What a chapter needs, without what its other needs need already."""
    below = {}
    for each in heads:
        below[each.number] = {*each.needs, *(further for need in each.needs for further in below.get(need, ()))}
    return [need for need in one.needs if not any(need in below[other] for other in one.needs if other in below)]


def write(root):
    """Write both pages into the course folder. Returns their paths."""
    made = {"map": course_map, "glossary": glossary}
    for name in PAGES:
        (root / "course" / f"{name}.ipynb").write_bytes(page_bytes(made[name](root)))
    return [root / "course" / f"{name}.ipynb" for name in PAGES]


def page_bytes(notebook):
    """A page as it is written."""
    return (nbformat.writes(notebook, version=4) + "\n").encode()


def _text(root, name):
    return (root / "solutions" / f"{name}.md").read_text(encoding="utf-8")


def _link_to(number, words=""):
    folder = folder_of(number)
    return f"[{words or f'{number:02d}'}]({folder}/{folder}.ipynb)"


def _notebook(cells):
    from autograder.build import KERNEL, give_ids

    notebook = nbformat.v4.new_notebook(metadata=KERNEL, cells=[nbformat.v4.new_markdown_cell(one) for one in cells])
    give_ids(notebook.cells)
    nbformat.validate(notebook)
    return notebook
