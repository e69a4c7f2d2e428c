"""Running code that nobody vouches for: sandboxed kernels, forked from a process that has everything imported.

In reading order:

1. `levels`       which sandboxes there are, and which this machine offers
2. `view`         what of the machine a kernel may read
3. `namespaces`, `landlock`, `seccomp`, `limits`   the means; `linux` and `syscalls` are the calls they need
4. `confine`      how a process gives its rights up, step by step
5. `warm`         the prepared process, from the grader's side; `forkserver` is what runs in it
6. `keeper`       starts a kernel, watches it, ends all of it; `tree` measures
7. `kernel`       ipykernel inside
8. `provisioner`  all of this as Jupyter knows it; `working_copy` the files that a kernel finds
"""

from autograder.sandbox.levels import Refused, offered, strongest
from autograder.sandbox.limits import Limits
from autograder.sandbox.provisioner import kernel_manager
from autograder.sandbox.warm import WarmProcess

__all__ = ["Limits", "Refused", "WarmProcess", "kernel_manager", "offered", "strongest"]
