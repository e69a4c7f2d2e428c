"""What we add to nbgrader's own steps, named in `nbgrader_config.py`.

With these, every nbgrader command that grades (`nbgrader autograde`, formgrader's button) mends what was handed in,
runs it in the sandbox, and judges outside it as `attn grade` does.
"""

from functools import cache
from pathlib import Path

import nbformat
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool, Enum, Float

TRUSTED = "For nbgrader that is c.Examine.unsandboxed = True in nbgrader_config.py."


class DropTeacherCells(NbGraderPreprocessor):
    """Leave out of a release the cells that speak to the teacher (tagged `teacher`)."""

    def preprocess(self, nb, resources):
        nb.cells = [cell for cell in nb.cells if "teacher" not in cell.metadata.get("tags", [])]
        return nb, resources


class Mend(NbGraderPreprocessor):
    """Put a submission in the frame of the released notebook, before nbgrader looks for its cells."""

    def preprocess(self, nb, resources):
        from autograder.grading.mend import mend
        from autograder.grading.work import chapter_of

        chapter = chapter_of(resources["nbgrader"]["assignment"])
        release = nbformat.reads(_release(chapter.folder, self.config.CourseDirectory.get("root", ".")), as_version=4)
        mended = mend(nbformat.writes(nb, version=4).encode(), release, chapter)
        if mended.notebook is None:
            raise ValueError(" ".join(one.message for one in mended.breaches))
        for note in mended.notes:
            self.log.warning("%s: %s", resources["nbgrader"]["student"], note)
        return mended.notebook, resources


class Examine(NbGraderPreprocessor):
    """Run a submission in the sandbox and judge its evidence outside, in place of nbgrader's Execute."""

    unsandboxed = Bool(False, help="Run submissions where this machine offers no sandbox.").tag(config=True)
    policy = Enum(("zero", "warn"), "zero", help="A forbidden call takes the points, or only warns.").tag(config=True)
    cell_seconds = Float(60.0, help="The longest that one cell may run.").tag(config=True)
    notebook_seconds = Float(300.0, help="The longest that one submission may run.").tag(config=True)

    def preprocess(self, nb, resources):
        from autograder.grading.client import Budget
        from autograder.grading.results import Graded
        from autograder.grading.work import Plan, chapter_of, experiments, forbidden, run_and_judge
        from autograder.grading.workers import warm_process
        from autograder.reports.clean import clean_notebook
        from autograder.sandbox import Limits, Refused, kernel_manager, strongest

        facts = resources["nbgrader"]
        chapter = chapter_of(facts["assignment"])
        try:
            level = strongest(allow_none=self.unsandboxed)
        except Refused as error:
            raise Refused(f"{error} {TRUSTED}") from None
        self.log.info("sandbox: %s", level)
        files = _files(resources["metadata"]["path"])
        budget = Budget(self.cell_seconds, self.notebook_seconds)
        plan = Plan(_seed(facts["db_url"]), {}, self.unsandboxed, budget, self.policy)
        graded = Graded(facts["student"], facts["assignment"])
        graded.flags = forbidden(nb, chapter)
        release = nbformat.reads(_release(chapter.folder, self.config.CourseDirectory.get("root", ".")), as_version=4)

        def kernel():
            return kernel_manager(warm_process(), level, Limits(), files)

        run_and_judge(graded, nb, chapter, plan, kernel, experiments(release))
        for one in (*graded.breaches, *graded.flags):
            self.log.warning("%s: %s: %s", facts["student"], one.exercise or "notebook", one.message)
        return clean_notebook(nb), resources


@cache
def _release(folder, root):
    from autograder.build import release_bytes

    return release_bytes(folder, Path(root)).decode()


@cache
def _seed(db_url):
    from autograder.grading.gradebook import Keeper

    with Keeper(db_url) as keeper:
        return keeper.seed()


def _files(folder):
    """{relative name: bytes} of what was handed in beside the notebook, but for what Python could import."""
    from autograder.grading.intake import MODULES
    from autograder.sandbox import Limits
    from autograder.sandbox.provisioner import copy_in

    found = copy_in(folder, Limits().disk)
    return {name: content for name, content in found.items() if not name.lower().endswith((".ipynb", *MODULES))}
