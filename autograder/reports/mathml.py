"""Mathematics as MathML, which browsers set by themselves: a page needs no script and no network for it."""

import html
import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

from autograder.reports.safe_html import reaching_tex

LONGEST = 2_000  # characters of one formula; a longer one is shown as it was typed
ELEMENT_NAMES = """
math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow mspace msqrt mstyle msub
msubsup msup mtable mtd mtext mtr munder munderover none
"""
ELEMENTS = frozenset(ELEMENT_NAMES.split())
ATTRIBUTE_NAMES = """
accent accentunder align columnalign columnlines columnspacing depth display displaystyle fence form height largeop
linebreak linethickness lspace mathcolor mathvariant maxsize minsize movablelimits notation rowlines rowspacing rspace
scriptlevel separator stretchy voffset width
"""
ATTRIBUTES = frozenset(ATTRIBUTE_NAMES.split())
SPACE = "{http://www.w3.org/1998/Math/MathML}"
VALUE = re.compile(r"[\w\s.#%+-]*")


def mathml(latex, block=False):
    """This LaTeX as a `<math>` element; as code where it cannot be read or would do more than set mathematics."""
    if len(latex) <= LONGEST and reaching_tex(latex) is None:
        try:
            made = convert(latex, display="block" if block else "inline")
            if _is_plain(ElementTree.fromstring(made)):
                return made
        except Exception:  # a learner's LaTeX may be anything, and a page is made all the same
            pass
    return f"<code>{html.escape(latex)}</code>"


def _is_plain(root):
    return all(
        one.tag.removeprefix(SPACE) in ELEMENTS
        and all(name in ATTRIBUTES and VALUE.fullmatch(value) for name, value in one.items())
        for one in root.iter()
    )
