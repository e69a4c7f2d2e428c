"""Chapter 08, what attention costs: FLOPs, bytes, the roofline, and the longest text that fits."""

import numpy as np
import torch

import attn_ref
from autograder.exercise import Exercise, Quiz, Written


def as_int(number):
    """A whole float as an int, so that a known mistake is recognised in answers of either kind."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


# --- 8.1 -------------------------------------------------------------------------------------------------------------


def attention_flops(batch, n_heads, n_q, n_k, d_head, causal=False):
    """FLOPs of q kᵀ and of weights @ v, for the pairs that may attend.  -> int"""
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


pairs_cost = Exercise(
    "8.1",
    "What the pairs cost",
    reference=attention_flops,
    minutes=10,
    forbids=("attn_ref.cost.attention_flops", "attn_ref.cost.visible_pairs"),
)


@pairs_cost.criterion("both products are counted, with 2 FLOPs for each multiplication and its addition", points=2)
def one_head(rng):
    yield dict(batch=1, n_heads=1, n_q=2, n_k=3, d_head=4)
    yield dict(batch=1, n_heads=1, n_q=6, n_k=6, d_head=5)
    yield dict(batch=1, n_heads=1, n_q=1, n_k=9, d_head=1)


@pairs_cost.criterion("every sequence of the batch and every head has its own pairs", points=1)
def many_heads(rng):
    yield dict(batch=2, n_heads=3, n_q=5, n_k=7, d_head=11)
    yield dict(batch=4, n_heads=1, n_q=3, n_k=3, d_head=2)
    yield dict(batch=1, n_heads=12, n_q=20, n_k=30, d_head=16)


@pairs_cost.criterion("causal: only the pairs that may attend, the diagonal among them", points=2)
def only_the_past(rng):
    yield dict(batch=1, n_heads=1, n_q=3, n_k=3, d_head=1, causal=True)
    yield dict(batch=1, n_heads=1, n_q=2, n_k=5, d_head=3, causal=True)
    yield dict(batch=1, n_heads=1, n_q=1, n_k=8, d_head=2, causal=True)
    yield dict(batch=2, n_heads=3, n_q=5, n_k=7, d_head=11, causal=True)
    yield dict(batch=1, n_heads=1, n_q=4, n_k=4, d_head=7, causal=False)
    n = int(rng.integers(50, 90))
    yield dict(batch=1, n_heads=12, n_q=n, n_k=n, d_head=8, causal=True)


@pairs_cost.criterion("the count is an int, exact for a large model too", points=1, same_dtype=True)
def whole(rng):
    yield dict(batch=1, n_heads=2, n_q=3, n_k=5, d_head=3)
    yield dict(batch=1, n_heads=2, n_q=6, n_k=6, d_head=4, causal=True)
    yield dict(batch=1, n_heads=2, n_q=4, n_k=7, d_head=4, causal=True)
    yield dict(batch=1, n_heads=56, n_q=257, n_k=2049, d_head=80, causal=True)  # more than 2**32, and 2**24 odd


@pairs_cost.mistake(
    "Your count is half of what it should be. Either one of the two products is missing, or a multiplication with its addition counts as 1: which is it?"
)
def half_of_it(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 2 * batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "Your count is a quarter of what it should be: there are two products, and each multiplication is followed by an addition. How many FLOPs does one pair cost when d_head is 1?"
)
def quarter_of_it(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "You count the additions to the last: a sum of d terms needs d - 1. That is careful, and not the convention, by which a multiplication always brings an addition. What does a product of (a, c) and (c, b) cost in the text?"
)
def one_addition_less(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return batch * n_heads * pairs * (4 * d_head - 1)


@pairs_cost.mistake(
    "Causal attention is not half of all pairs: of 6 · 6 pairs 21 may attend, not 18. Which pairs does halving cut in two?"
)
def half_of_the_square(batch, n_heads, n_q, n_k, d_head, causal=False):
    flops = 4 * batch * n_heads * n_q * n_k * d_head
    return flops // 2 if causal else flops


@pairs_cost.mistake(
    "Your count leaves the diagonal out. May a token attend to itself? Count the pairs of the first of 6 tokens."
)
def without_the_diagonal(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q - 1) // 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "The argument `causal` changes nothing in your answer. A pair that the mask forbids needs no score: how many of 3 · 3 are left?"
)
def causal_ignored(batch, n_heads, n_q, n_k, d_head, causal=False):
    return 4 * batch * n_heads * n_q * n_k * d_head


@pairs_cost.mistake(
    "Right where n_q equals n_k. With 2 queries and 5 keys you count 3 pairs, as if the queries were the first tokens of the text. They are the last ones: how many keys does each of them see?"
)
def aligned_at_the_top(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "Right where n_q equals n_k. You take (n_k + 1)/2 keys for every query; that is the average over a whole text. The last 2 of 5 tokens see 4 and 5 keys: what is the average then?"
)
def average_of_a_whole_text(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k + 1) // 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "You take n_k keys for every query, counted as a triangle of n_k: with 2 queries and 5 keys that is 15 pairs, more than the 10 that exist. How many rows has the mask?"
)
def triangle_of_the_keys(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_k * (n_k + 1) // 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "Your causal count is right where n_q equals n_k. With 2 queries and 5 keys you count all 10 pairs: the last token sees 5 keys, and the one before it?"
)
def causal_in_a_square_alone(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_q + 1) // 2 if causal and n_q == n_k else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


@pairs_cost.mistake(
    "The mask spares one of your two products only. A forbidden pair needs no score, and no share of a value either: in how many products does it drop out?"
)
def one_product_spared(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 2 * batch * n_heads * (n_q * n_k + pairs) * d_head


@pairs_cost.mistake(
    "You round the average number of keys before you multiply: two queries that see 4 and 5 keys see 9, not 8. Where in the line does `//` lose nothing?"
)
def average_rounded_down(batch, n_heads, n_q, n_k, d_head, causal=False):
    keys = (n_k + n_k - n_q + 1) // 2 if causal else n_k
    return 4 * batch * n_heads * n_q * keys * d_head


@pairs_cost.mistake("The batch is missing: does a second sequence cost nothing?")
def batch_not_counted(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 4 * n_heads * pairs * d_head


@pairs_cost.mistake("The heads are missing: each of them has scores of its own. How many tables of scores are there?")
def heads_not_counted(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 4 * batch * pairs * d_head


@pairs_cost.mistake(
    "You divide d_head by the number of heads. It is the length of one head's vectors already; which letter would be the length of all of them together?"
)
def divided_among_the_heads(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) // 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * (d_head // n_heads)


@pairs_cost.mistake(
    "You count n_q · n_q pairs, and the keys are not asked how many they are. What are the two sides of a table of scores?"
)
def queries_squared(batch, n_heads, n_q, n_k, d_head, causal=False):
    return 4 * batch * n_heads * (n_q * (n_q + 1) // 2 if causal else n_q * n_q) * d_head


@pairs_cost.mistake(
    "The values are right, as a float: `/` gives one even where nothing is left over, and beyond 2**53 a float skips whole numbers. Which division stays among the whole numbers?"
)
def float_by_division(batch, n_heads, n_q, n_k, d_head, causal=False):
    pairs = n_q * (n_k - n_q) + n_q * (n_q + 1) / 2 if causal else n_q * n_k
    return 4 * batch * n_heads * pairs * d_head


@pairs_cost.also_right
def row_by_row_of_the_mask(batch, n_heads, n_q, n_k, d_head, causal=False):
    flops = 0
    for i in range(n_q):
        keys = i + n_k - n_q + 1 if causal else n_k
        flops += keys * d_head * 2  # the scores of one row
        flops += keys * d_head * 2  # reading the values
    return batch * n_heads * flops


@pairs_cost.also_right
def allowed_pairs_summed(batch, n_heads, n_q, n_k, d_head, causal=False):
    allowed = attn_ref.causal_mask(n_q, n_k) if causal else np.ones((n_q, n_k), dtype=bool)
    return int(np.broadcast_to(allowed, (batch, n_heads, n_q, n_k)).sum()) * (d_head + d_head) * 2


@pairs_cost.also_right
def square_without_a_corner(batch, n_heads, n_q, n_k, d_head, causal=False):
    forbidden = sum(range(n_q)) if causal else 0
    return np.int64(2 * 2 * d_head * (n_q * n_k - forbidden)) * batch * n_heads


pairs_cost.hints(
    "Count pairs first, FLOPs later. How many pairs may attend, and what does one pair cost in each of the two products?",
    "Causal, the last query sees all n_k keys and each one above it one less: a rectangle of n_k - n_q columns, and a triangle that includes its diagonal.",
    "A pair costs 2 · d_head in each product. Multiply by pairs, heads and sequences, and take `//` or a sum for the triangle 1 + 2 + … + n_q.",
)
pairs_cost.errors(
    (
        "TypeError: attention_flops() missing 1 required positional argument",
        "All sizes are passed in the order of the heading, and <code>causal</code> comes last, with a default.",
    ),
)

# --- 8.2 -------------------------------------------------------------------------------------------------------------


def projection_flops(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    """FLOPs of x W_q, x W_k, x W_v and out W_o.  -> int"""
    return 2 * batch * seq_len * 2 * d_model * d_head * (n_heads + n_kv_heads)


four_matrices = Exercise(
    "8.2",
    "Four matrices for every token",
    reference=projection_flops,
    minutes=7,
    forbids=("attn_ref.cost.projection_flops", "attn_ref.cost.attention_parameters"),
)


@four_matrices.probe
def count_for_all(answer, **sizes):
    """In the order of the statement."""
    order = ("batch", "seq_len", "d_model", "n_heads", "n_kv_heads", "d_head")
    return as_int(answer(*(sizes[name] for name in order)))


@four_matrices.criterion("each token passes through all four matrices, at 2 FLOPs a weight", points=2)
def one_token(rng):
    yield dict(batch=1, seq_len=1, d_model=4, n_heads=2, n_kv_heads=2, d_head=2)
    yield dict(batch=1, seq_len=5, d_model=6, n_heads=3, n_kv_heads=3, d_head=2)
    yield dict(batch=3, seq_len=7, d_model=512, n_heads=8, n_kv_heads=8, d_head=64)


@four_matrices.criterion("with fewer KV heads, W_k and W_v are narrower, and only they", points=2)
def shared_kv(rng):
    yield dict(batch=1, seq_len=1, d_model=4, n_heads=2, n_kv_heads=1, d_head=2)
    yield dict(batch=2, seq_len=5, d_model=24, n_heads=6, n_kv_heads=2, d_head=4)
    yield dict(batch=1, seq_len=100, d_model=4096, n_heads=32, n_kv_heads=8, d_head=128)


@four_matrices.criterion("the heads together may be wider or narrower than d_model", points=1)
def free_width(rng):
    yield dict(batch=1, seq_len=3, d_model=10, n_heads=2, n_kv_heads=2, d_head=3)
    yield dict(batch=2, seq_len=3, d_model=7, n_heads=4, n_kv_heads=1, d_head=5)
    yield dict(batch=1, seq_len=9, d_model=3, n_heads=6, n_kv_heads=3, d_head=1)


@four_matrices.mistake(
    "One matrix is missing: you count W_q, W_k and W_v. Which matrix turns the heads' outputs into a vector of d_model numbers again?"
)
def without_w_o(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * d_model * d_head * (n_heads + 2 * n_kv_heads)


@four_matrices.mistake(
    "Your count is half of what it should be. What besides the multiplication happens for each weight?"
)
def multiplications_alone(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return batch * seq_len * 2 * d_model * d_head * (n_heads + n_kv_heads)


@four_matrices.mistake(
    "You count one matrix for the keys and values together. They are two, W_k and W_v, of the same size."
)
def keys_and_values_as_one(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * d_model * d_head * (2 * n_heads + n_kv_heads)


@four_matrices.mistake(
    "All four matrices are as wide as n_heads heads in your count. How wide is W_k where several query heads share one KV head?"
)
def kv_heads_ignored(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * 4 * d_model * d_head * n_heads


@four_matrices.mistake(
    "W_o has n_kv_heads heads in your count. It reads the outputs of the heads, and every query head has an output: how many are these?"
)
def w_o_of_the_kv_heads(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * d_model * d_head * (n_heads + 3 * n_kv_heads)


@four_matrices.mistake(
    "You take W_q and W_o for squares of d_model by d_model. That holds where n_heads · d_head is d_model, which nobody promised; which two lengths does W_q connect?"
)
def taken_for_squares(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * (2 * d_model * d_model + 2 * d_model * n_kv_heads * d_head)


@four_matrices.mistake(
    "One matrix, W_q or W_o, is a square of d_model by d_model in your count. W_q makes the queries of all heads side by side and W_o reads their outputs: how many numbers are these?"
)
def w_o_for_a_square(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * d_model * ((n_heads + 2 * n_kv_heads) * d_head + d_model)


@four_matrices.mistake(
    "You work d_head out of d_model and n_heads. It is given, and n_heads · d_head need not be d_model: where does your count read the argument?"
)
def d_head_worked_out(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * 2 * d_model * (d_model // n_heads) * (n_heads + n_kv_heads)


@four_matrices.mistake("All sequences of the batch pass through the matrices. Where does `batch` enter?")
def one_sequence_alone(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * seq_len * 2 * d_model * d_head * (n_heads + n_kv_heads)


@four_matrices.mistake(
    "This is the count for one token, or twice the number of weights. How many tokens pass through them?"
)
def weights_counted(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * 2 * d_model * d_head * (n_heads + n_kv_heads)


@four_matrices.mistake(
    "You let the length enter squared. Does a token meet the other tokens in x W_q, or a matrix alone?"
)
def length_squared(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * seq_len * 2 * d_model * d_head * (n_heads + n_kv_heads)


@four_matrices.mistake(
    "Your matrices are one head wide. d_head is the width of a single head: how many of them does W_q make?"
)
def one_head_wide(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    return 2 * batch * seq_len * 4 * d_model * d_head


@four_matrices.mistake(
    "You add the biases. They cost one addition for each output, about a d_model-th of the rest, and the ledger leaves them out, as the statement says."
)
def biases_added(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    biases = (n_heads + 2 * n_kv_heads) * d_head + d_model
    return batch * seq_len * (4 * d_model * d_head * (n_heads + n_kv_heads) + biases)


@four_matrices.also_right
def matrix_by_matrix(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    total = 0
    for rows, columns in (
        (d_model, n_heads * d_head),
        (d_model, n_kv_heads * d_head),
        (d_model, n_kv_heads * d_head),
        (n_heads * d_head, d_model),
    ):
        total += 2 * (batch * seq_len) * rows * columns
    return total


@four_matrices.also_right
def sizes_of_empty_layers(batch, seq_len, d_model, n_heads, n_kv_heads, d_head):
    q_side, kv_side = np.empty((d_model, n_heads, d_head)), np.empty((d_model, n_kv_heads, d_head))
    weights = 2 * q_side.size + 2 * kv_side.size
    return float(2 * weights) * batch * seq_len


four_matrices.hints(
    "Write the shape of each matrix first. W_q leads from d_model numbers to those of all query heads; and W_o?",
    "W_q and W_o belong to n_heads heads, W_k and W_v to n_kv_heads heads. Each token costs 2 FLOPs for each weight that it passes.",
)
four_matrices.errors(
    (
        "NameError: name 'd_k' is not defined",
        "Sizes have one name each in the course: the length of a head's vectors is <code>d_head</code>.",
    ),
)

# --- 8.3 -------------------------------------------------------------------------------------------------------------


def crossover_length(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    """The length at which attention costs as many FLOPs as the weights of its layer.  -> tokens"""
    keys = d_model + n_kv_heads * (d_model // n_heads) + d_ff  # that a query must see on average
    return 2 * keys - 1 if causal else keys


crossover = Exercise(
    "8.3",
    "Where the two lines cross",
    reference=crossover_length,
    minutes=15,
    forbids=("attn_ref.cost.crossover_length",),
)


@crossover.probe
def crossing(answer, **sizes):
    """In the order of the statement, and `causal` by its name."""
    order = [name for name in ("d_model", "n_heads", "n_kv_heads", "d_ff") if name in sizes]
    options = {"causal": sizes["causal"]} if "causal" in sizes else {}
    return as_int(answer(*(sizes[name] for name in order), **options))


@crossover.criterion("at this length attention costs as much as the four projections", points=2)
def four_projections(rng):
    yield dict(d_model=8, n_heads=2, n_kv_heads=2)
    yield dict(d_model=5, n_heads=1, n_kv_heads=1)
    yield dict(d_model=96, n_heads=12, n_kv_heads=12)


@crossover.criterion("with fewer KV heads the projections cost less, and attention as much as before", points=1)
def fewer_kv_heads(rng):
    yield dict(d_model=8, n_heads=2, n_kv_heads=1)
    yield dict(d_model=60, n_heads=6, n_kv_heads=2)
    yield dict(d_model=512, n_heads=8, n_kv_heads=1)


@crossover.criterion("the two matrices of the feed-forward layer count where d_ff is given", points=1)
def with_feed_forward(rng):
    yield dict(d_model=8, n_heads=2, n_kv_heads=2, d_ff=32)
    yield dict(d_model=12, n_heads=3, n_kv_heads=1, d_ff=7)
    yield dict(d_model=4096, n_heads=32, n_kv_heads=8, d_ff=14336)


@crossover.criterion("causal: to the token, not roughly twice as far", points=1)
def causal_crossing(rng):
    yield dict(d_model=8, n_heads=2, n_kv_heads=2, causal=True)
    yield dict(d_model=8, n_heads=2, n_kv_heads=2, d_ff=32, causal=True)
    yield dict(d_model=60, n_heads=6, n_kv_heads=2, d_ff=50, causal=True)
    yield dict(d_model=512, n_heads=8, n_kv_heads=2, d_ff=2048, causal=True)


@crossover.mistake(
    "Your projections lack one matrix: for d_model = 8 and 2 of 2 KV heads there are 4 · 64 weights. Which of them is missing, W_o?"
)
def crossing_without_w_o(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    kv = n_kv_heads * (d_model // n_heads)
    keys = (d_model + 2 * kv + 2 * d_ff) / 2
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "Your length is twice too long, or nearly so: one of attention's two products is missing on the other side. A query and a key cost d_head multiplications in q kᵀ; what do the same two cost in weights @ v?"
)
def crossing_of_the_scores_alone(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = 2 * (d_model + n_kv_heads * (d_model // n_heads) + d_ff)
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "Your length is half of what it should be, or nearly so. Did one side count FLOPs and the other only multiplications?"
)
def one_side_in_multiplications(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = (d_model + n_kv_heads * (d_model // n_heads) + d_ff) / 2
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "n_kv_heads changes nothing in your answer. Where several query heads share a KV head, W_k and W_v are narrower, and the projections are overtaken sooner."
)
def crossing_without_sharing(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = 2 * d_model + d_ff
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "You let attention shrink with the KV heads too. Sharing keys saves bytes, not FLOPs: how many query heads still meet every key?"
)
def sharing_makes_attention_cheaper(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = (d_model + n_kv_heads * (d_model // n_heads) + d_ff) * n_heads / n_kv_heads
    return 2 * keys - 1 if causal else keys


@crossover.mistake("d_ff changes nothing in your answer. Which two matrices does the feed-forward layer have?")
def feed_forward_ignored(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads)
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "You count one matrix of the feed-forward layer. It leads up to d_ff numbers; how does it get back to d_model?"
)
def only_up(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads) + d_ff / 2
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "You count three matrices in the feed-forward layer, as Llama has them. The statement names two: which are they?"
)
def three_matrices(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads) + 3 * d_ff / 2
    return 2 * keys - 1 if causal else keys


@crossover.mistake(
    "Your causal length is exactly twice the other. That would be so if a query saw n/2 keys on average; of 6 tokens, how many does a query see on average?"
)
def exactly_twice_as_far(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads) + d_ff
    return 2 * keys if causal else keys


@crossover.mistake(
    "You went one step the wrong way: with causal attention a query sees (n + 1)/2 keys on average. Solve (n + 1)/2 = keys for n, and try it with 16."
)
def one_too_far(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads) + d_ff
    return 2 * keys + 1 if causal else keys


@crossover.mistake(
    "`causal` changes nothing in your answer. A causal query sees about half of the keys: is attention overtaking sooner or later then?"
)
def crossing_never_causal(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    return d_model + n_kv_heads * (d_model // n_heads) + d_ff


@crossover.mistake(
    "Your causal crossing comes sooner than the other one. Causal attention does less work at the same length: does it then need a shorter text to catch up, or a longer one?"
)
def sooner_when_causal(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads) + d_ff
    return (keys + 1) / 2 if causal else keys


@crossover.mistake(
    "One token too far: your search stops at the first length at which attention costs more. At which length are the two equal?"
)
def first_length_beyond(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    keys = d_model + n_kv_heads * (d_model // n_heads) + d_ff
    return (2 * keys - 1 if causal else keys) + 1


@crossover.also_right
def walk_until_they_meet(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    d_head = d_model // n_heads
    n = 1
    while True:
        pairs = n * (n + 1) // 2 if causal else n * n
        weights = 2 * d_model * d_head * (n_heads + n_kv_heads) + 2 * d_model * d_ff
        if 4 * n_heads * pairs * d_head >= 2 * n * weights:
            return n
        n += 1


@crossover.also_right
def solved_with_fractions(d_model, n_heads, n_kv_heads, d_ff=0, causal=False):
    weights = 2 * d_model**2 * (1 + n_kv_heads / n_heads) + 2 * d_model * d_ff
    n = weights / (2 * d_model)
    if causal:
        n = 2 * n - 1
    return float(n)


crossover.hints(
    "Write both sides for n tokens and divide by n. What is left of n on each side?",
    "Per token, attention costs 4 · d_model for each key that a query sees, over all heads. The weights cost 2 each. So how many keys must a query see?",
    "Causal queries see 1, 2, …, n keys. What is their average, and which n makes it the number of keys you found?",
)
crossover.errors(
    (
        "TypeError: crossover_length() got an unexpected keyword argument",
        "<code>causal</code> is passed by its name, here and in the check; keep the names of the <code>def</code> line.",
    ),
)

# --- 8.4 -------------------------------------------------------------------------------------------------------------


def activation_bytes(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    """What attention holds at once while it runs, and what it keeps for the backward pass.  -> (int, int)"""
    rows = batch * n_heads * seq_len
    ends = 4 * rows * d_head * dtype.itemsize  # q, k, v, out
    matrix = rows * seq_len * dtype.itemsize  # one number for each pair
    if tiled:
        return ends, n_layers * (ends + 4 * rows)
    return ends + 2 * matrix, n_layers * (ends + matrix)


held_and_kept = Exercise(
    "8.4",
    "What is held, and what is kept",
    reference=activation_bytes,
    minutes=14,
    forbids=("attn_ref.cost.inference_bytes", "attn_ref.cost.training_bytes"),
)


@held_and_kept.probe
def one_part(answer, *, part, dtype, **sizes):
    """One of the two numbers, so that each is judged by itself; the dtype goes by its name to be readable."""
    order = ("batch", "seq_len", "n_layers", "n_heads", "d_head")
    options = {"tiled": True} if sizes.get("tiled") else {}
    inference, training = answer(*(sizes[name] for name in order), getattr(torch, dtype), **options)
    return as_int({"inference": inference, "training": training}[part])


@held_and_kept.criterion("inference: q, k, v, out, scores and weights of one layer, however many there are", points=2)
def held(rng):
    yield dict(part="inference", batch=1, seq_len=3, n_layers=2, n_heads=1, d_head=4, dtype="float16")
    yield dict(part="inference", batch=1, seq_len=5, n_layers=1, n_heads=3, d_head=2, dtype="float16")
    yield dict(part="inference", batch=2, seq_len=7, n_layers=3, n_heads=5, d_head=4, dtype="float16")
    yield dict(part="inference", batch=1, seq_len=1, n_layers=6, n_heads=1, d_head=1, dtype="float16")
    yield dict(part="inference", batch=3, seq_len=4099, n_layers=7, n_heads=40, d_head=80, dtype="float16")  # GiB


@held_and_kept.criterion("training: q, k, v, out and the weights, in every layer", points=2)
def kept(rng):
    yield dict(part="training", batch=1, seq_len=3, n_layers=2, n_heads=1, d_head=4, dtype="float16")
    yield dict(part="training", batch=1, seq_len=5, n_layers=1, n_heads=3, d_head=2, dtype="float16")
    yield dict(part="training", batch=2, seq_len=7, n_layers=3, n_heads=5, d_head=4, dtype="float16")
    yield dict(part="training", batch=1, seq_len=1, n_layers=6, n_heads=1, d_head=1, dtype="float16")
    yield dict(part="training", batch=3, seq_len=4099, n_layers=7, n_heads=40, d_head=80, dtype="float16")  # GiB


@held_and_kept.criterion("the bytes of a number are those of its dtype", points=1)
def sizes_of_numbers(rng):
    for dtype in ("float32", "float64", "bfloat16"):
        for part in ("inference", "training"):
            yield dict(part=part, batch=2, seq_len=6, n_layers=3, n_heads=2, d_head=5, dtype=dtype)


@held_and_kept.criterion("tiled: no matrix of n · n, and in training one float32 for each query and head", points=1)
def in_tiles(rng):
    for sizes in ((1, 3, 2, 1, 4, "float16"), (2, 7, 3, 5, 6, "float16"), (1, 9, 4, 2, 8, "float64")):
        names = ("batch", "seq_len", "n_layers", "n_heads", "d_head", "dtype")
        for part in ("inference", "training"):
            yield dict(part=part, **dict(zip(names, sizes, strict=True)), tiled=True)


@held_and_kept.mistake(
    "Your inference grows with the layers. When the second layer starts, who still needs the scores of the first?"
)
def layers_held_at_once(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    if tiled:
        return n_layers * ends, n_layers * (ends + 4 * rows)
    return n_layers * (ends + 2 * matrix), n_layers * (ends + matrix)


@held_and_kept.mistake(
    "Your training keeps one layer only. The backward pass begins at the last layer and ends at the first: what must still be there for the first?"
)
def one_layer_kept(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, ends + 4 * rows) if tiled else (ends + 2 * matrix, ends + matrix)


@held_and_kept.mistake(
    "Your training keeps scores and weights. Look at softmax's backward pass of chapter 03: which of the two does it read?"
)
def scores_kept_too(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + 2 * matrix))


@held_and_kept.mistake(
    "Your training keeps no matrix of n · n. The gradient of v is weightsᵀ @ grad_out, so what must be kept?"
)
def weights_not_kept(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * ends)


@held_and_kept.mistake(
    "Your inference holds one matrix of n · n. While softmax writes the weights, it still reads something of the same size: what?"
)
def one_matrix_held(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + matrix, n_layers * (ends + matrix))


@held_and_kept.mistake("The output is missing: q, k and v are three arrays of the same size, and `out` is the fourth.")
def output_not_counted(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 3 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "You count one n · n matrix where every head has its own. How many tables of weights does a layer with 3 heads compute?"
)
def one_matrix_for_all_heads(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, batch * seq_len * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "q, k, v and out are there for every sequence in your count, and the tables of scores and weights for one alone. Does a second sequence need no table?"
)
def tables_of_one_sequence(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, n_heads * seq_len * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake("The batch is missing: each sequence has arrays of its own.")
def one_sequence_held(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake("Your numbers are 8 times too large: these are bits. What does `dtype.itemsize` count?")
def in_bits(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, 8 * dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 32 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake("Every number takes 2 bytes in your answer. Where does `dtype` enter?")
def always_two_bytes(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows = batch * n_heads * seq_len
    ends, matrix = 8 * rows * d_head, 2 * rows * seq_len
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "`tiled` changes nothing in your answer. Which arrays does tiled attention never have as a whole?"
)
def tiles_ignored(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return ends + 2 * matrix, n_layers * (ends + matrix)


@held_and_kept.mistake(
    "Tiled training keeps nothing of softmax in your answer. With one number for each row the weights can be computed again; which number is that, and in which dtype?"
)
def nothing_of_softmax(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * ends) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "The log-sum-exp has the inputs' dtype in your answer. It is always a float32: how many bytes is that?"
)
def log_sum_exp_in_the_inputs_dtype(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + rows * size)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "You keep one log-sum-exp for each token. Each head has a softmax of its own: how many rows of weights are there?"
)
def one_log_sum_exp_a_token(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * batch * seq_len)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "Your tiled training keeps one log-sum-exp for each row in a single layer. The backward pass goes through all of them: where do the layers enter?"
)
def log_sum_exp_of_one_layer(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * ends + 4 * rows) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "Your tiled training keeps two numbers for each row, the largest score and the sum, perhaps. The log-sum-exp holds both in one: how many bytes is a float32?"
)
def maximum_and_sum(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 8 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix))


@held_and_kept.mistake(
    "Your training adds the scores of the layer at work. They are there at the peak, but nothing keeps them: what does the table of the statement list?"
)
def scores_of_the_last_layer(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (ends, n_layers * (ends + 4 * rows)) if tiled else (ends + 2 * matrix, n_layers * (ends + matrix) + matrix)


@held_and_kept.mistake("The two numbers are there in the wrong order: inference comes first, training second.")
def training_first(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    rows, size = batch * n_heads * seq_len, dtype.itemsize
    ends, matrix = 4 * rows * d_head * size, rows * seq_len * size
    return (n_layers * (ends + 4 * rows), ends) if tiled else (n_layers * (ends + matrix), ends + 2 * matrix)


@held_and_kept.also_right
def array_by_array(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    vectors, pairs = (batch, n_heads, seq_len, d_head), (batch, n_heads, seq_len, seq_len)
    shapes = {"q": vectors, "k": vectors, "v": vectors, "out": vectors}
    if not tiled:
        shapes |= {"scores": pairs, "weights": pairs}
    size = {name: int(np.prod(shape)) * dtype.itemsize for name, shape in shapes.items()}
    inference = sum(size.values())
    training = sum(size[name] for name in size if name != "scores")
    if tiled:
        training += batch * n_heads * seq_len * 4
    return [inference, training * n_layers]


@held_and_kept.also_right
def layer_after_layer(batch, seq_len, n_layers, n_heads, d_head, dtype, tiled=False):
    inference = training = 0
    for _ in range(n_layers):
        working = 0
        for _ in range(batch * n_heads):
            working += 4 * seq_len * d_head * dtype.itemsize
            training += 4 * seq_len * d_head * dtype.itemsize
            if tiled:
                training += seq_len * 4
            else:
                working += 2 * seq_len**2 * dtype.itemsize
                training += seq_len**2 * dtype.itemsize
        inference = max(inference, working)
    return np.array([inference, training])


held_and_kept.hints(
    "Two sizes are enough: that of q, which k, v and out share, and that of one n by n table for every head.",
    "Inference needs 4 of the first and 2 of the second, once. Training needs 4 and 1, for every layer. Tiled, the second size is gone from both.",
    "A row of weights belongs to one query of one head of one sequence. Tiled training adds 4 bytes for each, in each layer, whatever the dtype.",
)
held_and_kept.errors(
    (
        "TypeError: cannot unpack non-iterable int object",
        "The check takes two numbers from your answer: return both, with a comma between them.",
    ),
    (
        "AttributeError: 'torch.dtype' object has no attribute 'nbytes'",
        "A dtype tells the bytes of one number by <code>itemsize</code>.",
    ),
)

# --- 8.5 -------------------------------------------------------------------------------------------------------------


def kv_cache_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    """What generation keeps of all tokens so far: a key and a value for each KV head and layer.  -> int"""
    return 2 * batch * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize


cache_size = Exercise(
    "8.5",
    "How large the cache is",
    reference=kv_cache_bytes,
    minutes=6,
    forbids=("attn_ref.cost.kv_cache_bytes",),
)


@cache_size.probe
def by_name_of_dtype(answer, *, dtype, **sizes):
    """The dtype goes by its name, so that a message can show it."""
    order = ("batch", "seq_len", "n_layers", "n_kv_heads", "d_head")
    return as_int(answer(*(sizes[name] for name in order), getattr(torch, dtype)))


@cache_size.criterion("a key and a value, of d_head numbers each, for every token and KV head", points=2)
def one_layer(rng):
    yield dict(batch=1, seq_len=1, n_layers=1, n_kv_heads=1, d_head=4, dtype="float16")
    yield dict(batch=1, seq_len=7, n_layers=1, n_kv_heads=3, d_head=5, dtype="float16")
    yield dict(batch=1, seq_len=6, n_layers=1, n_kv_heads=1, d_head=3, dtype="float16")


@cache_size.criterion("every layer has keys and values of its own", points=1)
def many_layers(rng):
    yield dict(batch=1, seq_len=3, n_layers=2, n_kv_heads=1, d_head=4, dtype="float16")
    yield dict(batch=1, seq_len=100, n_layers=32, n_kv_heads=8, d_head=128, dtype="bfloat16")


@cache_size.criterion("every request of the batch has a cache of its own", points=1)
def many_requests(rng):
    yield dict(batch=5, seq_len=3, n_layers=1, n_kv_heads=2, d_head=7, dtype="float16")
    yield dict(batch=3, seq_len=11, n_layers=4, n_kv_heads=2, d_head=5, dtype="float16")
    yield dict(batch=29, seq_len=4099, n_layers=36, n_kv_heads=5, d_head=80, dtype="float16")  # more than 2**32


@cache_size.criterion("the bytes of a number are those of its dtype, int8 included", points=1)
def other_dtypes(rng):
    for dtype in ("float32", "int8", "float64", "bfloat16"):
        yield dict(batch=2, seq_len=6, n_layers=3, n_kv_heads=2, d_head=5, dtype=dtype)


@cache_size.mistake(
    "The layers are missing, as in a formula that is passed around. Each layer makes keys and values of its own from its own input: how many does a model with 32 layers cache for one token?"
)
def layers_forgotten(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * batch * seq_len * n_kv_heads * d_head * dtype.itemsize


@cache_size.mistake("Your cache is half as large as it should be. Keys are kept for being found; what is read?")
def keys_alone(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return batch * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize


@cache_size.mistake(
    "You keep three vectors for each token. A query is used once, at its own step, and no later token asks for it: which two are kept?"
)
def queries_too(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 3 * batch * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize


@cache_size.mistake("Every number takes 2 bytes in your answer. Where does `dtype` enter?")
def two_bytes_each(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 4 * batch * seq_len * n_layers * n_kv_heads * d_head


@cache_size.mistake("You have counted numbers. How many bytes has each of them?")
def numbers_for_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * batch * seq_len * n_layers * n_kv_heads * d_head


@cache_size.mistake("Your cache is 8 times too large: these are bits. How many bits are a byte?")
def bits_for_bytes(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * batch * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize * 8


@cache_size.mistake("This is a number of MiB. Bytes are asked for, so that nothing has to be rounded.")
def in_mib(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * batch * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize / 2**20


@cache_size.mistake("The batch is missing: do two users share their keys and values?")
def one_request(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * seq_len * n_layers * n_kv_heads * d_head * dtype.itemsize


@cache_size.mistake(
    "The KV heads are missing: d_head is the length of one head's key, and each KV head keeps a key of its own."
)
def one_kv_head(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * batch * seq_len * n_layers * d_head * dtype.itemsize


@cache_size.mistake(
    "Your cache grows with the square of the length. It holds keys and values, one of each for a token, and not the weights between tokens. How much does one more token add?"
)
def pairs_for_tokens(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    return 2 * batch * seq_len**2 * n_layers * n_kv_heads * d_head * dtype.itemsize


@cache_size.mistake(
    "`torch.finfo` knows floating-point types only, and a cache may be stored as int8. Which attribute has every dtype?"
)
def floats_only(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    import torch

    return 2 * batch * seq_len * n_layers * n_kv_heads * d_head * (torch.finfo(dtype).bits // 8)


@cache_size.also_right
def made_and_measured(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    import torch

    keys = torch.empty(batch, n_kv_heads, seq_len, d_head, dtype=dtype)
    values = torch.empty_like(keys)
    return n_layers * (keys.numel() * keys.element_size() + values.numel() * values.element_size())


@cache_size.also_right
def token_after_token(batch, seq_len, n_layers, n_kv_heads, d_head, dtype):
    total = 0
    for _ in range(seq_len):
        for _ in ("key", "value"):
            total += n_layers * n_kv_heads * d_head * dtype.itemsize
    return float(total * batch)


cache_size.hints(
    "Begin with one token in one layer: how many numbers does one KV head keep of it?",
    "A key and a value of d_head numbers. Then multiply by KV heads, layers, tokens, requests, and the bytes of a number.",
)
cache_size.errors(
    (
        "TypeError: unsupported operand type(s) for *: 'int' and 'torch.dtype'",
        "A dtype is no number. <code>torch.float16.itemsize</code> is 2, its bytes.",
    ),
)

# --- 8.6 -------------------------------------------------------------------------------------------------------------


def bound_by(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    """FLOPs for each byte moved, and what sets the pace at this ridge.  -> (float, "memory" or "compute")"""
    flops = 4 * n_heads * n_q * n_k * d_head
    moved = 2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize  # q and out, k and v
    intensity = flops / moved
    return intensity, "memory" if intensity < ridge else "compute"


who_sets_the_pace = Exercise(
    "8.6",
    "Who sets the pace?",
    reference=bound_by,
    minutes=12,
    forbids=("attn_ref.cost.bound_by", "attn_ref.cost.arithmetic_intensity", "attn_ref.cost.attention_bytes"),
)


@who_sets_the_pace.probe
def intensity_or_bound(answer, *, part, dtype, **sizes):
    """One of the two, so that each is judged by itself; the dtype goes by its name to be readable."""
    order = ("n_q", "n_k", "n_heads", "n_kv_heads", "d_head")
    intensity, bound = answer(*(sizes[name] for name in order), getattr(torch, dtype), sizes["ridge"])
    return bound if part == "bound" else intensity


@who_sets_the_pace.criterion("the intensity is FLOPs for each byte, with q, k, v and out moved once", points=2)
def one_kv_head_each(rng):
    yield dict(part="intensity", n_q=1, n_k=3, n_heads=1, n_kv_heads=1, d_head=4, dtype="float16", ridge=2)
    yield dict(part="intensity", n_q=5, n_k=7, n_heads=1, n_kv_heads=1, d_head=3, dtype="float16", ridge=1.5)
    yield dict(part="intensity", n_q=100, n_k=100, n_heads=6, n_kv_heads=6, d_head=16, dtype="float32", ridge=40)
    yield dict(part="intensity", n_q=1, n_k=9, n_heads=2, n_kv_heads=2, d_head=5, dtype="int8", ridge=40)


@who_sets_the_pace.criterion("shared KV heads are moved once, and every query head still computes", points=2)
def some_kv_heads(rng):
    yield dict(part="intensity", n_q=1, n_k=4, n_heads=4, n_kv_heads=1, d_head=2, dtype="float16", ridge=2)
    yield dict(part="intensity", n_q=1, n_k=1000, n_heads=32, n_kv_heads=8, d_head=128, dtype="bfloat16", ridge=295)
    yield dict(part="intensity", n_q=6, n_k=11, n_heads=6, n_kv_heads=2, d_head=5, dtype="float32", ridge=5)


@who_sets_the_pace.criterion("below the ridge it is memory, at the ridge and above it compute", points=1)
def both_sides(rng):
    chunk = dict(part="bound", n_q=16, n_k=48, n_heads=2, n_kv_heads=2, d_head=8, dtype="float16")  # 12 FLOP/byte
    yield dict(**chunk, ridge=12.5)
    yield dict(**chunk, ridge=11.5)
    yield dict(**chunk, ridge=12)
    chunk |= dict(n_heads=8, n_kv_heads=2)  # 27.4286 FLOP/byte
    yield dict(**chunk, ridge=20)
    yield dict(**chunk, ridge=27.4)
    yield dict(part="bound", n_q=1, n_k=500, n_heads=8, n_kv_heads=8, d_head=64, dtype="bfloat16", ridge=295)
    yield dict(part="bound", n_q=4096, n_k=4096, n_heads=8, n_kv_heads=8, d_head=64, dtype="bfloat16", ridge=295)


@who_sets_the_pace.mistake(
    "You divided bytes by FLOPs. Intensity is how much is computed for each byte that is fetched: which of the two goes on top?"
)
def upside_down(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    flops = 4 * n_heads * n_q * n_k * d_head
    moved = 2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize
    return moved / flops, "memory" if moved / flops < ridge else "compute"


@who_sets_the_pace.mistake(
    "Your intensity is half of what it should be: one of the two products is missing, or an addition counts for nothing."
)
def half_the_flops(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    moved = 2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize
    intensity = 2 * n_heads * n_q * n_k * d_head / moved
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake("You divide by a count of numbers. How many bytes is each of them?")
def for_each_number(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    intensity = 4 * n_heads * n_q * n_k * d_head / (2 * (n_heads * n_q + n_kv_heads * n_k) * d_head)
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake(
    "Only keys and values are moved in your count. The queries must be read and the output written too: with 100 of each that is half of everything."
)
def only_the_cache_moved(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    intensity = 4 * n_heads * n_q * n_k * d_head / (2 * n_kv_heads * n_k * d_head * dtype.itemsize)
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake("The output is missing from the traffic: it is written to memory, as large as q.")
def output_not_written(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    moved = (n_heads * n_q + 2 * n_kv_heads * n_k) * d_head * dtype.itemsize
    intensity = 4 * n_heads * n_q * n_k * d_head / moved
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake(
    "Every query head reads keys and values of its own in your count. Where four query heads share a KV head, how often must it be fetched?"
)
def fetched_for_every_head(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    moved = 2 * n_heads * (n_q + n_k) * d_head * dtype.itemsize
    intensity = 4 * n_heads * n_q * n_k * d_head / moved
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake(
    "Sharing a KV head saves FLOPs in your count. Every query head still meets every key: what does sharing save?"
)
def flops_of_the_kv_heads(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    moved = 2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize
    intensity = 4 * n_kv_heads * n_q * n_k * d_head / moved
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake(
    "q and out have n_kv_heads heads in your traffic. Only keys and values are shared: how many heads has q?"
)
def queries_of_the_kv_heads(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    moved = 2 * n_kv_heads * (n_q + n_k) * d_head * dtype.itemsize
    intensity = 4 * n_heads * n_q * n_k * d_head / moved
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake(
    "You move the scores and the weights too, as naive attention does. Here each of q, k, v and out crosses once and nothing else does."
)
def matrices_moved(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    numbers = 2 * (n_heads * n_q + n_kv_heads * n_k) * d_head + 4 * n_heads * n_q * n_k
    intensity = 4 * n_heads * n_q * n_k * d_head / (numbers * dtype.itemsize)
    return intensity, "memory" if intensity < ridge else "compute"


@who_sets_the_pace.mistake(
    "The intensities are right and the verdicts are swapped. With few FLOPs for each byte, who waits for whom?"
)
def verdicts_swapped(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    flops = 4 * n_heads * n_q * n_k * d_head
    intensity = flops / (2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize)
    return intensity, "compute" if intensity < ridge else "memory"


@who_sets_the_pace.mistake(
    "Only exactly at the ridge is your verdict another. Which word does the statement use there?"
)
def memory_at_the_ridge(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    flops = 4 * n_heads * n_q * n_k * d_head
    intensity = flops / (2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize)
    return intensity, "memory" if intensity <= ridge else "compute"


@who_sets_the_pace.mistake(
    "Your verdict is right where no KV head is shared. Sharing saves bytes and so raises the intensity: which intensity do you compare with the ridge?"
)
def verdict_without_sharing(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    flops = 4 * n_heads * n_q * n_k * d_head
    intensity = flops / (2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize)
    unshared = flops / (2 * n_heads * (n_q + n_k) * d_head * dtype.itemsize)
    return intensity, "memory" if unshared < ridge else "compute"


@who_sets_the_pace.mistake(
    "Your verdict rounds the intensity first. 27.43 is above a ridge of 27.4, and 27 is not: what is compared?"
)
def verdict_of_a_rounded_intensity(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    flops = 4 * n_heads * n_q * n_k * d_head
    intensity = flops / (2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize)
    return intensity, "memory" if round(intensity) < ridge else "compute"


@who_sets_the_pace.mistake(
    "One query means memory and many mean compute in your answer, whatever the ridge is. A chunk of 16 queries can be either: what has to be compared?"
)
def by_the_number_of_queries(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    flops = 4 * n_heads * n_q * n_k * d_head
    intensity = flops / (2 * (n_heads * n_q + n_kv_heads * n_k) * d_head * dtype.itemsize)
    return intensity, "memory" if n_q == 1 else "compute"


@who_sets_the_pace.also_right
def array_by_array_moved(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    moved = {"q": n_heads * n_q, "k": n_kv_heads * n_k, "v": n_kv_heads * n_k, "out": n_heads * n_q}
    total = sum(vectors * d_head * dtype.itemsize for vectors in moved.values())
    flops = attn_ref.cost.attention_flops(1, n_heads, n_q, n_k, d_head)
    pace = ["memory", "compute"][int(flops >= ridge * total)]
    return [np.float64(flops) / total, pace]


@who_sets_the_pace.also_right
def head_by_head(n_q, n_k, n_heads, n_kv_heads, d_head, dtype, ridge):
    sharing = n_heads / n_kv_heads  # query heads for each KV head
    intensity = 2 * sharing * n_q * n_k / ((sharing * n_q + n_k) * dtype.itemsize)
    if intensity >= ridge:
        return intensity, "compute"
    return intensity, "memory"


who_sets_the_pace.hints(
    "Three lines: FLOPs as in 8.1 without a mask, bytes, and their quotient.",
    "q and out have n_heads · n_q vectors each, k and v n_kv_heads · n_k each. The FLOPs know nothing of n_kv_heads.",
    "Compare with `<`, so that the ridge itself falls to the other side.",
)
who_sets_the_pace.errors(
    (
        "TypeError: cannot unpack non-iterable float object",
        "Two things are asked for: the intensity and a word. Return both, with a comma between them.",
    ),
)

# --- 8.7 -------------------------------------------------------------------------------------------------------------


def longest_context(memory_bytes, bytes_at):
    """The largest n for which bytes_at(n) fits into memory_bytes.  -> int, 0 if not even one token fits"""
    fits, too_long = 0, 1
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if bytes_at(middle) <= memory_bytes:
            fits = middle
        else:
            too_long = middle
    return fits


longest = Exercise(
    "8.7",
    "The longest text that fits",
    reference=longest_context,
    minutes=15,
    forbids=("attn_ref.cost.longest_context", "bisect.bisect", "bisect.bisect_left", "bisect.bisect_right"),
)
MOST_QUESTIONS = 200


def under(memory_bytes, fixed=0, a_token=0, block=1, a_pair=0, tokens_a_byte=0):
    """A case: the memory, a ledger made from numbers, and the ledger's formula for the card to show."""
    a_block = f"{a_token * block} * ceil(n / {block})" if block > 1 else f"{a_token} * n"
    terms = {f"{fixed}": fixed, a_block: a_token, f"{a_pair} * n * n": a_pair, f"n // {tokens_a_byte}": tokens_a_byte}
    formula = " + ".join(text for text, number in terms.items() if number)
    numbers = dict(fixed=fixed, a_token=a_token, block=block, a_pair=a_pair, tokens_a_byte=tokens_a_byte)
    return dict(memory_bytes=memory_bytes, bytes_at=formula, **numbers)


@longest.probe
def with_a_ledger(answer, memory_bytes, bytes_at, fixed, a_token, block, a_pair, tokens_a_byte):
    """Ask for the longest text under the ledger of these numbers, which counts how often it is asked."""
    asked = 0

    def ledger(n):
        nonlocal asked
        asked += 1
        if asked > MOST_QUESTIONS:
            raise RuntimeError(f"bytes_at was asked more than {MOST_QUESTIONS} times")
        slowly = n // tokens_a_byte if tokens_a_byte else 0
        return fixed + a_token * (-(-n // block) * block) + a_pair * n * n + slowly

    return answer(memory_bytes, ledger)


@longest.criterion("the last length that fits, and a length that fills the memory to the last byte does", points=2)
def short_ones(rng):
    yield under(60, a_token=10)
    yield under(69, a_token=10)
    yield under(100, a_token=3, a_pair=7)
    yield under(64, a_token=1)
    yield under(12, a_token=12)
    yield under(int(rng.integers(1000, 2000)), a_token=int(rng.integers(2, 9)))


@longest.criterion("any ledger that grows: straight, square, in blocks, on top of something fixed", points=1)
def any_ledger(rng):
    yield under(5_000, fixed=900, a_token=11)
    yield under(90_000, fixed=77, a_token=5, a_pair=3)
    yield under(3_000, fixed=100, a_token=13, block=16)
    yield under(500, a_token=1, block=100)  # 401 to 500 tokens all fill it to the last byte
    yield under(6_000, a_token=3, block=1000)
    yield under(40_000, a_pair=1, fixed=39_000)
    yield under(5, tokens_a_byte=8)  # 47: a token takes less than a byte
    yield under(100, fixed=90, tokens_a_byte=1000)


@longest.criterion("0 where not even one token fits, and 1 where exactly one does", points=1)
def nothing_fits(rng):
    yield under(9, a_token=10)
    yield under(10, a_token=10)
    yield under(810, fixed=800, a_pair=7)
    yield under(1_000, fixed=1_000, a_token=1)
    yield under(500, fixed=800, a_pair=2)


@longest.criterion("texts of millions of tokens, with at most 200 questions to the ledger", points=1)
def millions(rng):
    yield under(80 * 2**30, fixed=16 * 2**30, a_token=1_237)
    yield under(24 * 2**30, a_token=256, a_pair=8)
    yield under(2**40 + 2 * int(rng.integers(500)) + 1, a_token=2)
    yield under(2**45 - 1, a_token=67)


@longest.mistake(
    "Your answer is one token too short where the text fills the memory exactly. Does 60 bytes fit into 60 bytes?"
)
def must_leave_something(memory_bytes, bytes_at):
    fits, too_long = 0, 1
    while bytes_at(too_long) < memory_bytes:
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) < memory_bytes else (fits, middle)
    return fits


@longest.mistake(
    "You stop at the first length that fills the memory exactly. A ledger may stand still for a while, as one in blocks does: might the next length need no more?"
)
def stops_when_full(memory_bytes, bytes_at):
    fits, too_long = 0, 1
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        needed = bytes_at(middle)
        if needed == memory_bytes:
            return middle
        fits, too_long = (middle, too_long) if needed < memory_bytes else (fits, middle)
    return fits


@longest.mistake("You return the first length that does not fit. The one before it is asked for.")
def first_too_long(memory_bytes, bytes_at):
    fits, too_long = 0, 1
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return too_long


@longest.mistake(
    "You stop at a power of two. Doubling finds a length that fits and one that does not; where between them is the last that fits?"
)
def doubled_and_left(memory_bytes, bytes_at):
    fits, too_long = 0, 1
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
    return fits


@longest.mistake(
    "You divide the memory by the bytes of one token. That is right for a ledger through 0 in a straight line; what does the first token cost where something fixed comes on top, or pairs do?"
)
def by_the_first_token(memory_bytes, bytes_at):
    return memory_bytes // bytes_at(1)


@longest.mistake(
    "You draw a straight line through the first two tokens. With an n² in the ledger each token costs more than the one before: what would you ask the ledger to be sure?"
)
def straight_line(memory_bytes, bytes_at):
    step = bytes_at(2) - bytes_at(1)
    if bytes_at(1) > memory_bytes:
        return 0
    return 1 + (memory_bytes - bytes_at(1)) // max(step, 1)


@longest.mistake("Where not even one token fits you return 1. Is bytes_at(1) ever compared with the memory?")
def at_least_one(memory_bytes, bytes_at):
    fits, too_long = 1, 2
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return fits


@longest.mistake(
    "You try one length after another, which is right for short texts. At 50 million tokens it would take all day: after 1, 2, 4, 8, which length would you try next?"
)
def one_after_another(memory_bytes, bytes_at):
    n = 0
    while bytes_at(n + 1) <= memory_bytes:
        n += 1
    return n


@longest.mistake(
    "Your search has an upper end of its own, about a million tokens. How can it find a length that does not fit, whatever the ledger?"
)
def no_more_than_a_million(memory_bytes, bytes_at):
    fits, too_long = 0, 2**20 + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return fits


@longest.mistake(
    "Your search ends at memory_bytes, as if each token took a byte at least. A ledger of n // 8 puts 47 tokens into 5 bytes: how can a search find its upper end under any ledger?"
)
def a_byte_for_each_token(memory_bytes, bytes_at):
    fits, too_long = 0, memory_bytes + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return fits


@longest.mistake(
    "You return the middle of the last step, which may be one that did not fit. Which of your three numbers is sure to fit?"
)
def the_last_middle(memory_bytes, bytes_at):
    fits, too_long, middle = 0, 1, 0
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
        middle = fits
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return middle


@longest.mistake(
    "Your halving ends while there is still a length between the two ends. How far apart are they when nothing is left to try?"
)
def ends_too_soon(memory_bytes, bytes_at):
    fits, too_long = 0, 1
    while bytes_at(too_long) <= memory_bytes:
        fits, too_long = too_long, 2 * too_long
    while too_long - fits > 2:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if bytes_at(middle) <= memory_bytes else (fits, middle)
    return fits


@longest.also_right
def bit_by_bit(memory_bytes, bytes_at):
    n = 0
    for power in range(60, -1, -1):
        if bytes_at(n + 2**power) <= memory_bytes:
            n += 2**power
    return n


@longest.also_right
def between_nothing_and_surely_too_much(memory_bytes, bytes_at):
    low, high = 0, memory_bytes + 1
    while bytes_at(high) <= memory_bytes:
        high *= 10
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_at(middle) > memory_bytes:
            high = middle - 1
        else:
            low = middle
    return low


@longest.also_right
def calling_itself(memory_bytes, bytes_at):
    def between(fits, too_long):
        if too_long == fits + 1:
            return fits
        middle = fits + (too_long - fits) // 2
        return between(middle, too_long) if bytes_at(middle) <= memory_bytes else between(fits, middle)

    def doubling(n):
        return between(n // 2, n) if bytes_at(n) > memory_bytes else doubling(2 * n)

    return doubling(1)


longest.hints(
    "Guessing a number up to 1,000 takes ten questions if each answer halves what is left. Which question is asked here?",
    "Keep two lengths: 0, which fits, and one that does not, found by doubling. Then ask for the middle, again and again, and let it replace one of the two.",
    "Stop when the two are neighbours. Take `//` for the middle, so that it stays whole, and return the one that fits.",
)
longest.errors(
    (
        "RuntimeError: bytes_at was asked more than 200 times",
        "The check counts the questions. Let each answer rule out half of the lengths that are left.",
    ),
)

# --- questions -------------------------------------------------------------------------------------------------------

twice_the_text = Quiz(
    "8.a",
    "A layer's crossover length is 50,000 tokens. By what factor do its FLOPs grow from 1,000 tokens to 2,000?",
    {
        "a": (
            "About 4.",
            "Only attention's own FLOPs grow by 4. At 1,000 tokens they are a fiftieth of the weights' FLOPs, which grow by 2.",
        ),
        "b": (
            "A little more than 2.",
            "Yes: the weights' share doubles, and attention's share, a fiftieth at first, quadruples. That makes 2.04.",
        ),
        "c": (
            "Exactly 2.",
            "The weights' part does; attention's part grows by 4. It is small at this length and not zero.",
        ),
        "d": (
            "About 3.",
            "Half way between 2 and 4 it is at the crossover length itself, where both parts are equal. 1,000 tokens are far below it.",
        ),
    },
    right="b",
)

what_tiles_change = Quiz(
    "8.b",
    "What does tiled attention (FlashAttention) change in the ledger of a training step?",
    {
        "a": (
            "FLOPs and memory both become proportional to n.",
            "Every query still meets every key, so the FLOPs stay quadratic. They even grow a little, since the backward pass computes the weights again.",
        ),
        "b": (
            "The FLOPs become proportional to n, the memory stays quadratic.",
            "It is the other way round: the n · n matrices are never stored, and all their entries are computed.",
        ),
        "c": (
            "The memory becomes proportional to n, the FLOPs stay quadratic.",
            "Yes: the weights are not kept, only q, k, v, out and one number a row. All pairs are still computed.",
        ),
        "d": (
            "Nothing, it only runs faster.",
            "It runs faster because it moves fewer bytes, and it holds fewer too: no matrix of n · n is stored in any layer.",
        ),
    },
    right="c",
)

what_sharing_saves = Quiz(
    "8.c",
    "A model changes from 32 KV heads to 8 and keeps its 32 query heads. What becomes of a decoding step's attention?",
    {
        "a": (
            "A quarter of the FLOPs and a quarter of the cache bytes.",
            "The FLOPs stay: 32 query heads still meet every key. Only the keys and values are fewer.",
        ),
        "b": (
            "A quarter of the FLOPs, the same cache bytes.",
            "This has the two exchanged. Sharing is about what is stored and fetched.",
        ),
        "c": (
            "The same FLOPs and the same bytes.",
            "The cache really is smaller: 8 keys and values are stored for a token and layer, where there were 32.",
        ),
        "d": (
            "The same FLOPs, a quarter of the cache bytes, four times the intensity.",
            "Yes: each key that is fetched now serves four query heads, so memory is asked for a quarter as much.",
        ),
    },
    right="d",
)

a_faster_chip = Quiz(
    "8.d",
    "Decoding at 1 FLOP/byte, on a chip of 1,000 TFLOP/s and 4 TB/s: how much faster is it on the next model, with twice the FLOP/s and the same bandwidth?",
    {
        "a": (
            "Not at all.",
            "Yes: at 1 FLOP/byte, 4 TB/s allow 4 TFLOP/s, a 250th of the peak. A higher peak moves the ridge and nothing else.",
        ),
        "b": (
            "Twice as fast.",
            "That would hold to the right of the ridge. The ridge is 1,000 / 4 = 250 FLOP/byte, and 1 lies far to its left: the arithmetic waits already.",
        ),
        "c": (
            "About 1.4 times.",
            "The roofline takes the smaller of two limits, not a mean of them. Which of the two is smaller at 1 FLOP/byte?",
        ),
        "d": (
            "Slower, since the ridge moves.",
            "The ridge moves to 500 FLOP/byte, and the slope on the left of it, which is the bandwidth, stays where it is.",
        ),
    },
    right="a",
)

explain = Written(
    "8.w",
    "Ten times the context, a hundred times the bill?",
    minutes=10,
    rubric=(
        "Compute, prompt memory and cache apart, each right and with numbers: what grows by 10, what by 100, the factor for the whole, the layers of the cache.",
        "The same, with one number or one of the three missing.",
        "One of the three right and explained, or right factors without reasons.",
        "Less than a hundred, or “there are optimisations”, without a ledger.",
    ),
)
