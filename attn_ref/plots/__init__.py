"""Pictures of attention in one style: queries go down, keys go across, colour never carries meaning alone.

Every function returns a `Picture`, which a notebook shows with its alt text. Weights use cividis from 0 to 1, scores a
diverging map centred at 0, lines the Okabe-Ito colours with a marker of their own; what is forbidden is hatched.
Read `style` first; the others each use it and not each other, but for `head_lines`, whose still picture is a
`head_view`.
`head_view`, and `live`, which grows `lines`.
"""

from attn_ref.plots.batches import batches
from attn_ref.plots.charts import arrows, bars, histogram, lines
from attn_ref.plots.film import film
from attn_ref.plots.head_lines import head_lines
from attn_ref.plots.heads import head_view
from attn_ref.plots.live import Live
from attn_ref.plots.maps import formula, mask, masks, matrices, matrix, scores, weights
from attn_ref.plots.memory import slots
from attn_ref.plots.programs import programs
from attn_ref.plots.roofline import roofline
from attn_ref.plots.scaling import time_and_memory
from attn_ref.plots.style import Picture
from attn_ref.plots.tiles import tile_walk
from attn_ref.plots.touches import touches

__all__ = [
    "Live",
    "Picture",
    "arrows",
    "bars",
    "batches",
    "film",
    "formula",
    "head_lines",
    "head_view",
    "histogram",
    "lines",
    "mask",
    "masks",
    "matrices",
    "matrix",
    "programs",
    "roofline",
    "scores",
    "slots",
    "tile_walk",
    "time_and_memory",
    "touches",
    "weights",
]
