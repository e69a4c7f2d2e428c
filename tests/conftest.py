"""What every test shares: the learner's record goes to a folder of the test's own."""

import pytest

from autograder.exercise import chapters, load_chapter

EXERCISES = [exercise for number in chapters() for exercise in load_chapter(number).exercises.values()]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_HOME", str(tmp_path / "attn-home"))
    monkeypatch.setattr("autograder.record._unsaved", [])
