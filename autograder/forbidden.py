"""Which names defeat an exercise: its own reference, what its definition names in `forbids`, and the grader's parts."""

OPEN = {f"autograder.{name}" for name in ("check", "guess", "hint", "progress", "quiz")}

# What a student reads.
CAUGHT = (
    "While the answer ran it called `{text}`, which does the work that exercise {id} asks of you. Write `{name}` "
    "yourself; the exercise's text says what you may build on."
)


class Forbidden:
    """The names that defeat one exercise: `Forbidden(exercise)("attn_ref.softmax")` is True for 2.1."""

    def __init__(self, exercise):
        reference = exercise.reference
        own = f"{reference.__module__}.{reference.__qualname__}"
        self.names = {own, *exercise.forbids}
        if own.startswith("attn_ref."):
            self.names.add(f"attn_ref.{reference.__name__}")
        # attn_ref gives one name to one thing, whichever of its files it is taken from.
        self.of_attn_ref = {name.split(".")[-1] for name in self.names if name.startswith("attn_ref.")}

    def __call__(self, name):
        """Is this qualified name forbidden, or something that belongs to what is?"""
        root, *inside = name.split(".")
        if root == "autograder":
            return bool(inside) and name not in OPEN
        if root == "attn_ref":
            return not self.of_attn_ref.isdisjoint(inside) and not self._is_module(name)
        return any(name == one or name.startswith(f"{one}.") for one in self.names)

    def within(self, module):
        """The names that `from module import *` brings and that lead to something forbidden."""
        start = f"{module}."
        return sorted({one.removeprefix(start).split(".")[0] for one in self.names if one.startswith(start)})

    def lives_in(self, owner):
        """Can something forbidden be reached through this module or class, or through its `__dict__`?"""
        owner = owner.removesuffix(".__dict__")
        return owner in ("autograder", "attn_ref") or bool(self.within(owner))

    def _is_module(self, name):
        """`attn_ref.attention` is a function and a file; `attn_ref.attention.something_else` is in the file."""
        inside = name.split(".")[1:]
        return len(inside) > 1 and inside[-1] not in self.of_attn_ref and not inside[-1].startswith("__")


def caught(exercise, name):
    """What a student reads of a forbidden function that the answer has called."""
    return CAUGHT.format(text=name, id=exercise.id, name=exercise.name)
