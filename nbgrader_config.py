"""The repository is an nbgrader course: every nbgrader command works here without flags."""

import contextlib
import os
import sys
from pathlib import Path

from nbgrader.converters import Autograde, GenerateAssignment
from nbgrader.preprocessors import Execute, IncludeHeaderFooter

from autograder.nbgrader_plugins import DropTeacherCells, Examine, Mend

ROOT = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()

# nbgrader starts `alembic` by name, which is found only where the environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

c = get_config()  # noqa: F821 (traitlets provides it)

c.CourseDirectory.root = str(ROOT)
c.CourseDirectory.course_id = "attention"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "course"
# A chapter's text (.py) holds the solutions, and a module beside a submission could stand in for a library.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.py", "*.pyc", "__pycache__", ".*", "backups"]

# `course/` is in the repository, so without this nbgrader would skip the step that fills the gradebook.
c.GenerateAssignment.force = True
own = [one for one in GenerateAssignment.preprocessors.default() if one is not IncludeHeaderFooter]
c.GenerateAssignment.preprocessors = [IncludeHeaderFooter, DropTeacherCells, *own]
c.ClearSolutions.code_stub = {"python": "# Your code here.\nraise NotImplementedError"}
c.ClearSolutions.text_stub = "*Your answer here.*"

# Submissions are mended, run in a sandbox, and judged outside it, in place of nbgrader's own execution. Where this
# machine offers no sandbox nothing is graded, unless c.Examine.unsandboxed = True says that every student is trusted.
c.Autograde.sanitize_preprocessors = [Mend, *Autograde.sanitize_preprocessors.default()]
steps = Autograde.autograde_preprocessors.default()
c.Autograde.autograde_preprocessors = [Examine if one is Execute else one for one in steps]

# For `nbgrader validate`, which runs a learner's own notebook: seconds a cell; a check has a shorter limit of its own.
c.ExecutePreprocessor.timeout = 120
# Encrypts what passes between grader and kernel; without it every kernel warns of eavesdropping on the terminal.
c.KernelManager.transport_encryption = "auto"

# Where classes hand work in and out. A shared machine names a folder that everyone may write to.
c.Exchange.root = os.environ.get("ATTN_EXCHANGE", str(ROOT / "exchange"))
if "ATTN_EXCHANGE" not in os.environ:
    with contextlib.suppress(OSError):  # a read-only checkout can still build, grade elsewhere and validate
        Path(c.Exchange.root).mkdir(exist_ok=True)
        Path(c.Exchange.root).chmod(0o777)
