"""Grading a class: take in, mend, execute, judge, keep. `docs/architecture.md` says how the parts fit."""

from autograder import quick_imports  # noqa: F401 (first, so that it can spare every part an import)
