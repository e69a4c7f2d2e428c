"""Whether memory or arithmetic sets the pace: attainable FLOP/s = min(peak, intensity · bandwidth).

Derived in course/08_cost. Intensity is FLOPs per byte moved; the ridge, peak / bandwidth, is where the two limits
meet. Decoding does about one FLOP for each byte of cache and sits far to its left, a long prompt to its right.
"""

from attn_ref.shapes import real_number


def arithmetic_intensity(flops, moved_bytes):
    """FLOPs for each byte that crosses between memory and the chip.  -> float, FLOP/byte

    Source: Williams et al. (2009); chapter 08.

    >>> arithmetic_intensity(flops=4 * 1000 * 128, moved_bytes=2 * 1000 * 128 * 2)  # one query, 1000 keys, float16
    1.0
    """
    return real_number(flops, "flops", least=0) / real_number(moved_bytes, "moved_bytes", above=0)


def attainable_flops_per_s(intensity, peak_flops_per_s, bytes_per_s):
    """The roofline: the slope of the memory up to the ridge, the flat peak of the arithmetic beyond.  -> float

    Source: Williams et al. (2009); chapter 08.

    >>> attainable_flops_per_s(1, 989e12, 3.35e12) / 989e12 < 0.004  # an H100 that decodes with one query to a KV head
    True
    """
    intensity = real_number(intensity, "intensity", least=0)
    return min(_peak(peak_flops_per_s), intensity * _bandwidth(bytes_per_s))


def bound_by(intensity, peak_flops_per_s, bytes_per_s):
    """What sets the pace at this intensity: "memory" left of the ridge, "compute" from the ridge on.

    Source: Williams et al. (2009); chapter 08.

    >>> bound_by(1, 989e12, 3.35e12), bound_by(1000, 989e12, 3.35e12)  # the ridge lies at 295 FLOP/byte
    ('memory', 'compute')
    """
    intensity = real_number(intensity, "intensity", least=0)
    return "memory" if intensity < _peak(peak_flops_per_s) / _bandwidth(bytes_per_s) else "compute"


def roofline_time_s(flops, moved_bytes, peak_flops_per_s, bytes_per_s):
    """The least time, when moving and computing overlap perfectly: the longer of the two.  -> float, seconds

    Source: Williams et al. (2009); Pope et al. (2022); chapter 08.

    >>> roofline_time_s(flops=1e9, moved_bytes=4e9, peak_flops_per_s=100e9, bytes_per_s=20e9)
    0.2
    """
    flops, moved_bytes = real_number(flops, "flops", least=0), real_number(moved_bytes, "moved_bytes", least=0)
    return max(flops / _peak(peak_flops_per_s), moved_bytes / _bandwidth(bytes_per_s))


def _peak(x):
    return real_number(x, "peak_flops_per_s", above=0)


def _bandwidth(x):
    return real_number(x, "bytes_per_s", above=0)
