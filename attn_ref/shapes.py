"""Arguments are checked at the door, so that an error names the culprit and not the line that stumbled over it.

NumPy arrays and torch tensors are both welcome and never mixed: what comes in decides what goes out. The two libraries
share most names, so that a function written with `xp = namespace(x)` reads the same for either.
"""

import math
import operator
import sys

import numpy as np


def is_tensor(x):
    """Whether x is a torch tensor. Looks at what is loaded, so that NumPy users never load torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def namespace(x):
    """The library that x belongs to: torch for a tensor, NumPy for all else."""
    return sys.modules["torch"] if is_tensor(x) else np


def as_array(x, name):
    """A list, number or array as a NumPy array; rows of unequal length and lists of tensors are named as such."""
    if isinstance(x, (list, tuple)) and any(is_tensor(one) for one in x):
        raise TypeError(f"{name} is a {type(x).__name__} of torch tensors; make it one tensor with torch.stack({name})")
    if x is None:
        raise TypeError(f"{name} must be an array, got None; did a function forget its return?")
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} must be an array, but its rows differ in length; pad them to one length") from None


def one_library(**arrays):
    """Refuses a mixture of NumPy arrays and tensors."""
    if len({is_tensor(x) for x in arrays.values()}) > 1:
        where = {name: "torch" if is_tensor(x) else "NumPy" for name, x in arrays.items()}
        raise TypeError(f"{', '.join(arrays)} must be of one library, got {where}; convert with torch.as_tensor")


def real_array(x, name, axes=0, shape="(..., n)"):
    """x as an array of floats with at least `axes` axes; whole numbers become float64. Tensors stay tensors."""
    if is_tensor(x):
        if x.is_complex():
            raise TypeError(f"{name} must hold real numbers, got a complex tensor ({x.dtype})")
        x = x if x.is_floating_point() else x.double()
    else:
        x = as_array(x, name)
        if x.dtype.kind in "biu":
            x = x.astype(np.float64)
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            cause = "take its real part?" if x.dtype.kind == "c" else "was text or a list of other objects passed?"
            raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}; {cause}")
    if x.ndim < axes:
        cause = "; a single vector is (1, d)" if (x.ndim, axes) == (1, 2) else ""
        raise ValueError(f"{name} needs a shape {shape}, got {tuple(x.shape)}{cause}")
    return x


def boolean_array(x, name, like=None):
    """x as an array of True and False, beside `like`. Whole numbers 0 and 1 are refused: they may mean the opposite."""
    if not is_tensor(x):
        x = as_array(x, name)
    if x.dtype not in (np.bool_, bool) and str(x.dtype) != "torch.bool":
        raise TypeError(
            f"{name} must be boolean, True = may attend, got dtype {x.dtype}; "
            f"is it an additive mask? Then pass it as bias. Is it 0 and 1? Then pass {name} == 1"
        )
    return same_side(x, name, like)


def same_side(x, name, like):
    """x in the library and on the device of `like`, where one is given. A tensor is never turned into an array."""
    if like is None or is_tensor(x) == is_tensor(like):
        return x if like is None or not is_tensor(x) else x.to(like.device)
    if is_tensor(x):
        raise TypeError(f"{name} is a torch tensor but the other inputs are NumPy arrays; pass {name}.numpy()")
    return sys.modules["torch"].as_tensor(np.array(x, order="C"), device=like.device)


def whole_number(x, name, least=None):
    """x as an int of at least `least`. True and 2.0 are refused: they are more often a slip than a wish."""
    try:
        if isinstance(x, (bool, np.bool_)):
            raise TypeError
        value = operator.index(x)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {_shown(x)}") from None
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def real_number(x, name, above=None, least=None):
    """x as a finite float, greater than `above` or at least `least` where given."""
    if getattr(x, "requires_grad", False):
        raise TypeError(f"{name} requires a gradient, but is taken as a plain number; pass {name}.item(), or scale q")
    try:
        if isinstance(x, (bool, np.bool_, str)):
            raise TypeError
        value = float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {_shown(x)}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be greater than {above:g}, got {value:g}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least:g}, got {value:g}")
    return value


def whole_array(x, name, axes=None):
    """x as an int64 array (a tensor stays one) with exactly `axes` axes where given."""
    if is_tensor(x):
        if x.is_floating_point() or x.is_complex() or str(x.dtype) == "torch.bool":
            raise TypeError(f"{name} must hold whole numbers, got dtype {x.dtype}")
        x = x.long()
    else:
        x = as_array(x, name)
        if x.dtype.kind not in "iu" and x.size:
            raise TypeError(f"{name} must hold whole numbers, got dtype {x.dtype}")
        x = x.astype(np.int64)
    if axes is not None and x.ndim != axes:
        cause = "; a single number goes into a list" if x.ndim == 0 else ""
        raise ValueError(
            f"{name} must have {axes} {'axis' if axes == 1 else 'axes'}, got shape {tuple(x.shape)}{cause}"
        )
    return x


def working(x):
    """x in the precision to compute in: half-precision numbers are worked on as float32."""
    if x.dtype.itemsize > 2:
        return x
    return x.float() if is_tensor(x) else x.astype("float32")


def in_precision_of(given, x):
    """A result in the precision of what was given."""
    return x.to(given.dtype) if is_tensor(x) else x.astype(given.dtype, copy=False)


def at_hand(x):
    """x as NumPy can read it, from whatever device"""
    return x.detach().cpu().numpy() if is_tensor(x) else x


def choice(x, name, choices):
    """x, if it is one of `choices`."""
    if not isinstance(x, (str, type(None))) or x not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {_shown(x)}")
    return x


def _shown(x):
    """A value for an error message: short, with its type."""
    shape = f" of shape {tuple(x.shape)}" if hasattr(x, "shape") else ""
    text = "" if shape else f" {x!r:.40}"
    return f"{type(x).__name__}{text}{shape}"
