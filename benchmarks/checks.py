"""How long a learner waits: a check of a right and of a wrong answer, and the imports. `python benchmarks/checks.py`

Prints the median over the exercises and the slowest; each time is the median of repeats in this process. Imports are
timed in fresh interpreters, interleaved, as the extra over `import numpy`.
"""

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time

from autograder import check
from autograder.exercise import chapters, load_chapter

REPEATS = 7


def median_ms(call):
    """Median wall time of a call in milliseconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def check_times():
    """[(exercise id, ms for the reference, ms for its slowest mistake)]"""
    rows = []
    for exercise in (one for number in chapters() for one in load_chapter(number).exercises.values()):
        right = median_ms(lambda exercise=exercise: check(exercise.id, exercise.reference))
        wrong = max(
            median_ms(lambda exercise=exercise, mistake=mistake: check(exercise.id, mistake.answer))
            for mistake in exercise.mistakes
        )
        rows.append((exercise.id, right, wrong))
    return rows


def import_extra_ms(module):
    """Extra milliseconds of `import module` over `import numpy`, in fresh interpreters, interleaved."""
    times = {"numpy": [], module: []}
    for _ in range(REPEATS):
        for name, seen in times.items():
            code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
            seen.append(
                1000 * float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
            )
    return statistics.median(times[module]) - statistics.median(times["numpy"])


def main():
    """Print the table."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["ATTN_HOME"] = home
        with contextlib.redirect_stdout(io.StringIO()):  # outside a notebook each check prints its card
            rows = check_times()
    for exercise_id, right, wrong in rows:
        print(f"{exercise_id:5s} right {right:6.1f} ms   wrong, diagnosed {wrong:6.1f} ms")
    print(f"median over {len(rows)} exercises: right {statistics.median(r for _, r, _ in rows):.1f} ms, ", end="")
    print(
        f"wrong {statistics.median(w for _, _, w in rows):.1f} ms; slowest {max(max(r, w) for _, r, w in rows):.1f} ms"
    )
    for module in ("attn_ref", "autograder"):
        print(f"import {module}: {import_extra_ms(module):.0f} ms more than import numpy")


if __name__ == "__main__":
    main()
