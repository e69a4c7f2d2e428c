"""A film in stills: pictures shown one at a time, with a slider; where scripts may not run, all of them in a row.

Used in course/10_online_softmax for the walk over tiles.
"""

from attn_ref.plots.style import Picture

# No less-than sign may stand in here, so that a cleaner of HTML can cut the script out whole: see safe_html.
SCRIPT = """<script>
(root => {
  if (!root) return;
  const frames = [...root.querySelectorAll("figure")];
  const add = (parent, tag, attributes = {}, text = "") => {
    const one = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => one.setAttribute(name, value));
    one.textContent = text;
    return parent.appendChild(one);
  };
  const row = add(root, "div", {style: "display:flex;gap:8px;align-items:center;max-width:34em;margin:0 0 6px"});
  root.prepend(row);
  const back = add(row, "button", {type: "button", "aria-label": "previous picture"}, "◀");
  const slider = add(row, "input", {
    type: "range", min: 1, max: frames.length, value: 1, "aria-label": "picture", style: "flex:1;min-width:6em",
  });
  const on = add(row, "button", {type: "button", "aria-label": "next picture"}, "▶");
  const count = add(row, "span", {role: "status", style: "min-width:4em;font-variant-numeric:tabular-nums"});
  const show = number => {
    slider.value = number;
    frames.forEach((frame, i) => { frame.style.display = i + 1 === +slider.value ? "" : "none"; });
    count.textContent = `${slider.value} of ${frames.length}`;
    back.disabled = +slider.value === 1;
    on.disabled = +slider.value === frames.length;
  };
  slider.oninput = () => show(+slider.value);
  back.onclick = () => show(+slider.value - 1);
  on.onclick = () => show(+slider.value + 1);
  // JupyterLab would take the arrow keys for its own.
  [back, slider, on].forEach(one => one.setAttribute("data-lm-suppress-shortcuts", "true"));
  show(1);
})(document.currentScript?.parentElement);
</script>"""


class Film(Picture):
    """Pictures to step through; its own figure and alt text are those of the first."""

    def __init__(self, frames):
        self.frames = frames
        first = frames[0]
        super().__init__(first.figure, f"The first of {len(frames)} pictures. {first.alt}")

    def _repr_html_(self):
        pictures = [Picture(self.figure, self.alt), *self.frames[1:]]
        shown = "".join(f'<figure style="margin:0 0 6px">{one._repr_html_()}</figure>' for one in pictures)
        return f'<div role="group" aria-label="{len(pictures)} pictures to step through">{shown}{SCRIPT}</div>'


def film(pictures):
    """Pictures one at a time, with a slider.  [Picture], such as `tile_walk` for each step"""
    if not isinstance(pictures, (list, tuple)):
        raise TypeError(f"pictures must be a list such as [tile_walk(..., step=1), ...], got {type(pictures).__name__}")
    if not pictures:
        raise ValueError("pictures is empty; there is nothing to draw")
    for number, one in enumerate(pictures):
        if not isinstance(one, Picture) or isinstance(one, Film):
            raise TypeError(f"pictures[{number}] must be a Picture of this package, got {type(one).__name__}")
    return Film(list(pictures))
