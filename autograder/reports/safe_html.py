"""The HTML that may be shown: a grammar so narrow that every parser reads it alike.

`is_safe` accepts plain tags with quoted attributes from a list, properly nested, and nothing else: no script, no
request, no way out of the box it is shown in. The course's own cards are written in it and pass as they are.
`made_safe` lets bleach rewrite anything else, and `is_safe` has the last word.
"""

import html
import re

import bleach
from bleach.css_sanitizer import CSSSanitizer
from pygments.token import STANDARD_TYPES

VOID = {"br", "col", "hr", "img"}
TAG_NAMES = """
a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr
i img ins kbd li mark ol p pre q s samp section small span strong sub summary sup table tbody td tfoot th thead tr u ul
var
"""
TAGS = frozenset(TAG_NAMES.split())
LARGEST = 20_000  # characters that are rewritten (half a second at worst); what is longer is shown as its text
BLOCK = re.compile(r"<(style|script)\b[^<>]*>[^<]*</\1>")  # what it holds is no text for a reader; pandas writes one

PROPERTY_NAMES = """
background background-color border border-bottom border-collapse border-left border-radius border-right border-top color
display flex-grow flex-shrink flex-wrap font-family font-size font-style font-weight gap justify-content line-height
list-style margin margin-bottom margin-left margin-right margin-top max-width min-width opacity padding padding-bottom
padding-left padding-right padding-top text-align text-decoration vertical-align white-space width
"""
PROPERTIES = frozenset(PROPERTY_NAMES.split())
WORD = r"(?:[a-zA-Z][\w-]*|#[0-9a-fA-F]{3,8}|\d*\.?\d+(?:[a-z]{1,4}|%)?)"
PART = rf"(?:{WORD}|rgba?\([\d.,%\s]+\)|var\(--jp-[\w-]+(?:,{WORD})?\))"
VALUE = re.compile(rf"{PART}(?:[\s,]+{PART})*")
DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]*")  # an image runs no script
CLASS = re.compile(r"language-[\w+#.-]+")
CLASSES = {"anchor-link", "dataframe", "highlight", *STANDARD_TYPES.values()} - {""}
# A heading's id must not stand in for one of the page's own, such as formgrader's field for the score of written-2-w.
HEADING_ID = re.compile(r"(?!(?:check|exercise|written)-\d|notebook|statusmessage|cell)[^\s\"<>]+")
NUMBER = re.compile(r"\d{1,4}(?:\.\d+)?(?:px|%)?")
ANYTHING = re.compile(r"[^<>]*")
EVERYWHERE = {name: ANYTHING for name in ("title", "role", "aria-label", "aria-hidden", "dir", "lang")}
ATTRIBUTES = {
    "a": {"href": re.compile(r"https?://[^\s\"'<>\\]+|mailto:[^\s\"'<>\\]+|#[^\s\"<>\\]*")},
    "img": {"src": DATA_IMAGE, "alt": re.compile(r"(?s).*"), "width": NUMBER, "height": NUMBER},
    "details": {"open": ANYTHING},
    "ol": {"start": NUMBER},
    "table": {"border": NUMBER},
    **{name: {"span": NUMBER} for name in ("col", "colgroup")},
    **{name: {"colspan": NUMBER, "rowspan": NUMBER, "scope": ANYTHING, "align": ANYTHING} for name in ("td", "th")},
    **{f"h{level}": {"id": HEADING_ID} for level in range(1, 7)},
}
TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)((?:\s+[a-z-]+(?:=\"[^\"<>]*\")?)*+)\s*/?>")
ATTRIBUTE = re.compile(r"\s+([a-z-]+)(?:=\"([^\"]*)\")?")

AS_TYPED = re.compile(r"<(pre|code)\b[^<>]*>[^<]*</\1>")  # in which no page sets mathematics
# A page that sets mathematics by script would follow these: they link, load, style, name or define.
REACHING_TEX = re.compile(
    r"\\(?:action|bbox|class|csname|cssId|data|def|edef|gdef|href|html\w*|includegraphics|input|let|mathtip|mmlToken"
    r"|newcommand|newenvironment|renewcommand|renewenvironment|require|style|texttip|toggle|tooltip|unicode|url)(?![a-zA-Z])"
)


def is_safe(text):
    """Whether this HTML can be put into a page as it is."""
    open_tags = []
    for closing, name, attributes in TAG.findall(text):
        if name not in TAGS or not all(_allowed(name, *one) for one in ATTRIBUTE.findall(attributes)):
            return False
        if closing and (not open_tags or open_tags.pop() != name):
            return False
        if not closing and name not in VOID:
            open_tags.append(name)
    words = TAG.sub("", text)
    if open_tags or "<" in words or "\0" in words:
        return False
    return reaching_tex(html.unescape(TAG.sub("", AS_TYPED.sub("", text)))) is None


def made_safe(text, rewrite=True):
    """This HTML, unchanged where it is safe; else what is left of it in safe tags, or its source as text."""
    if is_safe(text):
        return text
    text = BLOCK.sub("", text)
    if is_safe(text):
        return text
    if rewrite and len(text) <= LARGEST:
        styles = CSSSanitizer(allowed_css_properties=PROPERTIES)
        rewritten = bleach.clean(text, tags=TAGS, attributes=_allowed, strip=True, css_sanitizer=styles)
        if is_safe(rewritten):
            return rewritten
    return as_text(text)


def as_text(text):
    """Any text at all, as a block that shows it letter by letter. A page's mathematics leaves such a block alone."""
    return f"<pre>{html.escape(text.replace(chr(0), ''))}</pre>"


def reaching_tex(text):
    """The first TeX command in a text that would do more than set mathematics, or None."""
    return REACHING_TEX.search(text)


def _allowed(tag, name, value):
    if name == "style":
        return "&" not in value and all(_allowed_style(one) for one in value.split(";") if one.strip())
    value = html.unescape(value)
    if name == "class":
        return all(CLASS.fullmatch(one) or one in CLASSES for one in value.split())
    pattern = ATTRIBUTES.get(tag, {}).get(name) or EVERYWHERE.get(name)
    return pattern is not None and pattern.fullmatch(value) is not None


def _allowed_style(declaration):
    name, _, value = declaration.partition(":")
    return name.strip() in PROPERTIES and VALUE.fullmatch(value.strip()) is not None
