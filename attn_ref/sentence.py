"""Six tokens that the whole course follows, with vectors small enough to read.

Each token has four numbers, made by hand: is it a thing, is it an action, does it speak of a place, is it a mere
function word. Trained embeddings have hundreds of numbers, and none of them has a name.
"""

import numpy as np

TOKENS = ("the", "cat", "sat", "on", "the", "mat")
FEATURES = ("thing", "action", "place", "function")

EMBEDDINGS = np.array(
    [
        [0.1, 0.0, 0.0, 1.0],  # the
        [1.0, 0.2, 0.0, 0.0],  # cat
        [0.1, 1.0, 0.3, 0.0],  # sat
        [0.0, 0.1, 1.0, 0.5],  # on
        [0.1, 0.0, 0.0, 1.0],  # the
        [0.9, 0.0, 0.8, 0.0],  # mat
    ]
)
EMBEDDINGS.setflags(write=False)  # shared by every chapter, so nobody may write to it
