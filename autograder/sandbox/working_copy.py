"""The files that a kernel finds in its folder: {relative name: bytes}."""

import os
import stat
from pathlib import Path, PurePosixPath

from autograder.sandbox.levels import Refused


def check(files, most):
    """Raise Refused for a name that leads out of the folder, and for more than `most` bytes together."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise Refused(f"a working copy holds files below its own folder; {name!r} is not below it")
    total = sum(map(len, files.values()))
    if total > most:
        raise Refused(_too_large("the files beside the notebook", most))


def copy_in(folder, most):
    """The plain files in `folder` and below it; links, pipes and devices are passed over.

    Raises Refused where they are larger than `most` bytes together.
    """
    found, left = {}, most
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            content = _plain_content(path, left)
            if content is None:
                continue
            left -= len(content)
            if left < 0:
                raise Refused(_too_large(f"the files in {folder}", most))
            found[str(path.relative_to(folder))] = content
    return found


def _plain_content(path, most):
    """The first `most` + 1 bytes of a file; None for what is no plain file. Never waits, as for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(most + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _too_large(what, most):
    return f"{what} are larger than the {most / 2**20:g} MiB that a submission may have on its disk"
