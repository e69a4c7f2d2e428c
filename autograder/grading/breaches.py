"""What can go wrong with a submission, each with the sentence that its student reads. One place, for translation."""

from autograder.grading.results import Breach

SENTENCES = {
    # while a cell ran
    "too slow": "This cell was stopped after {seconds:g} seconds. Look for a loop whose condition never becomes false.",
    "submission too slow": "The whole notebook may take {seconds:g} seconds, which were spent before this cell ended.",
    "memory": "This cell asked for more memory than the {mib:g} MiB it may use. Look for an array that is too large.",
    "processes": "This cell started more than the {count} processes or threads it may use.",
    "disk": "This cell wrote more than the {mib:g} MiB of files it may write.",
    "output": "This cell printed more than {mib:g} MiB and was stopped. Print shapes or a few entries, not all of it.",
    "died": "Python itself ended while this cell ran ({how}). A call of `exit` or `os._exit`, or code that writes "
    "outside its memory, does that.",
    "asked for input": "This cell calls `input()`, and nobody is there to answer when a notebook is graded.",
    "no evidence": "The check of this exercise brought back nothing that can be judged ({how}). Leave `check`, IPython "
    "and the check cell as they are.",
    # in the notebook itself
    "not a notebook": "The file is not a Jupyter notebook that can be read ({how}). Open it in JupyterLab; if that "
    "works, save it there and hand it in again.",
    "empty file": "The file is empty. Save the notebook in JupyterLab and hand it in again.",
    "too large": "The file has {mib:.0f} MiB and may have {limit:g}. Clear its outputs (Kernel, Restart and Clear "
    "Outputs), save, and hand it in again.",
    "cell too large": "The answer to {id} has {mib:.1f} MiB of text and may have {limit:g}. Read large data from a "
    "file.",
    "wrong chapter": "This is the notebook of {found}, and {wanted} was asked for.",
    "no answers": "None of the chapter's answer cells is in this notebook. Start from the notebook that was given out.",
}


def breach(kind, exercise=None, cell=None, **facts):
    """The Breach of this kind, its sentence filled in."""
    return Breach(kind, SENTENCES[kind].format(**facts), exercise, cell)
