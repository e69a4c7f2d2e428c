"""Inside the kernel: run an answer and send what it gave as evidence. Nothing is judged here, and nothing is trusted.

The grader sends `call(...)` in place of the check cell's own line, so that an answer called `check`, or a `check` that
was written over, costs nobody a point and gains nobody one.
"""

import contextlib
import json
import os
import sys

from autograder.evidence import Odd
from autograder.exercise import find_exercise
from autograder.runner import collect
from autograder.traps import traps

EVIDENCE_TYPE = "application/vnd.attn.evidence+json"
LARGEST_EVIDENCE = 16 * 2**20  # characters for each seed; right answers take some 20,000


def call(exercise_id, seeds, apart, along=False):
    """The expression that makes a kernel testify: `{purpose: seed}` names the cases to run."""
    arguments = f"{exercise_id!r}, {seeds!r}, {apart!r}, {along!r}"
    return f"__import__('autograder.grading.testify', fromlist=['testify']).testify({arguments})"


def testify(exercise_id, seeds, apart, along=False):
    """Run the answer that this notebook defines on the cases of each seed, and display the outcomes as plain data.

    `apart` runs it in a forked child, which keeps what it breaks from the cells that follow, and costs more than most
    answers do. `along` is said where this belongs to another cell's request: it is counted as the cell that it is.
    """
    from IPython import get_ipython

    kernel, shell, figures = os.getpid(), get_ipython(), _figures()
    exercise = find_exercise(exercise_id)
    answer = shell.user_ns.get(exercise.name)
    if not callable(answer):
        evidence = {"instead": "" if exercise.name not in shell.user_ns else type(answer).__name__}
    else:
        evidence = {
            purpose: _sendable(collect(exercise, answer, seed, watch=lambda: traps(exercise), apart=apart))
            for purpose, seed in seeds.items()
        }
    if os.getpid() != kernel:
        os._exit(0)  # the answer has forked, and this is its child
    _close(_figures() - figures)
    if along:
        shell.history_manager.store_inputs(shell.execution_count, "")
        shell.execution_count += 1
    shell.display_pub.publish({EVIDENCE_TYPE: evidence})


def _figures():
    with contextlib.suppress(Exception):  # whatever a notebook has made of it
        return set(sys.modules["matplotlib.pyplot"].get_fignums())
    return set()


def _close(figures):
    """What an answer has drawn is nobody's to see, and would be shown by the next cell."""
    with contextlib.suppress(Exception):
        for number in figures:
            sys.modules["matplotlib.pyplot"].close(number)


def _sendable(outcomes):
    """Outcomes as JSON. What is too much to be sent is wrong, and is described in its place."""
    sent, left = [], LARGEST_EVIDENCE
    for outcome in outcomes:
        written = outcome.to_json()
        left -= len(json.dumps(written))
        if left < 0:
            outcome.value = Odd(f"too much to be sent (more than {LARGEST_EVIDENCE // 2**20} MiB over all cases)")
            written = outcome.to_json()
        sent.append(written)
    return sent
