"""Chapter 04, masks: who may look at whom, what a hidden score does to softmax, and a detector for leaks."""

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

# --- 4.1 -------------------------------------------------------------------------------------------------------------

causal_mask = Exercise(
    "4.1",
    "Who may look back?",
    reference=attn_ref.causal_mask,
    minutes=10,
    forbids=("attn_ref.sliding_window_mask", "attn_ref.document_mask", "attn_ref.prefix_mask"),
)


@causal_mask.criterion("as many queries as keys: each sees itself and everything before it", points=2)
def square(rng):
    yield dict(n_q=3, n_k=3)
    yield dict(n_q=1, n_k=1)
    n = int(rng.integers(5, 12))
    yield dict(n_q=n, n_k=n)


@causal_mask.criterion("more keys than queries: the last query sees every key", points=2)
def continuing(rng):
    yield dict(n_q=2, n_k=5)
    yield dict(n_q=1, n_k=int(rng.integers(6, 20)))
    yield dict(n_q=7, n_k=8)
    yield dict(n_q=2, n_k=300)
    yield dict(n_q=int(rng.integers(3, 9)), n_k=int(rng.integers(20, 40)))


@causal_mask.criterion("more queries than keys: the first queries see nothing", points=1)
def nothing_to_see(rng):
    yield dict(n_q=5, n_k=2)
    yield dict(n_q=int(rng.integers(4, 9)), n_k=1)


@causal_mask.mistake(
    "Your diagonal starts at the first key. When a model continues a text, the new queries are its last positions: how many keys lie before query 0?"
)
def diagonal_from_the_first_key(n_q, n_k):
    return np.tri(n_q, n_k, dtype=bool)


@causal_mask.mistake(
    "Here True means *may attend*; yours marks what is hidden. (nn.MultiheadAttention reads masks your way round: that trap is further down.)"
)
def marks_what_is_hidden(n_q, n_k):
    return ~attn_ref.causal_mask(n_q, n_k)


@causal_mask.mistake("Nobody sees itself in your mask. Is a token's own position behind it, or ahead of it?")
def itself_left_out(n_q, n_k):
    return np.tri(n_q, n_k, n_k - n_q - 1, dtype=bool)


@causal_mask.mistake("Each query sees one key too many: the very token that it should predict. Is it < or <= here?")
def one_key_too_many(n_q, n_k):
    return np.tri(n_q, n_k, n_k - n_q + 1, dtype=bool)


@causal_mask.mistake(
    "Your queries look ahead: the first sees the most and the last sees the least. Which of the two indices must be the smaller one, the key's or the query's?"
)
def looks_ahead(n_q, n_k):
    return np.triu(np.ones((n_q, n_k), dtype=bool), n_k - n_q)


@causal_mask.mistake(
    "The pattern is right, in numbers. A mask says True or False; 0 and 1 could mean *add* or *hide* to whoever reads them. Which dtype should the array have?"
)
def numbers_for_truth_values(n_q, n_k):
    return attn_ref.causal_mask(n_q, n_k).astype(float)


@causal_mask.mistake(
    "These are the scores' summands, 0 and -inf, one step further than asked. Which array of True and False stands behind them?"
)
def zero_and_minus_infinity(n_q, n_k):
    return np.where(attn_ref.causal_mask(n_q, n_k), 0.0, -np.inf)


@causal_mask.mistake("Your mask is always n_k by n_k. How many rows are asked for, and which of these are they?")
def a_row_for_every_key(n_q, n_k):
    return attn_ref.causal_mask(n_k, n_k)


@causal_mask.mistake("Your rows are keys and your columns are queries. Queries go down and keys go across.")
def keys_down_queries_across(n_q, n_k):
    return attn_ref.causal_mask(n_q, n_k).T


@causal_mask.mistake(
    "Right until there are more queries than keys. Then n_k - n_q is negative, and you put 0 in its place: the first query stands before the first key. What does it see?"
)
def offset_never_negative(n_q, n_k):
    return np.tri(n_q, n_k, max(0, n_k - n_q), dtype=bool)


@causal_mask.mistake(
    "Right until a query stands before the first key; there you put it at position 0, where it sees a key. What can it see from -1?"
)
def queries_never_before_the_first_key(n_q, n_k):
    return np.arange(n_k) <= np.maximum(0, np.arange(n_q)[:, None] + n_k - n_q)


@causal_mask.mistake(
    "You join a block of True to a triangle, and the block cannot have fewer than 0 columns. With 5 queries and 2 keys there is no such block; can one comparison serve both cases?"
)
def a_block_beside_a_triangle(n_q, n_k):
    return np.concatenate([np.ones((n_q, n_k - n_q), dtype=bool), np.tri(n_q, dtype=bool)], axis=1)


@causal_mask.mistake(
    "Right until a query stands before the first key. There your slice ends below 0, and Python counts a negative end from the right: `row[:-2]` is not empty. From where on should a row be filled at all?"
)
def a_slice_that_ends_below_zero(n_q, n_k):
    mask = np.zeros((n_q, n_k), dtype=bool)
    for i in range(n_q):
        mask[i, : i + n_k - n_q + 1] = True
    return mask


@causal_mask.also_right
def two_loops(n_q, n_k):
    return [[j <= i + n_k - n_q for j in range(n_k)] for i in range(n_q)]


@causal_mask.also_right
def a_shifted_triangle(n_q, n_k):
    return np.tril(np.ones((n_q, n_k)), k=n_k - n_q).astype(bool)


@causal_mask.also_right
def counted_from_the_end(n_q, n_k):
    keys_after = n_k - 1 - np.arange(n_k)
    queries_after = n_q - 1 - np.arange(n_q)
    return keys_after[np.newaxis] >= queries_after[:, np.newaxis]


causal_mask.hints(
    "Write down, for n_q=2 and n_k=5, at which position of the whole text query 0 stands.",
    "Query i stands at position i + (n_k - n_q) and sees the keys up to there. Compare a row of key positions with a column of query positions.",
)
causal_mask.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (2,) (5,)",
        "Positions of queries and keys have met as two rows. Which of the two should be a column, with an axis of 1?",
    ),
)

# --- 4.2 -------------------------------------------------------------------------------------------------------------

padding_mask = Exercise("4.2", "Which keys are text?", reference=attn_ref.padding_mask, minutes=6)


@padding_mask.criterion("the first lengths[b] of n keys are text, and the rest is not", points=2)
def first_keys(rng):
    yield dict(lengths=np.array([3, 1]), n=4)
    yield dict(lengths=rng.integers(1, 7, size=5), n=8)


@padding_mask.criterion("the shape is (B, 1, n), whatever B and n are", points=1)
def any_batch(rng):
    yield dict(lengths=np.array([2, 3, 1, 2]), n=4)
    yield dict(lengths=np.array([4]), n=6)
    yield dict(lengths=np.array([3, 1, 2, 1, 6]), n=7)


@padding_mask.criterion("a row may be all text or all padding, and n is not the largest length", points=1)
def full_and_empty(rng):
    yield dict(lengths=np.array([0, 5, 3]), n=5)
    yield dict(lengths=np.array([0, 0]), n=3)
    yield dict(lengths=np.array([1, 1, 0]), n=1)
    yield dict(lengths=np.array([2, 1, 0]), n=int(rng.integers(4, 9)))


padding_mask.leaves_inputs_alone(points=1)


@padding_mask.mistake("Your rows are one key too long. Positions count from 0: is position 3 among the first 3?")
def one_key_of_padding(lengths, n):
    return np.arange(n) <= lengths[:, None, None]


@padding_mask.mistake(
    "You hide queries, and every query left over still reads the padding. Which axis runs over the keys: the last one, or the one before?"
)
def queries_hidden(lengths, n):
    return np.swapaxes(attn_ref.padding_mask(lengths, n), 1, 2)


@padding_mask.mistake("True means *may attend*; yours is True on the padding.")
def marks_the_padding(lengths, n):
    return ~attn_ref.padding_mask(lengths, n)


@padding_mask.mistake(
    "The values are right, in shape (B, n). Put beside (B, n_q, n_k) scores, the B would be taken for queries. Which axis of length 1 is missing, and where?"
)
def no_axis_for_the_queries(lengths, n):
    return np.arange(n) < lengths[:, None]


@padding_mask.mistake(
    "You write a row for every query, (B, n, n). They are all alike: an axis of length 1 stands for any number of queries."
)
def a_row_for_every_query(lengths, n):
    return np.repeat(attn_ref.padding_mask(lengths, n), n, axis=1)


@padding_mask.mistake(
    "Padded queries see nothing in your mask, as well as padded keys being hidden. Asked for are the keys alone: what a padded query reads is thrown away anyway."
)
def text_with_text(lengths, n):
    keys = attn_ref.padding_mask(lengths, n)
    return keys & np.swapaxes(keys, 1, 2)


@padding_mask.mistake(
    "The text stands at the end of your rows, and the padding before it. Here rows are filled up on the right."
)
def padded_on_the_left(lengths, n):
    return attn_ref.padding_mask(lengths, n, side="left")


@padding_mask.mistake(
    "Your mask is as wide as the longest text of the batch. The caller's arrays have n keys, however long the texts are."
)
def as_wide_as_the_longest(lengths, n):
    return attn_ref.padding_mask(lengths, int(lengths.max()))


@padding_mask.mistake("The pattern is right, in 0 and 1. Which dtype should a mask have?")
def zeros_and_ones(lengths, n):
    return attn_ref.padding_mask(lengths, n).astype(int)


@padding_mask.mistake(
    "The rows are right and stand one axis too far back: (1, B, n) says that all B rows belong to one text. Which axis is the batch's?"
)
def batch_in_the_place_of_queries(lengths, n):
    return np.swapaxes(attn_ref.padding_mask(lengths, n), 0, 1)


@padding_mask.mistake(
    "The mask is right, and the caller's lengths have changed. Which line writes into the array that was passed, or gives it another shape? `lengths -= 1` and `lengths.shape = ...` do; `lengths - 1` and `lengths[...]` make a new one."
)
def lengths_overwritten(lengths, n):
    lengths -= 1
    return np.arange(n) <= lengths[:, None, None]


@padding_mask.mistake(
    "A text of length 0 keeps one key in your mask, to spare softmax an empty row. A mask says what is there; what an empty row reads is settled elsewhere. Which keys of that row are text?"
)
def never_an_empty_row(lengths, n):
    return attn_ref.padding_mask(np.maximum(lengths, 1), n)


@padding_mask.mistake(
    "You count the padding from the end, and where there is none your slice starts at -0, which is 0: a full row becomes empty. Which end can you count from without that?"
)
def a_slice_from_minus_zero(lengths, n):
    mask = np.ones((len(lengths), 1, n), dtype=bool)
    for b, length in enumerate(lengths):
        mask[b, 0, -(n - length) :] = False
    return mask


@padding_mask.also_right
def row_by_row(lengths, n):
    mask = np.zeros((len(lengths), 1, n), dtype=bool)
    for b, length in enumerate(lengths):
        mask[b, 0, :length] = True
    return mask


@padding_mask.also_right
def lists_of_truth(lengths, n):
    return [[[True] * int(length) + [False] * (n - int(length))] for length in lengths]


@padding_mask.also_right
def rows_of_a_triangle(lengths, n):
    return np.expand_dims(np.tri(n + 1, n, -1, dtype=bool)[lengths], 1)


padding_mask.hints(
    "By hand: with 3 tokens of text, the positions 0, 1 and 2 are text. Which comparison says that of a position?",
    "Compare the positions 0 .. n-1, which lie along the last axis, with one length for each row of the batch. Which shape must the lengths have for that?",
)
padding_mask.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (4,) (2,)",
        "n positions have met B lengths on one axis. Give the lengths axes of 1, so that they lie along the first axis.",
    ),
)

# --- 4.3 -------------------------------------------------------------------------------------------------------------

sliding_window_mask = Exercise(
    "4.3", "No further back than the window", reference=attn_ref.sliding_window_mask, minutes=8
)


@sliding_window_mask.criterion("each query sees itself and the window - 1 keys before it", points=2)
def windows(rng):
    yield dict(n_q=5, n_k=5, window=2)
    yield dict(n_q=9, n_k=9, window=4)
    yield dict(n_q=12, n_k=12, window=int(rng.integers(3, 7)))


@sliding_window_mask.criterion("a window of 1 shows the query itself; a wide one shows all that lies behind", points=1)
def narrow_and_wide(rng):
    yield dict(n_q=4, n_k=4, window=1)
    yield dict(n_q=4, n_k=4, window=4)
    yield dict(n_q=3, n_k=6, window=100)
    yield dict(n_q=1, n_k=1, window=1)


@sliding_window_mask.criterion("the queries are the last n_q of the n_k positions", points=1)
def windows_of_a_longer_text(rng):
    yield dict(n_q=2, n_k=5, window=3)
    yield dict(n_q=6, n_k=8, window=2)
    yield dict(n_q=1, n_k=8, window=2)
    yield dict(n_q=2, n_k=300, window=200)
    yield dict(n_q=int(rng.integers(3, 6)), n_k=int(rng.integers(9, 14)), window=5)


@sliding_window_mask.criterion("a query that stands before the first key sees nothing", points=1)
def before_the_first_key(rng):
    yield dict(n_q=5, n_k=3, window=2)
    yield dict(n_q=6, n_k=2, window=int(rng.integers(3, 7)))


@sliding_window_mask.mistake("Your window has one key too many. Does the query itself count among the `window` keys?")
def itself_not_counted(n_q, n_k, window):
    return attn_ref.sliding_window_mask(n_q, n_k, window + 1)


@sliding_window_mask.mistake(
    "Your window has one key too few, and a window of 1 shows nothing. Is the key p - window + 1 inside the window, or just outside?"
)
def one_key_too_few(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None] + n_k - n_q, np.arange(n_k)
    return (key <= position) & (key > position - window + 1)


@sliding_window_mask.mistake(
    "Your window looks back and never at the query itself. It counts `window` keys, and the query's own is the last of them."
)
def itself_not_seen(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None] + n_k - n_q, np.arange(n_k)
    return (key < position) & (key >= position - window)


@sliding_window_mask.mistake(
    "Your window reaches ahead as well: |p - j| is small on both sides. Which side is the future?"
)
def both_sides(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None] + n_k - n_q, np.arange(n_k)
    return np.abs(position - key) < window


@sliding_window_mask.mistake(
    "You hide what lies too far back and leave the whole future open. Which second condition does a key have to meet?"
)
def future_left_open(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None] + n_k - n_q, np.arange(n_k)
    return key > position - window


@sliding_window_mask.mistake(
    "Your window is centred: half of it lies ahead. Which position is the last one that a query may see?"
)
def centred(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None] + n_k - n_q, np.arange(n_k)
    return (key > position - window + window // 2) & (key <= position + window // 2)


@sliding_window_mask.mistake("Every key behind the query is visible, however far. Where does your code read `window`?")
def window_ignored(n_q, n_k, window):
    return attn_ref.causal_mask(n_q, n_k)


@sliding_window_mask.mistake(
    "Your windows start at the first key. When a text is continued, query 0 is not its position 0: at which position does it stand?"
)
def window_from_the_first_key(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None], np.arange(n_k)
    return (key <= position) & (key > position - window)


@sliding_window_mask.mistake(
    "The upper end of your window is counted from the query's position and the lower one from its row number. In a square the two are the same; with 2 queries and 5 keys, where does the window of query 0 begin?"
)
def begins_at_the_row_number(n_q, n_k, window):
    return attn_ref.causal_mask(n_q, n_k) & (np.arange(n_k) > np.arange(n_q)[:, None] - window)


@sliding_window_mask.mistake(
    "Right until a query stands before the first key. There your slice ends below 0, and Python counts a negative end from the right: `row[:-2]` is not empty. What does such a query see?"
)
def a_slice_with_an_end_below_zero(n_q, n_k, window):
    mask = np.zeros((n_q, n_k), dtype=bool)
    for i in range(n_q):
        position = i + n_k - n_q
        mask[i, max(0, position - window + 1) : position + 1] = True
    return mask


@sliding_window_mask.mistake("True means *may attend*; yours marks what is hidden.")
def outside_the_window(n_q, n_k, window):
    return ~attn_ref.sliding_window_mask(n_q, n_k, window)


@sliding_window_mask.mistake(
    "Your window keeps the first `window` keys for everyone and not the nearest. From where is its distance counted?"
)
def the_first_keys(n_q, n_k, window):
    return attn_ref.causal_mask(n_q, n_k) & (np.arange(n_k) < window)


@sliding_window_mask.mistake(
    "Your window moves on in steps: tokens are cut into blocks, and a query sees its own block only. For a token at the start of a block, where are its neighbours to the left?"
)
def blocks_for_windows(n_q, n_k, window):
    position, key = np.arange(n_q)[:, None] + n_k - n_q, np.arange(n_k)
    return (key <= position) & (key // window == position // window)


@sliding_window_mask.mistake(
    "Right until a query stands before the first key; there you put it at position 0. What can it see from -1?"
)
def position_never_negative(n_q, n_k, window):
    position, key = np.maximum(0, np.arange(n_q)[:, None] + n_k - n_q), np.arange(n_k)
    return (key <= position) & (key > position - window)


@sliding_window_mask.mistake(
    "Near the start of the text your slice begins below 0, and Python counts a negative start from the right: those rows stay empty. What is the first key that exists?"
)
def a_slice_that_begins_below_zero(n_q, n_k, window):
    mask = np.zeros((n_q, n_k), dtype=bool)
    for i in range(n_q):
        position = i + n_k - n_q
        mask[i, position - window + 1 : position + 1] = True
    return mask


@sliding_window_mask.also_right
def difference_of_triangles(n_q, n_k, window):
    return np.tri(n_q, n_k, n_k - n_q, dtype=bool) & ~np.tri(n_q, n_k, n_k - n_q - window, dtype=bool)


@sliding_window_mask.also_right
def distance_in_a_range(n_q, n_k, window):
    back = np.subtract.outer(np.arange(n_k - n_q, n_k), np.arange(n_k))
    return np.isin(back, np.arange(window))


@sliding_window_mask.also_right
def marked_row_by_row(n_q, n_k, window):
    rows = []
    for position in range(n_k - n_q, n_k):
        seen = set(range(position - window + 1, position + 1))
        rows.append([key in seen for key in range(n_k)])
    return rows


sliding_window_mask.hints(
    "Two conditions hold at once: the key is not ahead of the query, and it is not too far behind. The first one is the mask of 4.1.",
    "With p the position of the query in the whole text, the keys run from p - window + 1 to p. Compare a column of p with a row of keys twice, and join the two with &.",
)
sliding_window_mask.errors(
    (
        "ValueError: The truth value of an array with more than one element is ambiguous",
        "<code>and</code> and <code>a &lt; b &lt; c</code> ask for one truth value. For arrays, put each comparison in parentheses and join them with <code>&amp;</code>.",
    ),
)

# --- 4.4 -------------------------------------------------------------------------------------------------------------

document_mask = Exercise("4.4", "Several documents in one row", reference=attn_ref.document_mask, minutes=8)


@document_mask.criterion("a token sees itself and what came before it in its own document", points=2)
def two_documents(rng):
    yield dict(doc_ids=np.array([7, 7, 9]))
    yield dict(doc_ids=np.array([0, 0, 0, 1, 2, 2]))
    yield dict(doc_ids=np.repeat([0, 1, 2], [3, 2, 4]))


@document_mask.criterion(
    "ids are names: negative, falling or far apart, they only say which tokens belong together", points=1
)
def any_ids(rng):
    yield dict(doc_ids=np.array([5, 5, 4, 4, 9, -3]))
    yield dict(doc_ids=np.repeat([-1, 0], [2, 2]))
    yield dict(doc_ids=np.array([-3, 3, 3, 1_000_003, 1_000_003, 1_000_004]))
    yield dict(doc_ids=np.array([2**32 + 4, 2**32 + 3, 2**32 + 3, 3, -3, 10**12]))
    yield dict(doc_ids=np.repeat([2**60, 2**60 + 1, -(2**60)], [3, 2, 3]))
    yield dict(doc_ids=np.repeat(rng.permutation(100)[:4] * 1_000_003, rng.integers(1, 5, size=4)))


@document_mask.criterion("one document alone, or a document for every token", points=1)
def one_or_many(rng):
    yield dict(doc_ids=np.full(5, 3))
    yield dict(doc_ids=np.arange(4))
    yield dict(doc_ids=np.array([12]))


document_mask.leaves_inputs_alone(points=1)


@document_mask.mistake(
    "Each document is kept apart, and inside it everyone sees everyone. What else must a model respect that predicts the next token?"
)
def no_order_within_a_document(doc_ids):
    return doc_ids[:, None] == doc_ids


@document_mask.mistake("Every token sees all documents before its own. Where does your code read `doc_ids`?")
def one_long_text(doc_ids):
    return attn_ref.causal_mask(len(doc_ids), len(doc_ids))


@document_mask.mistake(
    "You compare ids with >=, as if they were positions. With rising ids that opens all earlier documents. When do two tokens belong together?"
)
def ids_compared_by_size(doc_ids):
    return (doc_ids[:, None] >= doc_ids) & attn_ref.causal_mask(len(doc_ids), len(doc_ids))


@document_mask.mistake(
    "No token sees itself. The first of each document is then left with nothing; is it <= or < here?"
)
def without_itself(doc_ids):
    return attn_ref.document_mask(doc_ids) & ~np.eye(len(doc_ids), dtype=bool)


@document_mask.mistake(
    "Your tokens see every document but their own: the comparison of the ids is the wrong way round."
)
def other_documents(doc_ids):
    return (doc_ids[:, None] != doc_ids) & attn_ref.causal_mask(len(doc_ids), len(doc_ids))


@document_mask.mistake("True means *may attend*; yours marks what is hidden.")
def hidden_documents(doc_ids):
    return ~attn_ref.document_mask(doc_ids)


@document_mask.mistake(
    "Your tokens look ahead in their document: the first sees all of it. Which index must be the smaller one?"
)
def looks_ahead_in_the_document(doc_ids):
    return attn_ref.document_mask(doc_ids).T


@document_mask.mistake(
    "A token that comes to a new document is cut off from the one before; with two or more borders between, yours sees across. You ask whether *this* token's neighbour has the same id; do all tokens between have to share it, too?"
)
def only_the_nearest_border(doc_ids):
    n = len(doc_ids)
    same = np.concatenate([[False], doc_ids[1:] == doc_ids[:-1]])
    return np.eye(n, dtype=bool) | (attn_ref.causal_mask(n, n) & same[:, None])


@document_mask.mistake(
    "You count on the ids 0, 1, 2, … in order. Here they are names: any whole numbers, rising or not. What do you need to know of two ids?"
)
def ids_counted_from_zero(doc_ids):
    n = len(doc_ids)
    mask = np.zeros((n, n), dtype=bool)
    for document in range(int(doc_ids.max()) + 1 if doc_ids.max() < n else 0):
        mine = doc_ids == document
        mask |= mine[:, None] & mine & attn_ref.causal_mask(n, n)
    return mask


@document_mask.mistake(
    "Your documents stand in the order of their ids, because np.unique sorts. In the row they stand in any order; can you do without knowing where each begins?"
)
def documents_sorted_by_id(doc_ids):
    mask, start = np.zeros((len(doc_ids), len(doc_ids)), dtype=bool), 0
    for length in np.unique(doc_ids, return_counts=True)[1]:
        mask[start : start + length, start : start + length] = np.tri(length, dtype=bool)
        start += length
    return mask


@document_mask.mistake(
    "You let ids agree nearly: with its usual tolerance `np.isclose` takes 1000003 and 1000004 for one document. Which comparison of whole numbers needs no tolerance?"
)
def ids_nearly_equal(doc_ids):
    return np.isclose(doc_ids[:, None], doc_ids) & attn_ref.causal_mask(len(doc_ids), len(doc_ids))


@document_mask.mistake(
    "Your ids pass through floats, which have 53 bits: 2**60 and 2**60 + 1 become one document. Can you compare them as the whole numbers they are?"
)
def ids_as_floats(doc_ids):
    names = doc_ids.astype(float)
    return (names[:, None] == names) & attn_ref.causal_mask(len(names), len(names))


@document_mask.mistake("The pattern is right, in numbers in place of True and False. Which dtype should a mask have?")
def documents_in_numbers(doc_ids):
    return attn_ref.document_mask(doc_ids).astype(int)


@document_mask.mistake(
    "The mask is right, and the caller's ids have been renumbered. Which line writes into `doc_ids`?"
)
def ids_renumbered(doc_ids):
    mask = attn_ref.document_mask(doc_ids)
    doc_ids -= doc_ids.min() - 1
    return mask


@document_mask.also_right
def both_loops(doc_ids):
    n = len(doc_ids)
    return [[j <= i and bool(doc_ids[i] == doc_ids[j]) for j in range(n)] for i in range(n)]


@document_mask.also_right
def blocks_on_the_diagonal(doc_ids):
    n = len(doc_ids)
    mask = np.zeros((n, n), dtype=bool)
    starts = [i for i in range(n) if i == 0 or doc_ids[i] != doc_ids[i - 1]]
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        mask[start:end, start:end] = np.tri(end - start, dtype=bool)
    return mask


@document_mask.also_right
def by_counting_borders(doc_ids):
    document = np.cumsum(np.concatenate([[0], np.diff(doc_ids) != 0]))
    return np.tril(np.equal.outer(document, document))


document_mask.hints(
    "Two conditions hold for a pair at once. Say both in words before you write them.",
    "“In the same document” compares every id with every id: a column against a row. “Not ahead” is the square mask of 4.1.",
)
document_mask.errors(
    (
        "TypeError: causal_mask() missing 1 required positional argument: 'n_k'",
        "The mask of 4.1 asks for two numbers, of queries and of keys. In a packed row both are the number of tokens.",
    ),
)

# --- 4.5 -------------------------------------------------------------------------------------------------------------


def masked_softmax(scores, mask):
    """Shares among the visible keys.  scores (..., n_k), mask broadcasts to it -> (..., n_k); 0 where hidden"""
    return attn_ref.softmax(np.where(mask, scores, -np.inf))


shares = Exercise(
    "4.5",
    "Shares among the visible",
    reference=masked_softmax,
    minutes=20,
    forbids=(
        "attn_ref.softmax",
        "attn_ref.attention",
        "attn_ref.tiled_attention",
        "attn_ref.flash_forward",
        "attn_ref.attention_packed",
        "scipy.special.softmax",
        "scipy.special.log_softmax",
        "torch.softmax",
        "torch.nn.functional.softmax",
        "numpy.ma",
    ),
)


@shares.probe
def drive_masked_softmax(answer, scores, mask):
    """The shares, and whether those of hidden keys are 0 to the last bit: a tolerance would not tell 1e-12 from it."""
    hidden = ~np.broadcast_to(mask, scores.shape)
    out = answer(scores, mask)
    with np.errstate(all="ignore"):
        zero = np.shape(out) == hidden.shape and not (np.asarray(out)[hidden] != 0).any()
    return {"the result": out, "hidden shares are exactly 0": bool(zero)}


@shares.criterion("the visible keys of each row share 1, and hidden ones get exactly 0", points=2)
def visible_share(rng):
    yield dict(scores=np.array([[0.0, np.log(3.0), 5.0]]), mask=np.array([[True, True, False]]))
    yield dict(
        scores=rng.normal(size=(5, 3)), mask=np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 0]]) == 1
    )
    yield dict(scores=rng.normal(size=(4, 4)), mask=np.tri(4, dtype=bool))
    yield dict(scores=np.array([[1, 2, 4], [0, -3, 2]]), mask=np.array([[True, False, True], [True, True, False]]))


@shares.criterion("the mask may have fewer axes than the scores, or axes of length 1", points=1)
def mask_broadcasts(rng):
    yield dict(scores=rng.normal(size=(2, 3, 5, 4)), mask=np.tri(5, 4, dtype=bool))
    yield dict(scores=rng.normal(size=(3, 5, 4)), mask=attn_ref.padding_mask([4, 1, 2], 4))
    yield dict(scores=rng.normal(size=(6, 4)), mask=np.array([True, False, True, True]))
    yield dict(scores=rng.normal(size=(2, 3, 3)), mask=np.tri(3, dtype=bool)[None])
    yield dict(scores=rng.normal(size=4), mask=np.array([True, True, False, True]))
    yield dict(scores=rng.normal(size=(3, 1)), mask=np.array([True]))


@shares.criterion("scores up to ±100,000 neither overflow nor vanish, not even beside a hidden giant", points=1)
def giants(rng):
    scores = np.array([[-1000.0, -1001.0, 1000.0], [5000.0, 100_000.0, 4999.0], [-100_000.0, -99_999.0, -20_000.0]])
    yield dict(scores=scores, mask=np.array([[True, True, False], [True, False, True], [True, True, False]]))
    yield dict(scores=1000 * rng.normal(size=(3, 5, 4)), mask=np.tri(5, 4, dtype=bool))


@shares.criterion("a row with nothing visible gets 0 everywhere, never NaN", points=2)
def empty_rows(rng):
    yield dict(
        scores=np.array([[5.0, 1.0, 0.0], [2.0, 0.0, 2.0]]), mask=np.array([[False, False, False], [True, False, True]])
    )
    yield dict(scores=rng.normal(size=(2, 5, 3)), mask=attn_ref.causal_mask(5, 3))
    yield dict(scores=rng.normal(size=(3, 2, 4)), mask=attn_ref.padding_mask([0, 4, 2], 4))
    yield dict(scores=rng.normal(size=(3, 1)), mask=np.array([[True], [False], [True]]))
    yield dict(scores=np.array([[3, 1]]), mask=np.array([False]))


shares.leaves_inputs_alone(points=1)


@shares.mistake(
    "Rows with something visible are right. A row of nothing but -1e9 is a row of equal scores, so its keys share equally, though all of them are forbidden. What should such a row give?"
)
def minus_a_billion_put_in(scores, mask):
    return attn_ref.softmax(np.where(mask, scores, -1e9))


@shares.mistake(
    "Where nothing is visible you have lowered every score of the row by the same number, and softmax sees only differences: the mask has no effect. What should such a row give?"
)
def minus_a_billion_added(scores, mask):
    return attn_ref.softmax(scores + np.where(mask, 0.0, -1e9))


@shares.mistake(
    "The row without a visible key gives NaN: its maximum is -inf, and -inf minus -inf has no value. What could be subtracted there, and what could the division meet in place of 0?"
)
def nan_without_a_key(scores, mask):
    hidden = np.where(mask, scores, -np.inf)
    e = np.exp(hidden - hidden.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@shares.mistake(
    "You hide after softmax, when the budget has been spent: hidden keys took their share of the total with them. What do the visible shares of a row sum to?"
)
def hidden_after_softmax(scores, mask):
    return attn_ref.softmax(scores.astype(float)) * mask


@shares.mistake(
    "Softmax over all keys first, then a new total for the visible ones. That is right on paper; beside a hidden score of 100,000 the visible shares are 0 before you come to divide. Whose maximum may be subtracted?"
)
def divided_again_after_softmax(scores, mask):
    w = attn_ref.softmax(scores.astype(float)) * mask
    total = w.sum(axis=-1, keepdims=True)
    return w / np.where(total > 0, total, 1.0)


@shares.mistake(
    "Your hidden scores become 0, and 0 is a score like any other: exp(0) is 1. Which score has an exponential of 0?"
)
def hidden_scores_set_to_zero(scores, mask):
    return attn_ref.softmax((scores * mask).astype(float))


@shares.mistake("Your rows share among the hidden keys. True means *may attend*.")
def among_the_hidden(scores, mask):
    return attn_ref.softmax(np.where(mask, -np.inf, scores))


@shares.mistake(
    "-10,000 is not low enough: some visible scores lie below it, and then a hidden key wins. Is there a number below every score?"
)
def minus_ten_thousand(scores, mask):
    mask = np.broadcast_to(mask, scores.shape)
    return attn_ref.softmax(np.where(mask, scores, -1e4)) * mask.any(axis=-1, keepdims=True)


@shares.mistake(
    "Without a maximum taken away first, exp(1000) is inf and exp(-1000) is 0. Which number may be subtracted from all visible scores of a row?"
)
def no_maximum_subtracted(scores, mask):
    e = np.exp(scores) * mask
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@shares.mistake(
    "Your maximum is never below 0. A row whose visible scores all lie near -100,000 then has only zeros left. From which number does your search for the maximum start?"
)
def a_maximum_of_at_least_zero(scores, mask):
    hidden = np.where(mask, scores, -np.inf)
    e = np.exp(hidden - np.max(hidden, axis=-1, keepdims=True, initial=0.0))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@shares.mistake(
    "You ask once whether anything is visible, for the whole array. An empty row beside a full one still gives NaN: along which axis does that question run?"
)
def emptiness_asked_once(scores, mask):
    if not mask.any():
        return np.zeros(scores.shape)
    hidden = np.where(mask, scores, -np.inf)
    e = np.exp(hidden - hidden.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@shares.mistake(
    "Hidden keys get a share too small to see, and not 0: your fill lies a little below the scores, so its exponential is above 0. Which score has an exponential of exactly 0?"
)
def hidden_a_little_below(scores, mask):
    mask = np.broadcast_to(mask, scores.shape)
    return attn_ref.softmax(np.where(mask, scores, scores.min() - 100.0)) * mask.any(axis=-1, keepdims=True)


@shares.mistake(
    "You subtract one maximum for the whole array. A row that lies thousands below it has only zeros left. Whose maximum does each row need?"
)
def one_maximum_for_every_row(scores, mask):
    hidden = np.where(mask, scores, -np.inf)
    largest = hidden.max()
    e = np.exp(hidden - (0.0 if np.isneginf(largest) else largest))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total > 0, total, 1.0)


@shares.mistake("Your columns share 1. Along which axis do the keys of one query lie?")
def over_the_queries(scores, mask):
    hidden = np.where(mask, scores, -np.inf)
    return attn_ref.softmax(hidden, axis=max(hidden.ndim - 2, 0))


@shares.mistake(
    "A small number in the total keeps 0/0 away and makes each row sum to a little less than 1. Can the total be replaced only where it is 0?"
)
def small_number_in_the_total(scores, mask):
    hidden = np.where(mask, scores, -np.inf)
    largest = hidden.max(axis=-1, keepdims=True)
    e = np.exp(hidden - np.where(np.isneginf(largest), 0.0, largest))
    return e / (e.sum(axis=-1, keepdims=True) + 1e-6)


@shares.mistake(
    "`scores[~mask] = -inf` writes into the caller's scores, and fits only a mask of their very shape. Which function chooses between two arrays and makes a third?"
)
def written_into_the_scores(scores, mask):
    scores[~mask] = -np.inf
    return attn_ref.softmax(scores)


@shares.mistake(
    "Right for a mask as large as the scores. A mask with fewer axes, or an axis of 1, cannot index them: which function broadcasts it?"
)
def masks_of_full_shape_only(scores, mask):
    hidden = scores.astype(float)
    hidden[~mask] = -np.inf
    return attn_ref.softmax(hidden)


@shares.mistake(
    "Right for floats. In an array of whole numbers there is no -inf to write. Which dtype should the copy have?"
)
def whole_numbers_cannot_be_infinite(scores, mask):
    hidden = scores.copy()
    hidden[~np.broadcast_to(mask, scores.shape)] = -np.inf
    return attn_ref.softmax(hidden)


@shares.also_right
def key_by_key(scores, mask):
    scores = np.asarray(scores, dtype=float)
    mask = np.broadcast_to(mask, scores.shape)
    out = np.zeros(scores.shape)
    for row in np.ndindex(*scores.shape[:-1]):
        seen = [j for j in range(scores.shape[-1]) if mask[row][j]]
        if seen:
            top = max(scores[row][j] for j in seen)
            e = {j: np.exp(scores[row][j] - top) for j in seen}
            for j in seen:
                out[row][j] = e[j] / sum(e.values())
    return out.tolist()


@shares.also_right
def low_number_then_multiplied(scores, mask):
    low = np.where(mask, scores, -1e9)
    e = np.exp(low - np.amax(low, -1, keepdims=True)) * mask
    return e / np.maximum(np.add.reduce(e, -1, keepdims=True), 1e-300)


@shares.also_right
def lowest_visible_score_and_nan_mended(scores, mask):
    hidden = scores + np.where(mask, 0.0, -np.inf)
    with np.errstate(invalid="ignore"):
        e = np.exp(hidden - hidden.max(axis=-1)[..., None])
        return np.nan_to_num(e / e.sum(axis=-1)[..., None])


shares.hints(
    "Which score has an exponential of exactly 0? Give that to every hidden key, and the division by the total does the rest.",
    "For the maximum, only visible scores count. In a row without any, the maximum is -inf: put 0 in its place before you subtract.",
    "Hide, subtract, exponentiate, divide. An empty row needs your care twice, at the subtraction and at the division: what should each of them meet there?",
)
shares.errors(
    (
        "RuntimeWarning: invalid value encountered in subtract",
        "-inf minus -inf has no value. It happens where a row's maximum is -inf, that is, where nothing is visible.",
    ),
)

# --- 4.6 -------------------------------------------------------------------------------------------------------------


def cross_attention(x, memory, w_q, w_k, w_v, memory_mask=None):
    """The tokens of x read a memory.  x (..., n, d), memory (..., m, d_m) -> (..., n, c)"""
    scores = attn_ref.attention_scores(x @ w_q, memory @ w_k)
    if memory_mask is not None:
        scores = np.where(memory_mask[..., None, :], scores, -np.inf)
    return attn_ref.softmax(scores) @ (memory @ w_v)


reads_memory = Exercise("4.6", "Read another text", reference=cross_attention, minutes=12)


def two_texts(rng, n, m, d, d_m, a, c, lead=()):
    """Random arguments of the shapes that the exercise names."""
    return dict(
        x=rng.normal(size=(*lead, n, d)),
        memory=rng.normal(size=(*lead, m, d_m)),
        w_q=rng.normal(size=(d, a)) / d**0.5,  # scores near 1, so that the shares show every difference
        w_k=rng.normal(size=(d_m, a)) / d_m**0.5,
        w_v=rng.normal(size=(d_m, c)),
    )


@reads_memory.criterion("queries come from x, keys and values from the memory", points=2)
def from_two_texts(rng):
    one = np.array([[1.0]])
    yield dict(x=one, memory=np.array([[np.log(3.0)], [0.0]]), w_q=one, w_k=one, w_v=np.array([[1.0, 2.0]]))
    yield two_texts(rng, n=5, m=3, d=4, d_m=6, a=7, c=2)
    yield two_texts(rng, n=4, m=4, d=3, d_m=3, a=3, c=3)
    yield two_texts(rng, n=4, m=6, d=5, d_m=5, a=2, c=3) | dict(w_v=40 * rng.normal(size=(5, 3)))
    yield two_texts(rng, n=1, m=1, d=2, d_m=3, a=1, c=4)


@reads_memory.criterion("leading axes are batches", points=1)
def batches_of_texts(rng):
    yield two_texts(rng, n=5, m=3, d=4, d_m=6, a=7, c=2, lead=(2,))
    yield two_texts(rng, n=2, m=4, d=3, d_m=2, a=5, c=3, lead=(2, 3))
    yield two_texts(rng, n=3, m=3, d=3, d_m=3, a=3, c=3, lead=(3,))


@reads_memory.criterion("a mask (m,) or (..., m) hides keys of the memory from every query", points=1)
def masked_memory(rng):
    yield two_texts(rng, n=5, m=3, d=4, d_m=6, a=7, c=2) | dict(memory_mask=np.array([True, False, True]))
    yield two_texts(rng, n=2, m=4, d=3, d_m=3, a=2, c=3, lead=(3,)) | dict(
        memory_mask=np.array([True, True, False, True])
    )
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    yield two_texts(rng, n=2, m=4, d=3, d_m=5, a=2, c=3, lead=(2,)) | dict(memory_mask=mask)  # as many texts as queries
    yield two_texts(rng, n=5, m=4, d=3, d_m=5, a=2, c=3, lead=(2,)) | dict(memory_mask=mask)
    square = np.array([[True, False, True], [False, True, True], [True, True, False]])
    yield two_texts(rng, n=3, m=3, d=3, d_m=3, a=3, c=3, lead=(3,)) | dict(memory_mask=square)
    yield two_texts(rng, n=5, m=4, d=3, d_m=2, a=2, c=1, lead=(3, 2)) | dict(memory_mask=rng.random((3, 2, 4)) < 0.7)


@reads_memory.criterion("from a memory that is hidden altogether everyone reads 0", points=1)
def empty_memory(rng):
    yield two_texts(rng, n=4, m=3, d=4, d_m=4, a=2, c=5) | dict(memory_mask=np.zeros(3, dtype=bool))
    mask = np.array([[False, False], [True, False], [True, True]])
    yield two_texts(rng, n=4, m=2, d=3, d_m=5, a=2, c=4, lead=(3,)) | dict(memory_mask=mask)


reads_memory.leaves_inputs_alone(points=1)


@reads_memory.mistake(
    "Keys and values come from x: this is self-attention, and the memory is never read. Which of the two texts is being asked, and which one asks?"
)
def keys_and_values_from_x(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, x @ w_k, x @ w_v, allowed=allowed)


@reads_memory.mistake(
    "Your values come from x. The keys say where in the memory to read; what is read has to come from there, too."
)
def values_from_x(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, x @ w_v, allowed=allowed)


@reads_memory.mistake(
    "The memory asks and x is read: the two have changed places. How many rows should the result have, n or m?"
)
def the_memory_asks(x, memory, w_q, w_k, w_v, memory_mask=None):
    return attn_ref.attention(memory @ w_q, x @ w_k, x @ w_v)


@reads_memory.mistake(
    "You hide the end of the memory from the first tokens, as if both texts stood on one line. The memory is known as a whole before the first word is written: what would a causal mask protect?"
)
def causal_towards_the_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed, causal=True)


@reads_memory.mistake(
    "The scale is wrong: 1/√a, where a is the length of the projected queries. You take the length of x."
)
def scaled_by_the_width_of_x(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed, scale=x.shape[-1] ** -0.5)


@reads_memory.mistake(
    "The scale is wrong: 1/√a, where a is the length of the projected queries. You take the length of the memory's tokens."
)
def scaled_by_the_width_of_the_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed, scale=memory.shape[-1] ** -0.5)


@reads_memory.mistake("You divide the scores by a. Which function of a does the exercise name?")
def root_left_out(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed, scale=1 / w_q.shape[1])


@reads_memory.mistake("The scores are not scaled. By what does chapter 02 divide them, and which length is a here?")
def scores_not_scaled(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed, scale=1.0)


@reads_memory.mistake("Without a mask all is right; with one nothing changes. Where does your code read `memory_mask`?")
def memory_mask_ignored(x, memory, w_q, w_k, w_v, memory_mask=None):
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v)


@reads_memory.mistake("Your queries read what is hidden and nothing else. True means *may attend*.")
def hidden_memory_read(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else ~memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)


@reads_memory.mistake(
    "For one text the mask is right. With a batch, its rows (B, m) meet the scores (B, n, m) as if they were queries; where B = n, not even an error tells. Which axis of length 1 is missing?"
)
def mask_rows_taken_for_queries(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = attn_ref.attention_scores(x @ w_q, memory @ w_k)
    if memory_mask is not None:
        scores = np.where(memory_mask, scores, -np.inf)
    return attn_ref.softmax(scores) @ (memory @ w_v)


@reads_memory.mistake(
    "You pass the mask on as it came. (m,) fits the scores (..., n, m) by luck; the rows of (B, m) are taken for queries. Which axis of length 1 is missing?"
)
def mask_passed_as_it_came(x, memory, w_q, w_k, w_v, memory_mask=None):
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=memory_mask)


@reads_memory.mistake(
    "`[:, None, :]` asks for a mask of two axes, and yours may have one, or three. Which index stands for any number of leading axes?"
)
def mask_of_two_axes_only(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[:, None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)


@reads_memory.mistake(
    "`if memory_mask` asks an array of many truth values for one. You want to know whether a mask was given at all: with what do you compare it?"
)
def mask_asked_for_its_truth(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = memory_mask[..., None, :] if memory_mask else None
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)


@reads_memory.mistake(
    "A mask that hides everything is treated like no mask at all, and the whole memory is read. Which of your conditions lets that through?"
)
def nothing_visible_taken_for_no_mask(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None or not memory_mask.any() else memory_mask[..., None, :]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)


@reads_memory.mistake(
    "Your mask stands upright: it hides queries and not keys, and fits only where both texts are of one length. Along which axis of the scores does the memory lie?"
)
def mask_for_the_queries(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., :, None]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)


@reads_memory.mistake(
    "You set hidden tokens of the memory to 0. Their keys are then 0 and their scores are 0, which is a score like any other: they still take a share. What hides a score from softmax?"
)
def hidden_memory_set_to_zero(x, memory, w_q, w_k, w_v, memory_mask=None):
    if memory_mask is not None:
        memory = memory * memory_mask[..., None]
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v)


@reads_memory.mistake(
    "Hidden keys lose their share after softmax, and nobody gets it: the rows no longer sum to 1. Before which step must a key be hidden?"
)
def shares_cut_afterwards(x, memory, w_q, w_k, w_v, memory_mask=None):
    weights = attn_ref.softmax(attn_ref.attention_scores(x @ w_q, memory @ w_k))
    if memory_mask is not None:
        weights = weights * memory_mask[..., None, :]
    return weights @ (memory @ w_v)


@reads_memory.mistake(
    "Where the whole memory is hidden you return the average of all its values: that is what -1e9 in every place gives. What does nothing to read give?"
)
def average_of_a_hidden_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = attn_ref.attention_scores(x @ w_q, memory @ w_k)
    if memory_mask is not None:
        scores = np.where(memory_mask[..., None, :], scores, -1e9)
    return attn_ref.softmax(scores) @ (memory @ w_v)


@reads_memory.mistake(
    "Where the whole memory is hidden you read it as if there were no mask: -1e9 added to every score of a row changes no difference. What does nothing to read give?"
)
def hidden_memory_lowered_alike(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = attn_ref.attention_scores(x @ w_q, memory @ w_k)
    if memory_mask is not None:
        scores = scores + np.where(memory_mask, 0.0, -1e9)[..., None, :]
    return attn_ref.softmax(scores) @ (memory @ w_v)


@reads_memory.mistake(
    "Where the whole memory is hidden you return NaN: a row of nothing but -inf met a softmax that does not expect it."
)
def nan_from_a_hidden_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = attn_ref.attention_scores(x @ w_q, memory @ w_k)
    if memory_mask is not None:
        scores = np.where(memory_mask[..., None, :], scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True) @ (memory @ w_v)


@reads_memory.mistake(
    "The result is right, and the caller's memory has been written to. Which line changes it in place?"
)
def memory_overwritten(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else memory_mask[..., None, :]
    out = attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)
    if memory_mask is not None:
        memory *= memory_mask[..., None]
    return out


@reads_memory.also_right
def in_one_call(x, memory, w_q, w_k, w_v, memory_mask=None):
    allowed = None if memory_mask is None else np.expand_dims(memory_mask, -2)
    return attn_ref.attention(x @ w_q, memory @ w_k, memory @ w_v, allowed=allowed)


@reads_memory.also_right
def query_by_query(x, memory, w_q, w_k, w_v, memory_mask=None):
    lead, n, m = x.shape[:-2], x.shape[-2], memory.shape[-2]
    seen = np.ones((*lead, m), dtype=bool) if memory_mask is None else np.broadcast_to(memory_mask, (*lead, m))
    out = np.zeros((*lead, n, w_v.shape[1]))
    for index in np.ndindex(*lead):
        for i in range(n):
            q = x[index][i] @ w_q
            e = {j: np.exp(q @ (memory[index][j] @ w_k) / len(q) ** 0.5) for j in range(m) if seen[index][j]}
            for j, share in e.items():
                out[index][i] += share / sum(e.values()) * (memory[index][j] @ w_v)
    return out


@reads_memory.also_right
def folded_matrices_and_einsum(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = np.einsum("...qd,de,...ke->...qk", x, w_q @ w_k.T, memory, optimize=True) / np.sqrt(w_q.shape[1])
    if memory_mask is not None:
        scores = scores + np.where(memory_mask, 0.0, -np.inf)[..., None, :]
    return np.einsum("...qk,...ke->...qe", attn_ref.softmax(scores), memory @ w_v)


reads_memory.hints(
    "Three matrices, two texts. Which text asks, and which one is found and read?",
    "With q, k and v at hand this is attention as in chapter 02. The scores are (..., n, m), so the mask needs an axis of length 1 in the place of the queries.",
)
reads_memory.errors(
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0, with gufunc signature (n?,k),(k,m?)-&gt;(n?,m?) (size 6 is different from 4)",
        "A text has met a matrix that is not made for it. w_q has as many rows as x is wide; w_k and w_v have as many as the memory is wide.",
    ),
)

# --- 4.7 -------------------------------------------------------------------------------------------------------------


def leaks_future(attend):
    """Does some row of attend(q, k, v) change when the query, key or value of a later token does?  -> bool"""
    rng = np.random.default_rng(4)
    n = 20
    for size in (1.0, 300.0):  # large scores bring out what a small score hides
        now = size * rng.normal(size=(3, n, 4))
        before = np.asarray(attend(*now))
        for cut in range(1, n):
            for part in range(3):  # queries, keys, values: each alone
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(n - cut, 4))
                after = np.asarray(attend(*changed))[:cut]
                if not np.allclose(before[:cut], after, rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


detector = Exercise("4.7", "A detector for leaks", reference=leaks_future, minutes=40)


def shares_of(scores, seen):
    """The weights of an honest softmax over what is seen."""
    return attn_ref.softmax(np.where(seen, scores, -np.inf))


def cut_off_afterwards(scores, v, i, j, m):
    return (attn_ref.softmax(scores) * (j <= i)) @ v


def values_centred(scores, v, i, j, m):
    return shares_of(scores, j <= i) @ (v - v.mean(axis=0))


def values_scaled(scores, v, i, j, m):
    return shares_of(scores, j <= i) @ (v / np.sqrt((v * v).mean()))


def shared_down_the_columns(scores, v, i, j, m):
    return attn_ref.softmax(np.where(j <= i, scores, -np.inf), axis=0) @ v


def empty_row_averaged(scores, v, i, j, m):
    return attn_ref.softmax(np.where(j < i, scores, -1e9)) @ v


def faint(scores, v, i, j, m):
    out = np.abs(v) + np.maximum.accumulate(np.abs(v).max(axis=-1, keepdims=True))  # large beside what is added
    out[m:-1] += 1e-6 * v[m + 1 :]
    return out


def one_value_ahead(scores, v, i, j, m):
    out = v.copy()
    out[m - 1 : len(v) - 1][:1] += v[m:][:1]
    return out


def last_column_ahead(scores, v, i, j, m):
    out = v.copy()
    out[:-1, -1] += v[1:, -1]
    return out


def nan_ahead(scores, v, i, j, m):
    out = v.copy()
    out[:-1][v[1:] > 0] = np.nan
    return out


def heard_when_quiet(scores, v, i, j, m):
    return v + np.roll(v, -1, axis=0) * (i < len(v) - 1) * (np.abs(v).max() < 20)


def sign_ahead(scores, v, i, j, m):
    return v + np.sign(np.roll(v, -1, axis=0)) * (i < len(v) - 1)


def absolute_ahead(scores, v, i, j, m):
    return v + np.abs(np.roll(v, -1, axis=0)) * (i < len(v) - 1)


def divided_by_n(scores, v, i, j, m):
    return v / len(v)


def hidden_maximum(scores, v, i, j, m):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True)) * (j <= i)
    return (e / e.sum(axis=-1, keepdims=True)) @ v


def penalty(scores, v, i, j, m):
    return attn_ref.softmax(scores - m * (j > i)) @ v


def rounded_another_way(scores, v, i, j, m):
    return (shares_of(scores, j <= i) @ v) * (1 + 4e-16 * np.sign(np.sin(1e3 * v.sum())))


def mean_so_far(scores, v, i, j, m):
    return np.cumsum(v, axis=0) / (i + 1)


# What each function of the zoo lets a query at i see of the keys at j; m is a distance or a size. Those that no mask
# describes are functions.
LEAKY = {
    "no mask at all": lambda i, j, m: j >= 0 * i,
    "one key too many": lambda i, j, m: j <= i + 1,
    "a window to both sides": lambda i, j, m: abs(i - j) < m,
    "documents in which all see all": lambda i, j, m: i // m == j // m,
    "a prefix that sees itself whole": lambda i, j, m: (j <= i) | (j < m),
    "one key far ahead": lambda i, j, m: (j <= i) | (j == i + m),
    "the last token, seen from the one before": lambda i, j, m: (j <= i) | ((i == i.max() - 1) & (j == i.max())),
    "the first token, which sees all": lambda i, j, m: (j <= i) | (i == 0),
    "chunks, each against all keys": lambda i, j, m: j <= i % m + len(i) - m,
    "hidden after the softmax": cut_off_afterwards,
    "values centred over the whole text": values_centred,
    "values divided by their size over the whole text": values_scaled,
    "shared down the columns": shared_down_the_columns,
    "an empty row filled with -1e9": empty_row_averaged,
    "a millionth of the next value": faint,
    "the maximum of hidden scores subtracted": hidden_maximum,
    "a penalty of 10,000 in place of -inf": penalty,
    "a penalty of 50,000 in place of -inf": penalty,
    "one row that adds the next value": one_value_ahead,
    "the row before the last, which adds the last value": one_value_ahead,
    "NaN where the next value is positive": nan_ahead,
    "the next value while all values are small": heard_when_quiet,
    "the next value in the last column": last_column_ahead,
    "the signs of the next value": sign_ahead,
    "the absolute values of the next value": absolute_ahead,
}
HONEST = {
    "a causal mask": lambda i, j, m: j <= i,
    "a window": lambda i, j, m: (j <= i) & (j > i - m),
    "documents in order": lambda i, j, m: (j <= i) & (i // m == j // m),
    "itself alone": lambda i, j, m: j == i,
    "only what came before, the first row empty": lambda i, j, m: j < i,
    "only what lies far back, the first rows empty": lambda i, j, m: j <= i - m,
    "nothing at all": lambda i, j, m: j < 0 * i,
    "chunks, each against the first keys": lambda i, j, m: j <= i % m,
    "rounding that comes and goes": rounded_another_way,
    "the mean so far": mean_so_far,
    "values divided by n": divided_by_n,
}
NO_MASK = (
    cut_off_afterwards, values_centred, values_scaled, shared_down_the_columns, empty_row_averaged, faint,
    hidden_maximum, penalty, rounded_another_way, mean_so_far, one_value_ahead, last_column_ahead, sign_ahead,
    absolute_ahead, divided_by_n, nan_ahead, heard_when_quiet,
)  # fmt: skip


@detector.probe
def drive_leaks_future(answer, kind, m=3):
    """The detector's word on one function of the zoo, which bears no telling name."""
    rule = (LEAKY | HONEST)[kind]

    def attend(q, k, v):
        q, k, v = (np.asarray(x, dtype=float) for x in (q, k, v))
        i, j = np.arange(len(q))[:, None], np.arange(len(k))
        with np.errstate(all="ignore"):
            scores = q @ k.T / np.sqrt(q.shape[-1])
            return rule(scores, v, i, j, m) if rule in NO_MASK else shares_of(scores, rule(i, j, m)) @ v

    verdict = answer(attend)
    return {f"{'leaky' if kind in LEAKY else 'honest'}, {kind}": verdict}


@detector.criterion("a missing mask and one key too many are caught; a causal mask passes", points=2)
def plain_animals(rng):
    yield dict(kind="a causal mask")
    yield dict(kind="no mask at all")
    yield dict(kind="one key too many")


@detector.criterion(
    "leaks through queries, keys or values, signs or absolute values alone are caught; seeing only oneself passes",
    points=1,
)
def one_way_in(rng):
    yield dict(kind="itself alone")
    yield dict(kind="hidden after the softmax")
    yield dict(kind="values centred over the whole text")
    yield dict(kind="values divided by their size over the whole text")
    yield dict(kind="shared down the columns")
    yield dict(kind="the signs of the next value")
    yield dict(kind="the absolute values of the next value")


@detector.criterion("leaks in one place only are caught; a mean over all that came before passes", points=1)
def one_place(rng):
    yield dict(kind="the mean so far")
    yield dict(kind="the first token, which sees all")
    yield dict(kind="the last token, seen from the one before")
    yield dict(kind="one row that adds the next value", m=1)
    yield dict(kind="one row that adds the next value", m=2)
    yield dict(kind="the row before the last, which adds the last value", m=-1)
    yield dict(kind="the next value in the last column")
    yield dict(kind="one key far ahead", m=4)
    yield dict(kind="one key far ahead", m=int(rng.integers(8, 11)))
    yield dict(kind="one key far ahead", m=15)
    yield dict(kind="an empty row filled with -1e9")
    yield dict(kind="a prefix that sees itself whole", m=int(rng.integers(2, 5)))


@detector.criterion(
    "faint leaks, and those that take large or small numbers or give NaN, are caught; rounding passes", points=1
)
def hard_to_see(rng):
    yield dict(kind="rounding that comes and goes")
    yield dict(kind="a millionth of the next value", m=8)
    yield dict(kind="the maximum of hidden scores subtracted")
    yield dict(kind="the next value while all values are small")
    yield dict(kind="NaN where the next value is positive")
    yield dict(kind="a penalty of 10,000 in place of -inf", m=10_000)
    yield dict(kind="a penalty of 50,000 in place of -inf", m=50_000)


@detector.criterion("windows, documents, chunks and empty rows pass if they are honest, and not if they leak", points=1)
def look_alikes(rng):
    m = int(rng.integers(3, 6))
    yield dict(kind="a window", m=m)
    yield dict(kind="a window to both sides", m=m)
    yield dict(kind="documents in order", m=m)
    yield dict(kind="documents in which all see all", m=m)
    yield dict(kind="chunks, each against the first keys", m=m)
    yield dict(kind="chunks, each against all keys", m=m)
    yield dict(kind="only what came before, the first row empty")
    yield dict(kind="only what lies far back, the first rows empty", m=m)
    yield dict(kind="nothing at all")
    yield dict(kind="values divided by n")


@detector.mistake(
    "You change later values and leave the keys and queries. A later key can shift the weights without its value being read at all: what if the key alone has changed?"
)
def only_values_changed(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        q, k, v = size * rng.normal(size=(3, 20, 4))
        before = attend(q, k, v)
        for cut in range(1, 20):
            other = v.copy()
            other[cut:] = size * rng.normal(size=(20 - cut, 4))
            if not np.allclose(before[:cut], attend(q, k, other)[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "You change later keys and leave the values as they are. What about a function whose weights are honest, and which mixes later values into earlier ones?"
)
def only_keys_changed(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        q, k, v = size * rng.normal(size=(3, 20, 4))
        before = attend(q, k, v)
        for cut in range(1, 20):
            other = k.copy()
            other[cut:] = size * rng.normal(size=(20 - cut, 4))
            if not np.allclose(before[:cut], attend(q, other, v)[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "You never change a later query. Where softmax runs down the columns, a key's share is divided among all queries, later ones too. Is a token's query any less of its future than its key?"
)
def queries_never_changed(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        q, k, v = size * rng.normal(size=(3, 20, 4))
        before = attend(q, k, v)
        for cut in range(1, 20):
            keys, values = k.copy(), v.copy()
            keys[cut:] = size * rng.normal(size=(20 - cut, 4))
            values[cut:] = size * rng.normal(size=(20 - cut, 4))
            if not np.allclose(before[:cut], attend(q, keys, values)[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "You change the last token alone. A leak may run from the second token to the first and from nowhere else: which tokens are the future of row 0?"
)
def only_the_last_token(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        for other in size * rng.normal(size=(20, 3, 4)):
            changed = now.copy()
            changed[:, -1] = other
            if not np.allclose(attend(*now)[:-1], attend(*changed)[:-1], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake("You look at row 0 alone. May the other rows see what they like?")
def only_the_first_row(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        for others in size * rng.normal(size=(20, 3, 19, 4)):
            changed = now.copy()
            changed[:, 1:] = others
            if not np.allclose(attend(*now)[0], attend(*changed)[0], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "Your verdict falls after the first round: a `return False` stands inside the loop. When do you know that no round finds a leak?"
)
def verdict_after_the_first_round(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.normal(size=(3, 20 - cut, 4))
            return not np.allclose(before[:cut], attend(*changed)[:cut], rtol=0, atol=1e-9 * size, equal_nan=True)


@detector.mistake(
    "You change what lies before the cut and compare what comes after it. That finds who depends on the past, which everyone may. Which side is the future of a row?"
)
def past_changed(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, :cut] = size * rng.normal(size=(3, cut, 4))
            if not np.allclose(before[cut:], attend(*changed)[cut:], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "Your numbers are all positive. Then no sign ever changes, and scores lie closer together than they could. Which numbers have both signs?"
)
def positive_numbers_only(attend):
    rng = np.random.default_rng(3)
    for size in (1.0, 300.0):
        now = size * rng.random(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.random(size=(3, 20 - cut, 4))
            if not np.allclose(before[:cut], attend(*changed)[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "You cut the text once, in the middle. What leaks within the first half, or within the second, goes unseen. How many places are there to cut 16 tokens?"
)
def one_cut_in_the_middle(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 30, 4))
        for others in size * rng.normal(size=(20, 3, 15, 4)):
            changed = now.copy()
            changed[:, 15:] = others
            if not np.allclose(attend(*now)[:15], attend(*changed)[:15], rtol=0, atol=1e-9 * size, equal_nan=True):
                return True
    return False


@detector.mistake(
    "Your text is too short: a leak may reach nine tokens ahead, and in a text of 8 there is no such token. How long a text does the exercise name?"
)
def text_of_eight_tokens(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 8, 4))
        before = attend(*now)
        for cut in range(1, 8):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(8 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "Your text is nearly long enough: token 0 may see token 15 and no other. How long does a text have to be for that?"
)
def text_of_twelve_tokens(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 12, 4))
        before = attend(*now)
        for cut in range(1, 12):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(12 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "With numbers near 1 the scores are near 1 too. A penalty of 10,000 hides those well, and lets a score of 50,000 through. Which sizes of input does your detector try?"
)
def one_size_of_numbers(attend):
    rng = np.random.default_rng(0)
    for size in (1.0,):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "Large numbers alone: with scores in the tens of thousands one key of each row takes everything, and a leak from another has no weight to show itself. Which numbers give every key a share?"
)
def only_large_numbers(attend):
    rng = np.random.default_rng(3)
    for size in (300.0,):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "Your numbers are too small: with inputs near 30 the scores come to a few thousand, and a penalty of 10,000 still hides them. How large do inputs have to be for scores of 50,000 and more?"
)
def sizes_up_to_thirty(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 30.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "Large scores, and not large enough: with inputs near 100 they come to some 20,000, and one function gives way only where a hidden score leads by 50,000. How large may your inputs be?"
)
def sizes_up_to_a_hundred(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 100.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "Row 0 may see token 1 and nothing else, and you never change token 1 while you look at row 0. What is the first place where a text can be cut?"
)
def first_cut_left_out(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(2, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "The row before the last may see the last token and nothing else. What is the last place where your text can be cut?"
)
def last_cut_left_out(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 19):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You cut at every second place. A row just before one of the others may see the next token alone: how many cuts has a text of n tokens?"
)
def every_second_cut(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20, 2):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You turn the future round, x to -x. A function that hears only absolute values gives the same for both: which change leaves nothing as it was?"
)
def future_negated(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] *= -1
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "The signs of your future never change: you multiply it by a positive number, or draw positive numbers alone. A function that hears only signs gives the same for both: which change leaves nothing as it was?"
)
def future_doubled(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] *= 2
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You put the later tokens into another order. A sum or a mean over them does not notice: it needs other numbers, not the same ones elsewhere."
)
def future_shuffled(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = rng.permutation(changed[part, cut:])
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You compare column 0 alone, or change it alone. A leak may lie in another column: how much of each earlier row has to stay, and how much of a later token may change?"
)
def first_column_compared(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut, 0], after[:cut, 0], rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You change one token and look at the row before it alone. A leak may jump further: which rows must not move when token 15 changes?"
)
def only_the_row_before(attend):
    rng = np.random.default_rng(1)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for token in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, token] = size * rng.normal(size=4)
                row = attend(*changed)[token - 1]
                if not np.allclose(before[token - 1], row, rtol=0, atol=1e-9 * size, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You leave the later tokens out and compare with the whole text. An honest function may depend on n, the number of tokens, and then you accuse it. How can the future change while the text keeps its length?"
)
def later_tokens_left_out(attend):
    rng = np.random.default_rng(2)
    for size in (2.0, 400.0):
        for _ in range(5):
            q, k, v = size * rng.standard_normal((3, 24, 2))
            whole = attend(q, k, v)
            for n in range(1, 24):
                part = attend(q[:n], k[:n], v[:n])
                if not np.allclose(part, whole[:n], rtol=0, atol=1e-8, equal_nan=True):
                    return True
    return False


@detector.mistake(
    "You ask for equality to the last bit, and accuse a function whose 16th digit moves. How much difference is rounding, and from how much on is it a leak?"
)
def equal_to_the_last_bit(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.normal(size=(3, 20 - cut, 4))
            if not np.array_equal(before[:cut], attend(*changed)[:cut], equal_nan=True):
                return True
    return False


@detector.mistake(
    "A millionth of the next value slips through your tolerance. np.allclose allows a hundred-thousandth unless you say otherwise: which tolerance lies between a millionth and rounding?"
)
def tolerance_left_as_it_is(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            for part in range(3):
                changed = now.copy()
                changed[part, cut:] = size * rng.normal(size=(20 - cut, 4))
                after = attend(*changed)
                if not np.allclose(before[:cut], after[:cut], equal_nan=True):
                    return True
    return False


@detector.mistake(
    "One leaky function turns into NaN when a later score is large, and NaN > tolerance is False: the worst of all changes counts as none. How do you ask so that NaN counts as a change?"
)
def blind_to_nan(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.normal(size=(3, 20 - cut, 4))
            moved = np.abs(before[:cut] - attend(*changed)[:cut])
            if (moved > 1e-9 * size).any() and not np.isnan(moved).any():
                return True
    return False


@detector.mistake(
    "You compare with causal attention, and so accuse everyone who sees less than that, such as a window. A detector need not know what a function should compute: what has to stay the same when the future changes?"
)
def compared_with_causal_attention(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        q, k, v = size * rng.normal(size=(3, 20, 4))
        if not np.allclose(attend(q, k, v), attn_ref.attention(q, k, v, causal=True), rtol=0, atol=1e-9 * size):
            return True
    return False


@detector.mistake(
    "You poison the future with NaN and look for NaN in the past. A hidden value still enters a matrix product, with the weight 0, and 0 · NaN is NaN: honest functions look guilty. Which numbers may you pass?"
)
def poisoned_with_nan(attend):
    rng = np.random.default_rng(0)
    for part in range(3):
        for cut in range(1, 20):
            poisoned = rng.normal(size=(3, 20, 4))
            poisoned[part, cut:] = np.nan
            if np.isnan(attend(*poisoned)[:cut]).any():
                return True
    return False


@detector.mistake(
    "You accuse everyone: a row that you compare has been changed itself. Do you count the row of the changed token among those that must not move? Or is your changed array another name for the first one, in which the change of an earlier cut still stands?"
)
def own_row_counted(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.normal(size=(3, 20 - cut, 4))
            if not np.allclose(
                before[: cut + 1], attend(*changed)[: cut + 1], rtol=0, atol=1e-9 * size, equal_nan=True
            ):
                return True
    return False


@detector.mistake(
    "You find no leak anywhere. Is your changed array a copy, or another name for the first one? Then both calls get the same numbers."
)
def changed_without_a_copy(attend):
    rng = np.random.default_rng(0)
    now = rng.normal(size=(3, 20, 4))
    for cut in range(1, 20):
        changed = now
        changed[:, cut:] = rng.normal(size=(3, 20 - cut, 4))
        if not np.allclose(attend(*now)[:cut], attend(*changed)[:cut], rtol=0, atol=1e-9, equal_nan=True):
            return True
    return False


@detector.mistake("Your verdicts are the wrong way round: True means that it leaks.")
def true_for_the_honest(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.normal(size=(3, 20 - cut, 4))
            if not np.allclose(before[:cut], attend(*changed)[:cut], rtol=0, atol=1e-9 * size, equal_nan=True):
                return False
    return True


@detector.mistake(
    "You pass the identity as values and read the weights off the output. A good idea, and it sees only what is read in the end: a later key that changed the total leaves no weight above the diagonal. What if it is changed?"
)
def weights_read_off(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        q, k = size * rng.normal(size=(2, 20, 4))
        if np.triu(np.nan_to_num(attend(q, k, np.eye(20)), nan=1.0), 1).any():
            return True
    return False


@detector.mistake(
    "Queries and keys you change; the values stay the identity. What if a function divides all values by their size over the whole text? With one and the same table that size never moves."
)
def values_always_the_identity(attend):
    rng = np.random.default_rng(0)
    for size in (1.0, 300.0):
        q, k = size * rng.normal(size=(2, 20, 20))
        before = attend(q, k, np.eye(20))
        if np.triu(np.nan_to_num(before, nan=1.0), 1).any():
            return True
        for cut in range(1, 20):
            q_new, k_new = size * rng.normal(size=(2, 20, 20))
            q_new[:cut], k_new[:cut] = q[:cut], k[:cut]
            after = attend(q_new, k_new, np.eye(20))[:cut]
            if not np.allclose(before[:cut], after, rtol=0, atol=1e-9, equal_nan=True):
                return True
    return False


@detector.mistake("You return a verdict for every row. One answer is asked for: does any row leak?")
def a_verdict_for_each_row(attend):
    rng = np.random.default_rng(0)
    leaky = np.zeros(20, dtype=bool)
    for size in (1.0, 300.0):
        now = size * rng.normal(size=(3, 20, 4))
        before = attend(*now)
        for cut in range(1, 20):
            changed = now.copy()
            changed[:, cut:] = size * rng.normal(size=(3, 20 - cut, 4))
            same = np.isclose(before, attend(*changed), rtol=0, atol=1e-9 * size, equal_nan=True)
            leaky[:cut] |= ~same[:cut].all(axis=-1)
    return leaky


@detector.also_right
def token_by_token(attend):
    rng = np.random.default_rng(1)
    for size in (1, 500):
        q, k, v = (rng.uniform(-size, size, size=(16, width)) for width in (3, 3, 5))
        before = attend(q, k, v)
        for token in range(1, 16):
            for _ in range(4):
                changed = [x.copy() for x in (q, k, v)]
                for x in changed:
                    x[token] = rng.uniform(-size, size, size=x.shape[1])
                after = attend(*changed)
                for row in range(token):
                    for a, b in zip(before[row], after[row], strict=True):
                        if not (abs(a - b) <= 1e-10 * size or (a != a and b != b)):
                            return True
    return False


@detector.also_right
def all_at_once_for_each_cut(attend):
    n, found = 32, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        size = 10.0 ** (seed % 2 * 2.5)
        first, second = size * rng.normal(size=(2, 3, n, 3))
        for cut in range(1, n):
            mixed = np.where(np.arange(n)[:, None] < cut, first, second)
            gap = attend(*first)[:cut] - attend(*mixed)[:cut]
            both_nan = np.isnan(attend(*first)[:cut]) & np.isnan(attend(*mixed)[:cut])
            found.append(not bool((both_nan | (np.abs(gap) < 1e-8)).all()))
    return any(found)


detector.hints(
    "Choose q, k and v, call attend, and note the result. Change what lies in the future of some row and call again. What has to be the same?",
    "Do so for every place where the text can be cut: change queries, keys and values from the cut on, and compare the rows before it. Change copies.",
    "Do it all twice, with numbers near 1 and with numbers in the hundreds. Say what counts as a change: more than rounding, less than a millionth, or NaN on one side only.",
)
detector.errors(
    (
        "ValueError: The truth value of an array with more than one element is ambiguous",
        "A comparison of two arrays gives a truth value for every entry. <code>.any()</code> or <code>.all()</code> makes one of them.",
    ),
)

# --- Check yourself --------------------------------------------------------------------------------------------------

bottom_right = Quiz(
    "4.a",
    "A model has read 100 tokens and now reads 4 more, with all 104 keys at hand. How many keys does the first of the 4 queries see under a causal mask?",
    {
        "a": (
            "1",
            "That is the mask aligned at the top left: it takes the first new query for the first token of the text. The query stands at position 100.",
        ),
        "b": (
            "100",
            "These are the keys before it. A query sees its own key too, or the first token of a text would see nothing.",
        ),
        "c": ("101", "Yes: query 0 stands at position 0 + 104 - 4 = 100, and sees the keys 0 to 100."),
        "d": ("104", "Only the last of the four sees all keys; the first would see three tokens of its own future."),
    },
    right="c",
)

after_softmax = Quiz(
    "4.b",
    "Someone computes softmax over all keys and then multiplies the weights by the causal mask. What is true?",
    {
        "a": (
            "The weights of later keys are 0, so nothing leaks.",
            "No later value is read, and yet later keys stand in the total that each row was divided by. Change a later key, and an earlier row changes.",
        ),
        "b": (
            "Rows sum to less than 1, and later keys still have an influence.",
            "Yes: the hidden keys took their share of the total with them. The influence comes through the keys alone, which is why a detector must change those, too.",
        ),
        "c": (
            "It is the same as hiding before softmax.",
            "It would be after a second division by what is left of each row, and even then only while no hidden score is so large that the visible shares vanish.",
        ),
        "d": (
            "The first row becomes NaN.",
            "The first token sees itself, so its row holds one weight above 0. NaN comes from a row in which every score is -inf.",
        ),
    },
    right="b",
)

polarity = Quiz(
    "4.c",
    "A padding mask (B, n) with True on the text is passed to nn.MultiheadAttention as key_padding_mask. What happens?",
    {
        "a": (
            "The queries read the padding and nothing else.",
            "Yes: there True means *ignore*. No error appears where every text has some padding; where one has none, its rows are empty.",
        ),
        "b": (
            "It raises an error, because the polarity is wrong.",
            "Both readings are arrays of True and False of the same shape, so nothing can be noticed by looking at the argument.",
        ),
        "c": (
            "The mask is ignored.",
            "It is obeyed to the letter, the wrong way round: True means *ignore* in that argument.",
        ),
        "d": (
            "It works: True means *may attend* everywhere in PyTorch.",
            "That holds for scaled_dot_product_attention. nn.MultiheadAttention is older, and reads True as *ignore*.",
        ),
    },
    right="a",
)

packing = Quiz(
    "4.d",
    "Two documents are packed into one row, with a causal mask and nothing else. What goes wrong?",
    {
        "a": (
            "The first document reads the second.",
            "The second lies in the future of the first, so the causal mask hides it already.",
        ),
        "b": (
            "Nothing: a causal mask hides what must be hidden.",
            "It hides the future. The document before is past, and yet foreign: the second text would be read as its continuation.",
        ),
        "c": (
            "Both documents need padding.",
            "Packing is there to do without. What is missing is a border between the two.",
        ),
        "d": (
            "The second document reads the first.",
            "Yes. The mask needs a second condition: the same document. With it, each text comes out as if it had been alone.",
        ),
    },
    right="d",
)

too_good = Written(
    "4.w",
    "Too good to ship?",
    minutes=10,
    rubric=(
        "Names a leak as the likely cause; says why validation cannot show it and what would; proposes a test that decides, and says what result it would give; says what would speak for the colleague.",
        "Names the leak and why validation shares it; one test, without what it would show, or nothing on the other side.",
        "Doubts the number for a right reason (a bug in the mask, overfitting excluded), without a test that decides.",
        "Doubts or believes the number without a reason that concerns who sees what.",
    ),
)
