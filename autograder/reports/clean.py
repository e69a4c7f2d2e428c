"""A notebook that shows a submission and does nothing else, for formgrader, which sets raw HTML as it finds it.

The notebook is built anew from the fields that are known and well formed. HTML is checked by `safe_html`; a markdown
cell is set as formgrader would set it, and shown as its source where the result is not safe.

All this happens outside the sandbox, so it has a budget: what exceeds it is shown as text.
"""

import base64
import re
from functools import lru_cache

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode, from_dict, v4

from autograder.reports.safe_html import is_safe, made_safe, reaching_tex

LARGEST_MARKDOWN = 20_000  # characters of a cell that are set (a quarter of a second at worst)
BUDGET = 500_000  # characters of a notebook's markdown and unsafe HTML; a chapter has some 30,000
IMAGES = ("image/png", "image/jpeg", "image/gif")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
CELL_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
GRADE_ID = re.compile(r"[\w.-]{1,100}", re.ASCII)
# The glossary and other chapters, to which the course's own text links, do not lie beside what is shown here.
COURSE_LINK = re.compile(r"\[([^\[\]]{1,200})\]\(\.\./[\w./-]{1,100}\.ipynb(?:#[\w%.-]{0,100})?\)")
FLAGS = ("grade", "solution", "locked", "task")

# What a reader of the notebook sees.
AS_SOURCE = "*This cell is shown as it was typed, because it holds what may not be shown here.*"
NOT_SHOWN = "[an output that is not shown: {kinds}]"


def clean_notebook(notebook):
    """A new notebook with what can be shown of this one. Whatever the fields hold, it is a valid notebook.

    Its cells are not made by `nbformat.v4`, which validates each of them: who writes the notebook validates it.
    """
    cells, seen, budget = [], set(), Budget(BUDGET)
    for place, cell in enumerate(_list(notebook.get("cells"))):
        if isinstance(cell, dict):
            made = _cell(cell, budget)
            made.id = _unused(cell.get("id"), place, seen)
            cells.append(made)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


class Budget:
    """Characters that may still be worked on."""

    def __init__(self, characters):
        self.left = characters

    def allows(self, text):
        self.left -= len(text)
        return self.left >= 0


def _unused(wanted, place, seen):
    fits = isinstance(wanted, str) and CELL_ID.fullmatch(wanted) and wanted not in seen
    name = wanted if fits else next(one for n in range(place, place + 10**6) if (one := f"cell-{n}") not in seen)
    seen.add(name)
    return name


def _cell(cell, budget):
    source = text_of(cell.get("source"))
    metadata = _nbgrader(cell.get("metadata"))
    if cell.get("cell_type") == "code":
        outputs = [
            made for one in _list(cell.get("outputs")) if isinstance(one, dict) and (made := _output(one, budget))
        ]
        count = _count(cell)
        fields = {"source": source, "metadata": metadata, "outputs": outputs, "execution_count": count}
        return from_dict({"cell_type": "code", **fields})
    attachments = _attachments(cell.get("attachments"))
    text = clean_markdown(source, budget, attachments)
    made = from_dict({"cell_type": "markdown", "source": text, "metadata": metadata})
    if attachments:
        made.attachments = attachments
    return made


def clean_markdown(source, budget, attachments=None):
    """The same text, its links into the course undone, where it can be set as it is; else one that shows the source."""
    source, typed = COURSE_LINK.sub(r"\1", source), source
    affordable = len(source) <= LARGEST_MARKDOWN and budget.allows(source)
    if affordable and _sets_safely(source, *_frozen(attachments)):
        return source
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", typed))])
    shown = f"{AS_SOURCE}\n\n{fence}\n{typed}\n{fence}"
    return shown if not affordable or _sets_safely(shown) else AS_SOURCE


def _frozen(attachments):
    return tuple((name, *one.items()) for name, one in (attachments or {}).items())


@lru_cache(4096)  # most cells are the course's own, the same in every submission
def _sets_safely(source, *attachments):
    files = {name: dict(bundle) for name, *bundle in attachments}
    try:
        return is_safe(MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=files)).render(source))
    except Exception:  # a missing attachment, or a fault of the renderer's, which formgrader would meet as well
        return False


def _output(output, budget):
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return NotebookNode(output_type="stream", name=name, text=text_of(output.get("text")))
    if kind == "error":
        lines = [text_of(line) for line in _list(output.get("traceback"))]
        ename, evalue = text_of(output.get("ename")), text_of(output.get("evalue"))
        return NotebookNode(output_type="error", ename=ename, evalue=evalue, traceback=lines)
    if kind == "display_data":
        return NotebookNode(output_type=kind, data=_data(output.get("data"), budget), metadata=NotebookNode())
    if kind == "execute_result":
        data, count = _data(output.get("data"), budget), _count(output)
        return NotebookNode(output_type=kind, data=data, metadata=NotebookNode(), execution_count=count)
    return None


def _data(data, budget):
    data = data if isinstance(data, dict) else {}
    kept = {kind: text_of(data[kind]) for kind in IMAGES if kind in data and BASE64.fullmatch(text_of(data[kind]))}
    if "text/html" in data:
        source = text_of(data["text/html"])
        kept["text/html"] = source if is_safe(source) else made_safe(source, rewrite=budget.allows(source))
    elif "image/svg+xml" in data and not kept:
        kept["text/html"] = _picture(text_of(data["image/svg+xml"]))
    if "text/markdown" in data:
        kept["text/markdown"] = clean_markdown(text_of(data["text/markdown"]), budget)
    if "text/latex" in data and not reaching_tex(text_of(data["text/latex"])):
        kept["text/latex"] = text_of(data["text/latex"])
    if "text/plain" in data:
        kept["text/plain"] = text_of(data["text/plain"])
    kinds = ", ".join(sorted(str(kind)[:60] for kind in data))
    return kept or {"text/plain": NOT_SHOWN.format(kinds=kinds or "nothing")}


def _picture(svg):
    """An SVG as an image, in which no script runs and nothing is loaded."""
    encoded = base64.b64encode(svg.encode("utf-8", "replace")).decode("ascii")
    return f'<img src="data:image/svg+xml;base64,{encoded}" alt="a drawing">'


def _attachments(attachments):
    kept = {}
    for name, bundle in (attachments if isinstance(attachments, dict) else {}).items():
        bundle = bundle if isinstance(bundle, dict) else {}
        images = {kind: text_of(bundle.get(kind)) for kind in IMAGES}
        images = {kind: content for kind, content in images.items() if content and BASE64.fullmatch(content)}
        if isinstance(name, str) and images:
            kept[name] = images
    return kept


def _nbgrader(metadata):
    found = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    if not isinstance(found, dict) or not GRADE_ID.fullmatch(text_of(found.get("grade_id"))):
        return {}
    kept = {name: bool(found.get(name)) for name in FLAGS}
    kept |= {name: text_of(found.get(name)) for name in ("grade_id", "checksum", "cell_type")}
    kept |= {name: found[name] for name in ("points", "schema_version") if type(found.get(name)) in (int, float)}
    if kept["grade"] or kept["task"]:
        kept.setdefault("points", 0)  # formgrader's page of the notebook fails without
    return {"nbgrader": {name: one for name, one in kept.items() if type(one) is not str or GRADE_ID.fullmatch(one)}}


def _count(holder):
    count = holder.get("execution_count")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _list(value):
    return value if isinstance(value, list) else []


def text_of(value):
    """A field that holds text, or text in pieces as notebooks are stored; anything else is empty."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = "".join(value)
    return value if isinstance(value, str) else ""
