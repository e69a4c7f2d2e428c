"""Grade the notebook of this repository and write `result.json`, the form that Classroom 50 reads.

Exit status 0 means that there is a result, be it a score of 0; any other, that the grader itself failed and nobody has
been graded. Where classroom, assignment and commit come from the environment, `attn grade-one` takes them from there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

CHAPTER = "CHAPTER_NUMBER"
ATTN = os.environ.get("ATTN_COMMAND", "attn")
SECONDS = int(os.environ.get("ATTN_SECONDS", "540"))


def notebook_of(course):
    """The chapter's notebook: under its own name, or else the one notebook that lies in its place."""
    folders = [path for path in sorted(course.glob(f"{CHAPTER}_*")) if path.is_dir()]
    if not folders:
        sys.exit(f"attn: there is no folder {course}/{CHAPTER}_...; the notebook belongs there")
    own = folders[0] / (f"{folders[0].name}.ipynb")
    others = sorted(folders[0].glob("*.ipynb"))
    return own if own.is_file() or len(others) != 1 else others[0]


def main():
    out = Path("result.json").resolve()
    if out.exists():
        out.unlink()  # a result that was handed in beside the notebook is no result
    notebook = notebook_of(Path("course"))
    command = [ATTN, "grade-one", str(notebook), "--chapter", CHAPTER, "--format", "classroom50", "--out", str(out)]
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=SECONDS).returncode
        result = json.loads(out.read_text(encoding="utf-8"))
        score, most = result["score"], result["max-score"]
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        sys.exit(f"attn: the grader failed, and this is no grade: {error}")
    if status:
        sys.exit(f"attn: the grader ended with status {status}, and this is no grade")
    print(f"{score} of {most} points")
    summarise(result, score, most)


def summarise(result, score, most):
    """A table for the page of the run, where GitHub offers one."""
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if page:
        lines = ["| exercise | points | of |", "|---|---|---|"]
        for test in result.get("tests", []):
            name = str(test["test-name"]).replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| {name} | {test['score']} | {test['max-score']} |")
        lines.append(f"| **together** | **{score}** | **{most}** |")
        with open(page, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
