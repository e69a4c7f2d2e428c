"""How much of the machine one submission may use: the kernel and everything it starts, taken together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Totals for a kernel's whole process tree, in bytes and counts."""

    memory: int = 2 * 2**30
    processes: int = 64  # and threads
    disk: int = 256 * 2**20
    descriptors: int = 512  # open files of each process

    @property
    def memory_of_one(self):
        """What one process may ask for. Less than the total, so that a large array is a MemoryError and not the end."""
        return self.memory * 3 // 4


def apply(limits, tasks_of_others):
    """Set the limits that the system itself keeps, for this process and its children.

    `tasks_of_others`: how many processes and threads count against this user already; None where that is unknown, so
    that only the watch over the tree counts them. The watch acts first: this one stops what is faster than the watch.
    """
    import resource  # not on Windows, where the rest of this file is still read

    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: limits.memory_of_one,
        resource.RLIMIT_FSIZE: limits.disk,
        resource.RLIMIT_NOFILE: limits.descriptors,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if tasks_of_others is not None:
        bounds[resource.RLIMIT_NPROC] = tasks_of_others + limits.processes + limits.processes // 2 + 8
    for kind, wanted in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bound, bound))
