"""Note which functions an answer really calls, without changing what they do.

A Python function is watched through its code, so that a copy of its name held by the answer is seen too; a function
written in C through the attribute that leads to it. Only calls from the learner's own code count: a library that
calls itself is nobody's shortcut.
"""

import contextlib
import inspect
import sys
import sysconfig
import types
from pathlib import Path

from autograder.forbidden import Forbidden

PACKAGES = ("site-packages", "dist-packages")
STANDARD = (sysconfig.get_paths()["stdlib"], "<frozen ")
PROJECT = Path(__file__).resolve().parents[1]
OURS = tuple(f"{PROJECT / name}/" for name in ("attn_ref", "autograder"))
# By name, because a look at all that is imported takes longer than most answers do.
OF_ATTN_REF = tuple(
    ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted((PROJECT / "attn_ref").rglob("*.py"))
)
# Exercise.call is where a check calls the answer: a watched function that is called there is itself the answer.
CALLS_THE_ANSWER = str(PROJECT / "autograder" / "exercise.py")
IN_C = (types.BuiltinFunctionType, types.MethodDescriptorType)


def traps(exercise):
    """A context manager for the check's child: `with traps(exercise) as names:` fills `names`, a set, with the
    forbidden functions that the answer calls. Around the answer's calls alone, not around judging.
    """
    forbidden = Forbidden(exercise)
    return watch(forbidden.names, forbidden.of_attn_ref)


@contextlib.contextmanager
def watch(names, of_attn_ref=frozenset()):
    """Yield a set that fills with those of the qualified `names` that a learner's code calls.

    Only what is imported already is watched, and all is put back at the end. `of_attn_ref` are names to watch in every
    file of attn_ref; they are reported as `attn_ref.<name>`.
    """
    called, functions = set(), {}
    with contextlib.ExitStack() as undo:
        for name, owner, attribute in _places(names, of_attn_ref):
            value = inspect.getattr_static(owner, attribute)
            if isinstance(value, type):
                value = vars(value).get("__init__")  # the class itself stays, for isinstance and for subclasses
            value = getattr(value, "__func__", value)  # of a static or class method
            if isinstance(value, types.FunctionType):
                functions[id(value)] = name, value  # once, though several names may lead to it
            elif isinstance(value, IN_C):
                _replace_attribute(owner, attribute, value, name, called, undo)
        for name, function in functions.values():
            _replace_code(function, name, called, undo)
        yield called


def _places(names, of_attn_ref):
    """(name, module or class, attribute) of everything to watch that is there."""
    for name in names:
        parts = name.split(".")
        owner = None if parts[0] == "attn_ref" else _owner(parts)
        if owner is not None:
            yield name, owner, parts[-1]
    for module in filter(None, map(sys.modules.get, OF_ATTN_REF)):
        yield from ((f"attn_ref.{one}", module, one) for one in sorted(of_attn_ref & vars(module).keys()))


def _owner(parts):
    """What holds the last part: the longest imported module, then its attributes. None if there is no such thing."""
    for cut in range(len(parts) - 1, 0, -1):
        owner = sys.modules.get(".".join(parts[:cut]))
        if owner is not None:
            # Looked up statically, because asking a module for what it loads lazily would load it.
            for part in parts[cut:-1]:
                owner = inspect.getattr_static(owner, part, None)
            return owner if inspect.getattr_static(owner, parts[-1], None) is not None else None
    return None


def _noting(original, name, called, file, depth):
    """A function that does what `original` does and notes the name where a learner's code, `depth` frames up, calls."""

    def note_and_call(*args, **kwargs):
        if _is_learners(sys._getframe(depth)):
            called.add(name)
        return original(*args, **kwargs)

    # An error inside is then reported at the learner's line, as without the trap: this frame is the library's.
    note_and_call.__code__ = note_and_call.__code__.replace(co_filename=file)
    return note_and_call


def _replace_code(function, name, called, undo):
    """The function's own object runs `_pass_on`, and a new object what it ran before."""
    code, keywords = function.__code__, function.__kwdefaults__
    original = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = keywords
    undo.callback(setattr, function, "__kwdefaults__", keywords)
    undo.callback(setattr, function, "__code__", code)
    function.__kwdefaults__ = {"_noting": _noting(original, name, called, code.co_filename, depth=2)}
    # Python asks for as many free variables as before; they are not used.
    function.__code__ = _pass_on.__code__.replace(co_freevars=code.co_freevars, co_filename=code.co_filename)


def _pass_on(*args, _noting, **kwargs):
    return _noting(*args, **kwargs)


def _replace_attribute(owner, attribute, original, name, called, undo):
    own = attribute in vars(owner)  # or inherited
    stand_in = _noting(original, name, called, f"site-packages/{name}", depth=1)
    with contextlib.suppress(AttributeError, TypeError):  # a class written in C lets nothing be replaced
        setattr(owner, attribute, stand_in)
        undo.callback(*((setattr, owner, attribute, original) if own else (delattr, owner, attribute)))


def _is_learners(frame):
    """Does this frame run a learner's code? Python's own library is looked through: it calls what it is given."""
    while frame is not None and _is_standard(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return False
    file = frame.f_code.co_filename
    return file == CALLS_THE_ANSWER or not (any(one in file for one in PACKAGES) or file.startswith(OURS))


def _is_standard(file):
    return file.startswith(STANDARD) and not any(one in file for one in PACKAGES)
