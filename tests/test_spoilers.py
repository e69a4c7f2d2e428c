"""The right answer, spoilt after the fact: each spoiler must cost marks wherever it can change a right result.

A spoiler that leaves every right result of an exercise as it is (the absolute value of a softmax) is listed as
harmless; the list is short, and each entry is a fact about the exercise, not about its cases.
"""

import numpy as np
import pytest

from autograder.judge import judge
from autograder.notebook import SEED
from autograder.runner import collect
from tests.conftest import PROOFS

SPOILERS = {
    "rounded to 3 decimals": lambda r: np.round(r, 3),
    "rounded to 6 decimals": lambda r: np.round(r, 6),
    "never negative": lambda r: np.maximum(r, 0),
    "absolute": np.abs,
    "cut off at ±10": lambda r: np.clip(r, -10, 10),
    "squeezed": np.squeeze,
    "sorted": lambda r: np.sort(r, axis=-1) if r.ndim else r,
    "turned where square": lambda r: r.swapaxes(-1, -2) if r.ndim > 1 and r.shape[-1] == r.shape[-2] > 1 else r,
    "turned where three axes": lambda r: r.swapaxes(0, 1) if r.ndim > 2 else r,
    "without a leading axis of 1": lambda r: r[0] if r.ndim > 1 and len(r) == 1 else r,
    "without a last axis of 1": lambda r: r[..., 0] if r.ndim > 1 and r.shape[-1] == 1 else r,
    "a small number added": lambda r: r + 1e-7,
    "whole numbers": lambda r: np.floor(np.nan_to_num(r)),
    "backwards": lambda r: r[..., ::-1] if r.ndim else -r,
    "first four rows": lambda r: r[:4],
}

NO_THIRD_AXIS = {"turned where three axes"}
ONE_AXIS = {"turned where square", "without a last axis of 1", "without a leading axis of 1"} | NO_THIRD_AXIS
NEVER_NEGATIVE = {"absolute", "never negative"}
TRUE_OR_FALSE = {"absolute", "whole numbers"}  # which leave truth values as they are
WHOLE = {"whole numbers", "rounded to 3 decimals", "rounded to 6 decimals"}
# A whole number, above 0: nothing to round, to sort or to turn.
A_COUNT = ONE_AXIS | NEVER_NEGATIVE | {"squeezed", "sorted"}
A_COUNT |= {"rounded to 3 decimals", "rounded to 6 decimals", "whole numbers"}
HARMLESS = {
    "0.1": NO_THIRD_AXIS,
    "0.2": NO_THIRD_AXIS,
    "1.1": ONE_AXIS | {"cut off at ±10"},  # tanh stays within ±1
    "1.2": NO_THIRD_AXIS,
    "1.3": NO_THIRD_AXIS,
    "1.4": NO_THIRD_AXIS,
    "2.1": NEVER_NEGATIVE | {"cut off at ±10"},  # shares lie between 0 and 1
    "2.5": ONE_AXIS | NEVER_NEGATIVE | {"squeezed", "sorted", "rounded to 6 decimals"},  # an estimate, one number
    # The text promises that six digits are enough.
    "2.6": NEVER_NEGATIVE | {"rounded to 6 decimals", "a small number added"},
    "3.2": ONE_AXIS | NEVER_NEGATIVE | {"squeezed", "sorted", "cut off at ±10"},  # one number between 0 and 2
    "3.5": NO_THIRD_AXIS,
    "3.6": NO_THIRD_AXIS,
    "3.7": ONE_AXIS,
    "4.1": TRUE_OR_FALSE | NO_THIRD_AXIS,
    "4.2": TRUE_OR_FALSE | {"turned where square"},  # (B, 1, n) is square for n = 1 alone
    "4.3": TRUE_OR_FALSE | NO_THIRD_AXIS,
    "4.4": TRUE_OR_FALSE | NO_THIRD_AXIS,
    "4.5": NEVER_NEGATIVE | {"cut off at ±10"},  # shares lie between 0 and 1
    "4.7": TRUE_OR_FALSE | ONE_AXIS | {"squeezed", "sorted"},  # a single truth value
    "6.5": {"absolute", "whole numbers"},  # NumPy leaves True and False as they are
    "6.6": NO_THIRD_AXIS,
    # One whole number above 0.
    "6.8": ONE_AXIS
    | NEVER_NEGATIVE
    | {"squeezed", "sorted", "whole numbers", "rounded to 3 decimals", "rounded to 6 decimals"},
    "5.1": ONE_AXIS | {"absolute", "squeezed", "sorted", "whole numbers"},  # one truth value
    "5.2": NO_THIRD_AXIS | {"cut off at ±10", "without a last axis of 1"},  # sines; d is even, as in 5.3 to 5.6
    "5.3": {"without a last axis of 1"},
    "5.5": {"without a last axis of 1"},
    "5.6": NO_THIRD_AXIS | {"without a last axis of 1"},
    "5.7": {"turned where square"},  # the reference charges later keys alike, and they are not judged
    "5.8": NO_THIRD_AXIS | NEVER_NEGATIVE | {"without a last axis of 1"},  # angles of positions from 0 on, d >= 4
    **dict.fromkeys(("8.1", "8.2", "8.3", "8.4", "8.5", "8.7"), A_COUNT),
    "9.2": {"turned where square"},  # the output has one row
    "9.3": NO_THIRD_AXIS | NEVER_NEGATIVE | WHOLE,
    "9.8": ONE_AXIS | NEVER_NEGATIVE | WHOLE | {"squeezed", "sorted"},  # one count
    "10.1": NO_THIRD_AXIS,
    "10.3": NO_THIRD_AXIS,
    "10.4": A_COUNT,
    "10.5": A_COUNT,
    "10.6": NO_THIRD_AXIS,
    "7.4": ONE_AXIS | NEVER_NEGATIVE | {"squeezed", "sorted"},  # one number, never below 0
    "7.5": NEVER_NEGATIVE | {"cut off at ±10"},  # shares
    "7.6": {"without a last axis of 1"},  # a vocabulary of one word has nothing to foretell
    "7.7": NEVER_NEGATIVE | NO_THIRD_AXIS | {"cut off at ±10"},  # a share for each layer and head
    "13.1": NEVER_NEGATIVE,  # distances
    "13.2": NEVER_NEGATIVE | {"cut off at ±10"},  # shares lie between 0 and 1
    "13.3": NEVER_NEGATIVE | NO_THIRD_AXIS | {"cut off at ±10"},  # shares again
    "13.4": ONE_AXIS | NEVER_NEGATIVE | {"squeezed", "sorted", "cut off at ±10"},  # one share
    "13.7": NO_THIRD_AXIS,
    # Entries are whole numbers from 0 on, sorted.
    "11.2": ONE_AXIS | NEVER_NEGATIVE | {"sorted", "rounded to 3 decimals", "rounded to 6 decimals", "whole numbers"},
}


def spoilt(reference, spoil):
    def answer(*args, **kwargs):
        result = reference(*args, **kwargs)
        if isinstance(result, tuple):
            return tuple(spoil(np.asarray(item)) for item in result)
        return spoil(np.asarray(result))

    return answer


@pytest.mark.parametrize("exercise", PROOFS)
def test_a_spoilt_right_answer_loses_marks(exercise):
    if isinstance(exercise.reference, type):
        pytest.skip("a class has no one result to spoil")
    passed = set()
    for name, spoil in SPOILERS.items():
        answer = spoilt(exercise.reference, spoil)
        if judge(exercise, SEED, collect(exercise, answer, SEED)).full:
            passed.add(name)
    assert passed == HARMLESS.get(exercise.id, set())
