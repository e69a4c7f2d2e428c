"""A line chart that grows while its cell runs, and is one figure when it ends."""

import sys

from attn_ref.plots.charts import lines


class Live:
    """Lines that grow: `chart = Live("Loss", "step", "nats")`, then `chart.add(step, loss=1.2)` again and again.

    In a notebook the first point shows the figure and each later one redraws it in place, so that a run may be watched
    and a saved notebook holds the last state. Elsewhere nothing is shown; `picture()` gives the figure.
    """

    def __init__(self, title="", xlabel="", ylabel="", logy=False):
        self.labels = {"title": title, "xlabel": xlabel, "ylabel": ylabel, "logy": logy}
        self.x, self.series, self.handle = [], {}, None

    def add(self, x, **values):
        """One more point on each line; every call names the same lines."""
        if self.x and set(values) != set(self.series):
            raise ValueError(f"each point needs {list(self.series)}, got {list(values)}")
        self.x.append(x)
        for name, value in values.items():
            self.series.setdefault(name, []).append(float(value))
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if hasattr(shell, "kernel"):
            from IPython.display import display

            if self.handle is None:
                self.handle = display(self.picture(), display_id=True)
            else:
                self.handle.update(self.picture())

    def picture(self):
        """The chart as it stands."""
        return lines(self.x, self.series, **self.labels)
