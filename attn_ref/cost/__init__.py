"""What attention costs, by formulas alone: nothing here starts a clock.

Derived in course/08_cost; read `flops`, `memory`, `traffic`, `roofline` in this order. A multiplication and the
addition after it are 2 FLOPs. Sizes are whole numbers, FLOPs and bytes exact, and every name says its unit.
"""

from attn_ref.cost.flops import (
    attention_flops,
    attention_parameters,
    crossover_length,
    feed_forward_flops,
    feed_forward_parameters,
    projection_flops,
    visible_pairs,
)
from attn_ref.cost.memory import (
    dtype_bytes,
    inference_bytes,
    kv_cache_bytes,
    longest_context,
    max_concurrent_requests,
    training_bytes,
)
from attn_ref.cost.roofline import arithmetic_intensity, attainable_flops_per_s, bound_by, roofline_time_s
from attn_ref.cost.traffic import attention_bytes, hbm_bytes, tile_map, tiles_visited

__all__ = [
    "arithmetic_intensity",
    "attainable_flops_per_s",
    "attention_bytes",
    "attention_flops",
    "attention_parameters",
    "bound_by",
    "crossover_length",
    "dtype_bytes",
    "feed_forward_flops",
    "feed_forward_parameters",
    "hbm_bytes",
    "inference_bytes",
    "kv_cache_bytes",
    "longest_context",
    "max_concurrent_requests",
    "projection_flops",
    "roofline_time_s",
    "tile_map",
    "tiles_visited",
    "training_bytes",
    "visible_pairs",
]
