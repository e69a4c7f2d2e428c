"""The clock and the scales: what `cost` predicts, measured on this machine. Formulas are there, measurements here.

`clock` times functions side by side, `memory` weighs a call, `limit` lets one run out of memory without harm, and
`machine` says what all this ran on.
"""

from attn_ref.bench.clock import Comparison, Timing, measure
from attn_ref.bench.limit import run_limited
from attn_ref.bench.machine import machine
from attn_ref.bench.memory import peak_memory

__all__ = ["Comparison", "Timing", "machine", "measure", "peak_memory", "run_limited"]
