"""The map and the glossary agree with the chapters, and the links between them lead somewhere."""

import re
from pathlib import Path

import nbformat
import pytest

from autograder import pages
from autograder.build import ROOT
from autograder.exercise import chapters, folder_of

TERMS = pages.terms(ROOT)
HEADS = [pages.head(number, ROOT) for number in chapters()]


def prose(path):
    return "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


def course(number):
    folder = folder_of(number)
    return ROOT / "course" / folder / f"{folder}.ipynb"


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_what_its_text_says(name):
    made = {"map": pages.course_map, "glossary": pages.glossary}[name](ROOT)
    assert (ROOT / "course" / f"{name}.ipynb").read_bytes() == pages.page_bytes(made), "run: make notebooks"


@pytest.mark.parametrize("number", chapters())
def test_a_chapter_links_what_it_introduces_once_and_nothing_else(number):
    linked = re.findall(r"\]\(\.\./glossary\.ipynb#([^)]+)\)", prose(course(number)))
    assert sorted(linked) == sorted(pages._anchor(term.name) for term in TERMS if term.chapter == number)


def test_every_link_to_the_glossary_leads_to_a_heading():
    headings = re.findall(r"^### (.+)$", prose(ROOT / "course" / "glossary.ipynb"), re.M)
    assert headings == [term.name for term in sorted(TERMS, key=lambda term: term.chapter)]
    assert len(set(headings)) == len(headings) >= 60
    assert all(re.search(r"[\u4e00-\u9fff]", term.chinese) for term in TERMS)


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_links_of_a_page_lead_to_files(name):
    for target in re.findall(r"\]\(([^)#]+)", prose(ROOT / "course" / f"{name}.ipynb")):
        assert (ROOT / "course" / target).is_file(), target


def test_a_chapter_needs_only_earlier_ones_and_the_map_draws_no_way_around():
    for head in HEADS:
        assert all(need < head.number for need in head.needs)
    drawn = set(re.findall(r"c(\d\d) --> c(\d\d)", prose(ROOT / "course" / "map.ipynb")))
    assert ("01", "02") in drawn and ("02", "10") not in drawn  # 03 leads from 02 to 10


def test_the_readme_says_of_a_chapter_what_its_head_says():
    rows = re.findall(r"^\| (\d\d) \| \[([^\]]+)\].*\| (\d+) min \| (.+) \|$", Path("README.md").read_text(), re.M)
    assert [int(number) for number, *_ in rows] == list(chapters())
    for (_, title, minutes, needs), head in zip(rows, HEADS, strict=True):
        assert (title, int(minutes)) == (head.title, head.minutes)
        named = {int(one) for one in re.findall(r"\d\d", needs)}
        for first, last in re.findall(r"(\d\d) to (\d\d)", needs):
            named |= set(range(int(first), int(last)))
        assert named == set(head.needs), head


def test_a_term_is_linked_where_it_is_set_in_bold_and_never_in_code():
    cells = [
        nbformat.v4.new_markdown_cell(text) for text in ("# A tile", "A `tile` of tiles: $tile$.", "The **tile**.")
    ]
    tile = pages.Term("tile", "瓦片", 10, "A block.", ("tile",))
    pages.link_first_uses(cells, [tile])
    assert [cell.source for cell in cells[:2]] == ["# A tile", "A `tile` of tiles: $tile$."]
    assert cells[2].source == "The **[tile](../glossary.ipynb#tile)**."
    with pytest.raises(pages.BuildError, match="chapter 10 never writes 'tile'"):
        pages.link_first_uses(cells[:1], [tile])
