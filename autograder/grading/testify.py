"""Inside the kernel: run an answer and send what it gave as evidence. Nothing is judged here, and nothing is trusted.

The grader sends `call(...)` in place of the check cell's own line, so that an answer called `check`, or a `check` that
was written over, costs nobody a point and gains nobody one.
"""

from autograder.exercise import find_exercise
from autograder.grading.policy import traps
from autograder.runner import collect

EVIDENCE_TYPE = "application/vnd.attn.evidence+json"


def call(exercise_id, seeds):
    """The line of code that makes a kernel testify: `{purpose: seed}` names the cases to run."""
    return f"__import__('autograder.grading.testify', fromlist=['testify']).testify({exercise_id!r}, {seeds!r})"


def testify(exercise_id, seeds):
    """Run the answer that this notebook defines on the cases of each seed, and display the outcomes as plain data."""
    from IPython import get_ipython

    shell = get_ipython()
    exercise = find_exercise(exercise_id)
    answer = shell.user_ns.get(exercise.name)
    if not callable(answer):
        evidence = {"instead": "" if exercise.name not in shell.user_ns else type(answer).__name__}
    else:
        evidence = {
            purpose: [one.to_json() for one in collect(exercise, answer, seed, watch=lambda: traps(exercise))]
            for purpose, seed in seeds.items()
        }
    shell.display_pub.publish({EVIDENCE_TYPE: evidence})
