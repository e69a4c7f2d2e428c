"""What we add to nbgrader's own steps, named in `nbgrader_config.py`."""

from nbgrader.preprocessors import NbGraderPreprocessor


class DropTeacherCells(NbGraderPreprocessor):
    """Leave out of a release the cells that speak to the teacher (tagged `teacher`)."""

    def preprocess(self, nb, resources):
        nb.cells = [cell for cell in nb.cells if "teacher" not in cell.metadata.get("tags", [])]
        return nb, resources
