"""Exercises, checks and grading. A notebook needs one line: `from autograder import check, guess, hint, quiz`.

For the reader of the code, in order:

1. `exercise`  what an exercise is: a reference, criteria with points, known mistakes, right variants, hints
2. `evidence`  what an answer did on one case, as plain data
3. `runner`    run an answer on its cases, apart from the notebook and within a time limit
4. `compare`   do two values agree, and where is the first difference
5. `judge`     from evidence to points and a diagnosis
6. `card`      how the learner sees it, as a card and as text
7. `record`    the learner's own record of checks and hints
8. `notebook`  check, hint and progress: the lines in the notebook, made of the above
9. `questions` quiz and guess: the questions that mark themselves
10. `build`    from one chapter text to nbgrader's notebooks
"""

from autograder.notebook import check, hint, progress
from autograder.questions import guess, quiz

__all__ = ["check", "guess", "hint", "progress", "quiz"]
