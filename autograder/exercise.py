"""What an exercise is. One definition feeds the check, the grade, the diagnosis, the tests and the kill matrix.

A definition reads like a page of a teacher's notebook; `docs/writing-an-exercise.md` walks through one.
"""

import inspect
import zlib
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import numpy as np

PACKAGES = ("torch", "numba", "triton")  # those that only some chapters need
NOT_INSTALLED = "{folder} needs {name}, which is not installed. In the course's folder `make env EXTRAS={name}` "
NOT_INSTALLED += "installs it, and `make env EXTRAS=torch,numba,triton` what every chapter needs."


class NotInstalled(ModuleNotFoundError):
    """A package that a chapter needs; the message says how to install it."""


@dataclass(frozen=True)
class Case:
    """One call of the answer: its arguments, and the criterion that it belongs to."""

    criterion: "Criterion"
    arguments: dict


@dataclass
class Criterion:
    """A sentence the learner can read, its points, and the seeded cases that must all come out right."""

    sentence: str
    points: float
    generate: Callable | None  # rng -> yields dicts of arguments; None judges every other criterion's cases
    tolerance: float | None = None  # relative; None derives it from the dtype
    same_dtype: bool = False  # also ask for the reference's dtype
    untouched: bool = False  # ask only that the inputs are as they were


@dataclass(eq=False)
class Mistake:
    """A wrong answer that someone will give, and what a tutor would say to it."""

    name: str
    message: str
    answer: Callable


@dataclass(eq=False)
class Exercise:
    """An exercise of one chapter. `reference` is the right answer; its name and parameters are the contract.

    `expected`, where given, computes what is right in place of `reference` (an exact value where the answer is a
    simulation). `isolate=False` runs the answer in the notebook's own process (for code that cannot be forked).
    `forbids` names calls that would defeat the exercise, such as "scipy.special.softmax"; see `forbidden.py`.
    `needs` names a module that some machines cannot have, such as "triton"; there, a check says so and marks nothing.
    """

    id: str
    title: str
    reference: Callable
    minutes: int
    expected: Callable | None = None
    isolate: bool = True
    time_limit: float = 10.0  # seconds for all cases together
    forbids: tuple[str, ...] = ()
    needs: str = ""
    criteria: list[Criterion] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    variants: list[Callable] = field(default_factory=list)
    hint_texts: tuple[str, ...] = ()
    error_texts: tuple[tuple[str, str], ...] = ()
    drive: Callable | None = None

    def __post_init__(self):
        # Read once: while an answer runs, the reference is watched, and its parameters cannot be told.
        is_class = isinstance(self.reference, type)
        self.parameters = () if is_class else tuple(inspect.signature(self.reference).parameters)

    @property
    def name(self):
        return self.reference.__name__

    @property
    def chapter(self):
        return int(self.id.split(".")[0])

    @property
    def points(self):
        return sum(criterion.points for criterion in self.criteria)

    @property
    def missing(self):
        """Why answers cannot be judged on this machine; empty where they can."""
        if not self.needs or _imports(self.needs):
            return ""
        return f"{self.needs} is not installed on this machine, and this exercise runs on it"

    def criterion(self, sentence, points, *, tolerance=None, same_dtype=False):
        """Decorate a generator of cases: `def square(rng): yield dict(n_q=5, n_k=5)`."""

        def add(generate):
            self.criteria.append(Criterion(sentence, points, generate, tolerance, same_dtype))
            return generate

        return add

    def leaves_inputs_alone(self, points=1, sentence="the inputs are left as they were"):
        """A criterion over all cases: no argument was written to. It counts once something else is right."""
        self.criteria.append(Criterion(sentence, points, None, untouched=True))

    def mistake(self, message):
        """Decorate a wrong answer; its name is the mistake's name in reports."""

        def add(answer):
            self.mistakes.append(Mistake(answer.__name__, message, answer))
            return answer

        return add

    def also_right(self, answer):
        """Decorate a right answer that is written differently; it must get full marks."""
        self.variants.append(answer)
        return answer

    def probe(self, drive):
        """Decorate `drive(answer, **arguments) -> value`: how to use an answer that is more than one call."""
        self.drive = drive
        return drive

    def hints(self, *texts):
        """Up to three steps, from a nudge to a plan."""
        self.hint_texts = texts

    def errors(self, *pairs):
        """(the error as Python prints it, what it means here) for the "I see this error" folds."""
        self.error_texts = pairs

    def cases(self, seed):
        """The calls that judge an answer, the same for the same seed. Arguments are fresh each time."""
        found = []
        for index, criterion in enumerate(self.criteria):
            if criterion.generate is not None:
                rng = np.random.default_rng([seed, zlib.crc32(self.id.encode()), index])
                # Copies, because two cases may share an array, and an answer may write to what it is given.
                found += [Case(criterion, deepcopy(arguments)) for arguments in criterion.generate(rng)]
        return found

    def call(self, answer, arguments):
        """Use an answer on one case. Positional where the order allows, so a renamed parameter is no mistake."""
        if self.drive is not None:
            return self.drive(answer, **arguments)
        keywords = dict(arguments)
        positional = []
        for parameter in self.parameters:
            if parameter not in keywords:
                break
            positional.append(keywords.pop(parameter))
        return answer(*positional, **keywords)


@dataclass
class Quiz:
    """A question that marks itself: choices as {letter: (text, feedback)}, one of them right."""

    id: str
    question: str
    choices: dict[str, tuple[str, str]]
    right: str


@dataclass
class Written:
    """A question answered in words and read by a person: four levels, from best to least."""

    id: str
    title: str
    minutes: int
    rubric: tuple[str, str, str, str]
    points: float = 4

    @property
    def chapter(self):
        return int(self.id.split(".")[0])


@dataclass
class Chapter:
    """All that `autograder/exercises/chNN_topic.py` defines, found by type and kept in the order of the file."""

    number: int
    topic: str
    exercises: dict[str, Exercise]
    quizzes: dict[str, Quiz]
    written: dict[str, Written]

    @property
    def folder(self):
        return f"{self.number:02d}_{self.topic}"


@cache
def _imports(module):
    try:
        import_module(module)
    except ImportError:
        return False
    return True


@cache
def chapters():
    """{number: module name} of every chapter that has exercises, in order."""
    package = import_module("autograder.exercises")
    names = sorted(module.name for module in iter_modules(package.__path__) if module.name.startswith("ch"))
    return {int(name[2:4]): name for name in names}


def folder_of(number):
    """The name of a chapter's folders, told without loading its definitions, which may import torch."""
    return f"{number:02d}_{chapters()[number][5:]}"


def module_of(number):
    """The full name of the module that defines a chapter's exercises."""
    return f"autograder.exercises.{chapters()[number]}"


@cache
def load_chapter(number):
    """The definitions of one chapter. Only its own file is imported, so a check starts fast.

    Raises KeyError where there is no such chapter, NotInstalled where it needs a package that is not there.
    """
    if number not in chapters():
        raise KeyError(f"there is no chapter {number}; the chapters are {', '.join(map(str, chapters()))}")
    module_name = chapters()[number]
    try:
        module = import_module(module_of(number))
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        missing = NOT_INSTALLED.format(folder=folder_of(number), name=error.name)
        raise NotInstalled(missing, name=error.name) from None
    kinds = {Exercise: {}, Quiz: {}, Written: {}}
    for value in vars(module).values():
        for kind, found in kinds.items():
            if isinstance(value, kind):
                if value.id in found:
                    raise ValueError(f"{module_name}.py defines {kind.__name__} {value.id} twice")
                found[value.id] = value
    return Chapter(number, module_name[5:], *kinds.values())


def loadable_chapters():
    """The Chapters for which all packages are installed, in order."""
    found = []
    for number in chapters():
        with suppress(NotInstalled):
            found.append(load_chapter(number))
    return found


def find_exercise(exercise_id):
    """The exercise with this id, or a KeyError whose text tells the learner which ids there are."""
    text = str(exercise_id)
    number = text.split(".")[0]
    if not number.isdigit() or int(number) not in chapters():
        raise KeyError(f'there is no exercise "{text}"; ids look like "2.1" (chapter 2, exercise 1)')
    exercises = load_chapter(int(number)).exercises
    if text not in exercises:
        raise KeyError(f'chapter {int(number)} has no exercise "{text}"; it has {", ".join(exercises)}')
    return exercises[text]
