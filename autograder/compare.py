"""Do two values agree, and where is the first difference? Values are plain data (see `evidence.plain`).

Tolerances follow the dtype of what was expected: a right answer may sum in another order, which moves a float64
result by a few units in its 16th digit; 1e-9 of the largest magnitude leaves room and catches every real mistake.
"""

from dataclasses import dataclass

import numpy as np

from autograder.evidence import PLAIN_KINDS, Odd

RELATIVE = {8: 1e-9, 4: 3e-5, 2: 3e-3}  # by bytes of the expected float


@dataclass(frozen=True)
class Difference:
    """Why two values disagree, in words, and the two arrays where a picture could help."""

    text: str
    expected: np.ndarray | None = None
    got: np.ndarray | None = None


def difference(expected, got, tolerance=None, same_dtype=False, where=""):
    """None if `got` agrees with `expected`, else the first Difference. `where` names a part of a larger answer."""
    if isinstance(got, Odd):
        advice = ""
        if got.description == "a generator":
            advice = "; tuple(...) makes values of it" if isinstance(expected, list) else "; is a `yield` left in it?"
        return Difference(f"{_of(where)}expected {describe(expected)}, yours is {got.description}{advice}")
    if isinstance(expected, dict):
        return _of_parts(expected, got, expected.keys(), tolerance, same_dtype)
    if isinstance(expected, list):
        return _of_sequence(expected, got, tolerance, same_dtype, where)
    if not isinstance(expected, np.ndarray):
        return None if _plainly_equal(expected, got) else _mismatch(expected, got, where)
    if isinstance(got, list):
        got = _stack(got)
    if not isinstance(got, np.ndarray):
        return _mismatch(expected, got, where)
    if got.dtype.kind not in PLAIN_KINDS:
        return Difference(f"{_of(where)}expected numbers, yours holds text" + " or None" * (got.dtype.kind == "O"))
    return _of_arrays(expected, got, tolerance, same_dtype, where)


def describe(value):
    """A short noun phrase for a value, with the shape where it has one."""
    if value is None:
        return "None (a function without `return` gives that)"
    if isinstance(value, Odd):
        return value.description
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, dict):
        return "a dict with " + ", ".join(value)
    if isinstance(value, list):
        return f"{len(value)} values ({', '.join(describe(item) for item in value[:4])})"
    if value.ndim == 0:
        return f"the single {'truth value' if value.dtype.kind == 'b' else 'number'} {number(value[()])}"
    return f"an array of shape {value.shape}"


def told_apart(one, other):
    """Two numbers with as many digits as it takes to see that they differ."""
    for digits in (4, 6, 9, 12, 17):
        texts = number(one, digits), number(other, digits)
        if texts[0] != texts[1]:
            break
    return texts


def number(value, digits=4):
    """A number as a reader wants it: few significant digits, whole numbers without a point."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (complex, np.complexfloating)):
        return f"{value:.{digits}g}"
    whole = np.isfinite(value) and value == int(value) and abs(float(value)) < 1e15
    return str(int(value)) if whole else f"{value:.{digits}g}"


def _of(where):
    return f"{where}: " if where else ""


def _mismatch(expected, got, where):
    return Difference(f"{_of(where)}expected {describe(expected)}, yours is {describe(got)}")


def _plainly_equal(expected, got):
    return type(expected) is type(got) and expected == got


def _of_parts(expected, got, names, tolerance, same_dtype):
    if not isinstance(got, dict):
        return Difference(f"expected {describe(expected)}, yours is {describe(got)}")
    for name in names:
        if name not in got:
            return Difference(f"{name} is missing")
        found = difference(expected[name], got[name], tolerance, same_dtype, name)
        if found:
            return found
    return None


def _of_sequence(expected, got, tolerance, same_dtype, where):
    if isinstance(got, np.ndarray) and got.ndim and len(got) == len(expected):
        got = list(got)  # an array unpacks like a tuple
    if not isinstance(got, list):
        return _mismatch(expected, got, where)
    if len(got) != len(expected):
        return Difference(f"{_of(where)}expected {len(expected)} values, yours are {len(got)}")
    for place, (one, other) in enumerate(zip(expected, got, strict=True)):
        inner = f"{where}[{place}]" if where else f"returned value {place + 1} of {len(expected)}"
        found = difference(one, other, tolerance, same_dtype, inner)
        if found:
            return found
    return None


def _stack(items):
    try:
        return np.asarray([_stack(item) if isinstance(item, list) else item for item in items])
    except ValueError:
        return Odd("a ragged list")


def _of_arrays(expected, got, tolerance, same_dtype, where):
    if expected.shape != got.shape:
        if not expected.ndim or not got.ndim:
            return _mismatch(expected, got, where)
        advice = ""
        if sorted(expected.shape) == sorted(got.shape) and expected.ndim > 1:
            advice = "; the same axes in another order"
        elif expected.size == got.size and expected.ndim > got.ndim:
            advice = "; was an axis lost on the way?"
        return Difference(f"{_of(where)}expected shape {expected.shape}, yours is {got.shape}{advice}")
    if expected.dtype.kind == "b" and got.dtype.kind != "b":
        return Difference(f"{_of(where)}expected True and False, yours holds {_kind(got)} ({got.dtype})")
    if expected.dtype.kind != "b" and got.dtype.kind == "b":
        return Difference(f"{_of(where)}expected numbers, yours holds True and False")
    if got.dtype.kind == "c" and expected.dtype.kind != "c":
        return Difference(f"{_of(where)}expected real numbers, yours holds complex numbers")
    bad = ~_close(expected, got, tolerance)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        entry = f"{_place(index)} " if index else "it "
        should, yours = told_apart(expected[index], got[index])
        text = f"{_of(where)}{entry}should be {should}, yours is {yours}"
        if _only_precision(expected, got, bad):
            text += f" (right to the precision of {got.dtype}; the inputs are {expected.dtype})"
        elif (digits := _right_digits(expected, got)) >= 4:
            text += f" (right to about {digits} digits: was something rounded, or a small number added?)"
        return Difference(text, expected, got)
    if same_dtype and expected.dtype != got.dtype:
        return Difference(f"{_of(where)}the values are right, in {got.dtype} where the inputs are {expected.dtype}")
    return None


def _close(expected, got, tolerance):
    if expected.dtype.kind == "b":
        return expected == got
    if expected.dtype.kind in "iu" and got.dtype.kind in "iu":
        return expected == got
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    one, other = expected.astype(wide), got.astype(wide)
    itemsize = expected.dtype.itemsize if expected.dtype.kind == "f" else 8
    relative = RELATIVE.get(itemsize, 1e-9) if tolerance is None else tolerance
    finite = np.isfinite(one)
    largest = np.abs(one[finite]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= relative * np.maximum(np.abs(one), max(0.01 * largest, 0.001))
        return np.where(finite, near, (one == other) | (np.isnan(one) & np.isnan(other)))


def _only_precision(expected, got, bad):
    if got.dtype.kind != "f" or expected.dtype.kind != "f" or got.dtype.itemsize >= expected.dtype.itemsize:
        return False
    return bool(_close(expected, got, RELATIVE[got.dtype.itemsize]).all())


def _right_digits(expected, got):
    """To how many digits every entry is right, measured by the largest entry; 0 where that says nothing."""
    if expected.dtype.kind != "f" or got.dtype.kind != "f" or not (np.isfinite(expected) & np.isfinite(got)).all():
        return 0
    off, largest = np.abs(expected - got).max(), np.abs(expected).max()
    return int(-np.log10(off / largest)) if largest and 0 < off < largest else 0


def _kind(array):
    return "whole numbers" if array.dtype.kind in "iu" else "numbers"


def _place(index):
    if len(index) == 1:
        return f"entry {index[0]}"
    if len(index) == 2:
        return f"row {index[0]}, column {index[1]}"
    return f"entry [{', '.join(map(str, index))}]"
