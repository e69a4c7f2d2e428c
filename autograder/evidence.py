"""What an answer did on one case, as plain data: numbers, shapes, text. Never a pickle, never an object.

Evidence crosses from a process that runs a learner's code to one that judges it, so it is JSON, with arrays as
base64 of their bytes. Decoding trusts nothing: a dtype outside numbers and truth values is refused.
"""

import base64
import contextlib
import math
import types
from dataclasses import dataclass, field, fields

import numpy as np

LARGEST_ARRAY = 8 * 2**20  # bytes; an answer that returns more is wrong whatever it holds
LONGEST_PRINT = 2_000  # characters kept of what an answer prints
PLAIN_KINDS = "biufc"
STATUSES = ("returned", "raised", "not attempted", "too slow", "died", "not run")
ERROR = {"type": str, "message": str, "line": str, "lineno": int}  # what is kept of an exception


@dataclass(frozen=True)
class Odd:
    """A returned thing that is no number, array, text or collection of these."""

    description: str


@dataclass
class Outcome:
    """One case: what came back, or how it failed, and what else was noticed."""

    value: object = None
    error: dict | None = None  # as ERROR says; line is the source text
    status: str = "returned"  # one of STATUSES
    changed: list[str] = field(default_factory=list)  # arguments that were written to
    printed: str = ""
    warned: list[str] = field(default_factory=list)
    called: list[str] = field(default_factory=list)  # forbidden functions that the answer called, where this is watched

    def to_json(self):
        return {**vars(self), "value": encode(self.value)}

    @classmethod
    def from_json(cls, data):
        """Read what `to_json` wrote. ValueError on anything else: it may come from a process that nobody trusts."""
        if not isinstance(data, dict) or data.keys() != {one.name for one in fields(cls)}:
            raise ValueError("evidence holds something that is no outcome")
        if data["status"] not in STATUSES or not isinstance(data["printed"], str):
            raise ValueError(
                "evidence holds an outcome with an unknown status, or with something printed that is no text"
            )
        texts = [data["changed"], data["warned"], data["called"]]
        if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in texts):
            raise ValueError("evidence lists arguments, warnings or calls by something that is no text")
        error = data["error"]
        if data["status"] in ("raised", "not attempted") or error is not None:
            if not isinstance(error, dict) or {name: type(value) for name, value in error.items()} != ERROR:
                raise ValueError("evidence describes an error in an unknown form")
            error = {name: value[:500] if isinstance(value, str) else value for name, value in error.items()}
        try:
            value = decode(data["value"])
        except (TypeError, KeyError, OverflowError, RecursionError) as problem:
            raise ValueError(f"evidence holds a value that cannot be read ({problem})") from None
        shortened = {"printed": data["printed"][:LONGEST_PRINT], "warned": [text[:200] for text in data["warned"][:3]]}
        return cls(**{**data, **shortened, "error": error, "value": value})


def plain(value, depth=0):
    """Reduce a returned value to plain data: arrays, numbers, text, None, lists, dicts; anything else is Odd."""
    if value is None or isinstance(value, str):
        return value if value is None else value[:10_000]
    if isinstance(value, (bool, int, float, complex, np.ndarray, np.generic)):
        return _array(value)
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor, without importing torch
        tensor = value.detach().cpu()
        return _array(tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy())
    if isinstance(value, types.GeneratorType):
        return Odd("a generator")
    if depth > 6:
        return Odd("a deeply nested collection")
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if _holds_only_numbers(value):
            with contextlib.suppress(ValueError, OverflowError):  # ragged: several lists in one, perhaps
                return _array(np.asarray(value))
        return [plain(item, depth + 1) for item in value]
    name = type(value).__name__
    return Odd(f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}")


def _array(value):
    array = np.asarray(value)
    if array.dtype.kind not in PLAIN_KINDS:
        return Odd(f"an array of dtype {array.dtype}")
    if array.nbytes > LARGEST_ARRAY:
        return Odd(f"an array of shape {array.shape}, {array.nbytes / 2**20:.0f} MiB")
    if array.dtype.itemsize > 16 or array.dtype.name in ("longdouble", "clongdouble"):
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    return np.array(array, order="C")


def _holds_only_numbers(value):
    if isinstance(value, (list, tuple)):
        return all(_holds_only_numbers(item) for item in value)
    return isinstance(value, (bool, int, float, complex, np.generic))


def encode(value):
    """Plain data -> JSON."""
    if isinstance(value, np.ndarray):
        content = base64.b64encode(value.tobytes()).decode("ascii")
        return {"array": content, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, list):
        return {"list": [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: encode(item) for key, item in value.items()}}
    if isinstance(value, Odd):
        return {"odd": value.description}
    return value  # None or text


def decode(data):
    """JSON -> plain data. Raises ValueError on anything that `encode` would not have written."""
    if data is None or isinstance(data, str):
        return data
    if not isinstance(data, dict):
        raise ValueError(f"evidence holds a {type(data).__name__} where an encoded value is expected")
    if "array" in data:
        dtype = np.dtype(str(data["dtype"]))
        shape = tuple(int(n) for n in data["shape"])
        if dtype.kind not in PLAIN_KINDS or any(n < 0 for n in shape):
            raise ValueError(f"evidence holds an array of dtype {dtype} and shape {shape}, which no answer can return")
        content = base64.b64decode(data["array"], validate=True)
        if len(content) > LARGEST_ARRAY or len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"evidence holds {len(content)} bytes for an array of shape {shape} and dtype {dtype}")
        return np.frombuffer(content, dtype).reshape(shape)
    if "list" in data:
        return [decode(item) for item in data["list"]]
    if "dict" in data:
        return {str(key): decode(item) for key, item in data["dict"].items()}
    if "odd" in data:
        return Odd(str(data["odd"])[:200])
    raise ValueError("evidence holds an unknown kind of value")
