"""Chapter 01, attention is a soft lookup: the one-vector bottleneck, hard and soft lookup, additive scores, q/k/v."""

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written


def rnn_last_state(x, w_h, w_x):
    """The last state of a plain tanh RNN that starts from zeros.  x (n, d), w_h (h, h), w_x (d, h) -> (h,)

    h_t = tanh(h_{t-1} w_h + x_t w_x). Source: Elman (1990).
    """
    state = np.zeros(w_h.shape[0])
    for word in x:
        state = np.tanh(state @ w_h + word @ w_x)
    return state


def hard_lookup(query, keys, values):
    """The value of the one key with the largest dot product.  query (n, d) or (d,) -> (n, d_v) or (d_v,)"""
    return values[np.argmax(query @ keys.T, axis=-1)]


def soft_lookup(query, keys, values, temperature):
    """All values, mixed by softmax(query keysᵀ / temperature).  query (n, d) or (d,) -> (n, d_v) or (d_v,)"""
    return attn_ref.softmax(query @ keys.T / temperature) @ values


def additive_scores(query, keys, w_q, w_k, w_v):
    """tanh(query w_q + keys w_k) · w_v for every pair.  query (n, d_q) or (d_q,), keys (m, d_k) -> (n, m) or (m,)

    Source: Bahdanau, Cho and Bengio (arXiv, September 2014; ICLR 2015).
    """
    asked = (query @ w_q)[..., None, :]  # (n, 1, h)
    return np.tanh(asked + keys @ w_k) @ w_v


def project_qkv(x, w_q, w_k, w_v):
    """Three views of the same rows.  x (..., n, d), each w (d, its own width) -> q, k, v"""
    return x @ w_q, x @ w_k, x @ w_v


# 1.1 The bottleneck

recurrence = Exercise(
    "1.1",
    "A sentence in one vector",
    reference=rnn_last_state,
    minutes=10,
    forbids=("torch.nn.RNN", "torch.nn.RNNCell"),
)


@recurrence.criterion("each word renews the state as the equation says", points=2)
def each_word(rng):
    yield dict(x=np.array([[1.0]]), w_h=np.array([[0.5]]), w_x=np.array([[2.0]]))
    yield dict(x=np.array([[1.0], [0.0]]), w_h=np.array([[0.5]]), w_x=np.array([[2.0]]))
    yield dict(x=rng.normal(size=(4, 3)), w_h=rng.normal(size=(5, 5)), w_x=rng.normal(size=(3, 5)))
    yield dict(x=rng.normal(size=(3, 6)), w_h=rng.normal(size=(1, 1)), w_x=rng.normal(size=(6, 1)))
    yield dict(x=rng.normal(size=(4, 4)), w_h=rng.normal(size=(4, 4)), w_x=rng.normal(size=(4, 4)))


@recurrence.criterion("the words are read from first to last", points=1)
def in_order(rng):
    yield dict(x=np.array([[1.0], [3.0]]), w_h=np.array([[1.0]]), w_x=np.array([[0.5]]))
    yield dict(x=rng.normal(size=(9, 4)), w_h=0.5 * rng.normal(size=(6, 6)), w_x=rng.normal(size=(4, 6)))
    yield dict(x=rng.normal(size=(2, 2)), w_h=rng.normal(size=(3, 3)), w_x=rng.normal(size=(2, 3)))
    yield dict(x=rng.normal(size=(40, 2)), w_h=0.1 * rng.normal(size=(70, 70)), w_x=rng.normal(size=(2, 70)))


@recurrence.criterion("no words leave the state of zeros, and one word starts from it", points=1)
def few_words(rng):
    yield dict(x=rng.normal(size=(1, 3)), w_h=rng.normal(size=(4, 4)), w_x=rng.normal(size=(3, 4)))
    yield dict(x=np.zeros((0, 3)), w_h=rng.normal(size=(2, 2)), w_x=rng.normal(size=(3, 2)))
    yield dict(x=1e-6 * rng.normal(size=(1, 1)), w_h=rng.normal(size=(3, 3)), w_x=rng.normal(size=(1, 3)))


@recurrence.criterion("huge sums are squeezed to ±1, never to NaN", points=1)
def huge_sums(rng):
    yield dict(x=np.array([[1000.0], [-100000.0]]), w_h=np.array([[0.5]]), w_x=np.array([[2.0]]))
    w_h = np.array([[0.0, 2.0], [2.0, 0.0]])  # the second word is small, and what the first left shows
    yield dict(x=np.array([[5000.0], [0.001]]), w_h=w_h, w_x=np.array([[1.0, -1.0]]))


recurrence.leaves_inputs_alone(points=1)


@recurrence.mistake(
    "Your state can leave the range from −1 to 1. Which function of the equation keeps every entry inside it?"
)
def no_tanh(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = state @ w_h + word @ w_x
    return state


@recurrence.mistake(
    "tanh is there, but once, after the last word. In the equation, is the state that the next word meets squeezed already?"
)
def tanh_at_the_end(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = state @ w_h + word @ w_x
    return np.tanh(state)


@recurrence.mistake(
    "Your tanh squeezes the old state alone and adds the word afterwards. What stands inside the brackets of tanh( )?"
)
def word_outside_tanh(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = np.tanh(state @ w_h) + word @ w_x
    return state


@recurrence.mistake(
    "Your answer hangs on the last word alone: change the first word and nothing happens. Where does the old state enter?"
)
def last_word_only(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = np.tanh(word @ w_x)
    return state


@recurrence.mistake(
    "You read the sentence from its last word to its first. Whose trace should be freshest in the last state?"
)
def backwards(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x[::-1]:
        state = np.tanh(state @ w_h + word @ w_x)
    return state


@recurrence.mistake(
    "w_h is used transposed. The state is a row, so state @ w_h mixes over the rows of w_h; yours mixes over its columns. (w_h @ state does the same.)"
)
def transposed_state(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = np.tanh(w_h @ state + word @ w_x)
    return state


@recurrence.mistake(
    "The first word of the sentence leaves no trace in your answer. At which index does your loop begin?"
)
def skips_the_first_word(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for t in range(1, len(x)):
        state = np.tanh(state @ w_h + x[t] @ w_x)
    return state


@recurrence.mistake(
    "You add each new state to the old one. In the equation the new state takes the old one's place; where does the old one enter it?"
)
def adds_to_the_state(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = state + np.tanh(state @ w_h + word @ w_x)
    return state


@recurrence.mistake(
    "You cut the state off at −1 and 1, which leaves everything between as it is. tanh bends: what is tanh(0.5)?"
)
def clips_instead(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = np.clip(state @ w_h + word @ w_x, -1, 1)
    return state


@recurrence.mistake("Your state starts at ones. Before the first word nothing has been read: what should it hold?")
def starts_at_ones(x, w_h, w_x):
    state = np.ones(len(w_h))
    for word in x:
        state = np.tanh(state @ w_h + word @ w_x)
    return state


@recurrence.mistake("You return every state on the way, one row a word. The decoder receives only one of them: which?")
def all_states(x, w_h, w_x):
    states, state = [], np.zeros(len(w_h))
    for word in x:
        state = np.tanh(state @ w_h + word @ w_x)
        states.append(state)
    return np.array(states).reshape(-1, len(w_h))


@recurrence.mistake(
    "Sentences that have a word come out right. Without any there is no last item to return: which state is there before the first word, and does your list hold it?"
)
def last_of_a_list(x, w_h, w_x):
    states = []
    for word in x:
        before = states[-1] if states else np.zeros(len(w_h))
        states.append(np.tanh(before @ w_h + word @ w_x))
    return states[-1]


@recurrence.mistake(
    "You begin with x[0], and a sentence of no words has no x[0]. Which state is there before the first word?"
)
def begins_with_the_first_word(x, w_h, w_x):
    state = np.tanh(x[0] @ w_x)
    for word in x[1:]:
        state = np.tanh(state @ w_h + word @ w_x)
    return state


@recurrence.mistake("Your answer has seen the first word only. Does a return stand inside your loop?")
def returns_inside_the_loop(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        state = np.tanh(state @ w_h + word @ w_x)
        return state


@recurrence.mistake(
    "You store the states in `x`, over the words. They fit only while h equals d, and the caller's sentence is gone. How many of the states do you have to keep?"
)
def states_written_over_the_words(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for t in range(len(x)):
        x[t] = np.tanh(state @ w_h + x[t] @ w_x)
        state = x[t]
    return state


@recurrence.mistake(
    "You built tanh out of exp, and exp(1000) is too large for a float: inf / inf is NaN. Which function of NumPy does the whole step?"
)
def tanh_out_of_exp(x, w_h, w_x):
    state = np.zeros(len(w_h))
    for word in x:
        total = state @ w_h + word @ w_x
        state = (np.exp(total) - np.exp(-total)) / (np.exp(total) + np.exp(-total))
    return state


@recurrence.mistake(
    "You add all words up and squeeze once. Then “dog bites man” and “man bites dog” get the same state; what must happen between two words?"
)
def words_summed(x, w_h, w_x):
    return np.tanh(x.sum(axis=0) @ w_x)


@recurrence.also_right
def recursive(x, w_h, w_x):
    def after(n):
        return np.tanh(after(n - 1) @ w_h + x[n - 1] @ w_x) if n else np.zeros(len(w_h))

    return after(len(x))


@recurrence.also_right
def one_tall_matrix(x, w_h, w_x):
    both = np.vstack([w_h, w_x])
    state = np.zeros(w_h.shape[1])
    for t in range(x.shape[0]):
        state = np.tanh(np.concatenate([state, x[t]]) @ both)
    return state


@recurrence.also_right
def entry_by_entry(x, w_h, w_x):
    h, d = len(w_h), len(w_x)
    state = [0.0] * h
    for word in x:
        state = [
            np.tanh(sum(state[i] * w_h[i, j] for i in range(h)) + sum(word[i] * w_x[i, j] for i in range(d)))
            for j in range(h)
        ]
    return state


recurrence.hints(
    "How many numbers does the state hold? Read it from the shape of `w_h`, and start with that many zeros.",
    "Iterating over `x` gives one word, a row of shape (d,), at a time. The new state needs the old state and that word.",
    "Start from zeros. For each word: old state times `w_h`, plus word times `w_x`, then tanh of the sum; this becomes the state. Return it after the loop, outside of it.",
)
recurrence.errors(
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0, with gufunc signature (n?,k),(k,m?)-&gt;(n?,m?) (size 4 is different from 3)",
        "The row before `@` and the matrix after it do not fit. A word has d numbers and meets `w_x` (d, h); the state has h and meets `w_h` (h, h). Have they changed places?",
    ),
)


# 1.2 Hard lookup

best_match = Exercise("1.2", "The best label wins", reference=hard_lookup, minutes=8)


@best_match.criterion("one query of shape (d,) brings one value of shape (d_v,)", points=1)
def one_query(rng):
    yield dict(query=np.array([1.0, 0.0]), keys=np.array([[0.0, 1.0], [1.0, 0.0]]), values=np.array([[10.0], [20.0]]))
    yield dict(query=rng.normal(size=4), keys=rng.normal(size=(6, 4)), values=rng.normal(size=(6, 3)))
    yield dict(query=rng.normal(size=5), keys=rng.normal(size=(5, 5)), values=rng.normal(size=(5, 1)))
    yield dict(query=np.array([-2.0]), keys=rng.normal(size=(3, 1)), values=rng.normal(size=(3, 2)))
    yield dict(query=rng.normal(size=3), keys=rng.normal(size=(1, 3)), values=rng.normal(size=(1, 1)))


@best_match.criterion("each row of (n, d) queries finds its own value", points=2)
def many_queries(rng):
    yield dict(
        query=np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]]),
        keys=np.array([[0.0, 1.0], [1.0, 0.0]]),
        values=np.array([[10.0], [20.0]]),
    )
    yield dict(query=rng.normal(size=(5, 3)), keys=rng.normal(size=(7, 3)), values=rng.normal(size=(7, 2)))
    yield dict(query=rng.normal(size=(1, 4)), keys=rng.normal(size=(6, 4)), values=rng.normal(size=(6, 3)))
    yield dict(query=rng.normal(size=(4, 2)), keys=rng.normal(size=(1, 2)), values=rng.normal(size=(1, 5)))
    yield dict(query=rng.normal(size=(4, 4)), keys=rng.normal(size=(4, 4)), values=rng.normal(size=(4, 4)))
    yield dict(query=rng.normal(size=(23, 1)), keys=rng.normal(size=(17, 1)), values=1e6 * rng.normal(size=(17, 3)))
    yield dict(query=rng.normal(size=(9, 2)), keys=rng.normal(size=(8, 2)), values=1e-6 * rng.normal(size=(8, 12)))


@best_match.criterion("the dot product decides: a long key may beat a parallel one, and −1 beats −2", points=1)
def the_dot_product(rng):
    keys = np.array([[1.0, 0.0], [3.0, 3.0], [-9.0, 0.0]])
    yield dict(query=np.array([[1.0, 0.0]]), keys=keys, values=np.array([[10.0], [20.0], [30.0]]))
    yield dict(query=np.array([[1.0]]), keys=np.array([[-2.0], [-1.0]]), values=np.array([[10.0], [20.0]]))
    lengths = np.array([[0.2], [8.0], [1.0], [3.0], [0.5], [5.0]])
    yield dict(query=rng.normal(size=(8, 3)), keys=lengths * rng.normal(size=(6, 3)), values=rng.normal(size=(6, 4)))


@best_match.criterion("a winner is found among scores of ±100,000, and by a lead of a billionth", points=1)
def any_size(rng):
    values = np.array([[10.0], [20.0], [30.0]])
    yield dict(query=np.array([[1.0]]), keys=np.array([[1001.0], [1002.0], [1001.0]]), values=values)
    yield dict(query=np.array([[-1.0]]), keys=np.array([[1002.0], [1001.0], [1002.0]]), values=values)
    yield dict(query=np.array([[1.0]]), keys=np.array([[99999.0], [100000.0], [-100000.0]]), values=values)
    yield dict(query=np.array([[1.0], [-1.0]]), keys=np.array([[0.125], [0.125 + 1e-9], [0.125 - 1e-9]]), values=values)
    yield dict(query=np.array([[1.0]]), keys=np.array([[-100000.0], [-99999.0], [-100001.0]]), values=values)
    yield dict(query=np.array([[-1e-3]]), keys=np.array([[2e-4], [1e-4], [3e-4]]), values=values)


best_match.leaves_inputs_alone(points=1)


@best_match.mistake(
    "You ask which query fits each key best. Here each *query* chooses: in a table of queries down and keys across, along which axis does one query's row run?"
)
def queries_compete(query, keys, values):
    return values[np.argmax(query @ keys.T, axis=0)]


@best_match.mistake(
    "Tables of queries come out right. A single query has one axis of scores, so there is no axis 1. Where do the keys' scores lie in both cases, counted from the end?"
)
def axis_counted_from_the_front(query, keys, values):
    return values[np.argmax(query @ keys.T, axis=1)]


@best_match.mistake(
    "With several queries you bring back one value: argmax without an axis looks through the whole table. Every row should have a winner of its own."
)
def one_winner_for_all(query, keys, values):
    return values[np.argmax(query @ keys.T)]


@best_match.mistake(
    "This is where the book stands, not the book: you return the position of the best key. What is kept at that position?"
)
def the_position(query, keys, values):
    return np.argmax(query @ keys.T, axis=-1)


@best_match.mistake(
    "You hand back the label instead of the book. The key is for being found; which array holds what is read?"
)
def the_key_itself(query, keys, values):
    return keys[np.argmax(query @ keys.T, axis=-1)]


@best_match.mistake(
    "You compare directions (cosine), so a long key counts no more than a short one. The contract asks for the plain dot product."
)
def cosine(query, keys, values):
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    return values[np.argmax(query @ unit.T, axis=-1)]


@best_match.mistake(
    "You choose the key that lies nearest. The key with the largest dot product may lie far away: try query 1 with the keys 1 and 5."
)
def nearest(query, keys, values):
    distances = np.linalg.norm(np.expand_dims(query, -2) - keys, axis=-1)
    return values[np.argmin(distances, axis=-1)]


@best_match.mistake(
    "You pick the key that matches worst. Does the largest or the smallest dot product mean a good match?"
)
def worst_match(query, keys, values):
    return values[np.argmin(query @ keys.T, axis=-1)]


@best_match.mistake(
    "A strongly negative dot product wins in your answer, because its sign is dropped. A key that points the opposite way is the worst match, not the best."
)
def sign_dropped(query, keys, values):
    return values[np.argmax(np.abs(query @ keys.T), axis=-1)]


@best_match.mistake(
    "The value is right, but a single query comes back as a table of one row, (1, d_v). One query (d,) should bring (d_v,)."
)
def always_a_table(query, keys, values):
    return values[np.argmax(np.atleast_2d(query) @ keys.T, axis=-1)]


@best_match.mistake(
    "The values are right, and a table of one query loses an axis: (1, d) queries should bring (1, d_v). Which call drops axes of length 1, or asks for the number of queries in place of the number of axes?"
)
def one_row_of_queries_flattened(query, keys, values):
    found = values[np.argmax(np.atleast_2d(query) @ keys.T, axis=-1)]
    return found[0] if len(found) == 1 else found


@best_match.mistake(
    "You take exp of the scores before you compare them. exp(1001) and exp(1002) are both inf, so both seem to win. Does exp change which score is the largest?"
)
def compares_exponentials(query, keys, values):
    return values[np.argmax(np.exp(query @ keys.T), axis=-1)]


@best_match.mistake(
    "You round the scores before you compare them, so a small lead becomes a tie, and argmax takes the first of those. What is the rounding for?"
)
def compares_rounded_scores(query, keys, values):
    return values[np.argmax(np.round(query @ keys.T, 3), axis=-1)]


@best_match.mistake(
    "The values are right, but `query /= ...` changed the caller's own array. What does `query = query / ...` do differently? (And does the length of a query change who wins?)"
)
def query_scaled_in_place(query, keys, values):
    query /= np.linalg.norm(query, axis=-1, keepdims=True)
    return values[np.argmax(query @ keys.T, axis=-1)]


@best_match.also_right
def loops_and_max(query, keys, values):
    if query.ndim == 1:
        return list(values[max(range(len(keys)), key=lambda j: float(query @ keys[j]))])
    return [list(values[max(range(len(keys)), key=lambda j: float(row @ keys[j]))]) for row in query]


@best_match.also_right
def one_hot_times_values(query, keys, values):
    scores = np.einsum("...d,md->...m", query, keys)
    return (scores == scores.max(axis=-1, keepdims=True)).astype(float) @ values


@best_match.also_right
def sort_and_take_last(query, keys, values):
    scores = (np.expand_dims(query, -2) * keys).sum(axis=-1)
    return np.take(values, np.argsort(scores, axis=-1)[..., -1], axis=0)


best_match.hints(
    "First the scores, each query's dot product with each key: n rows and m columns.",
    "NumPy has a function that gives the *position* of the largest entry along an axis. `axis=-1` means the last axis, whether there is one query or many.",
    "Scores: query times the transposed keys. Position of the largest score along the last axis. Use the positions to index `values`; an array of positions picks a row for each.",
)
best_match.errors(
    (
        "AxisError: axis 1 is out of bounds for array of dimension 1",
        "A single query has only one axis of scores, axis 0. Count from the end instead: the keys are on axis −1 in both cases.",
    ),
)


# 1.3 Soft lookup

blend = Exercise("1.3", "Every book a little", reference=soft_lookup, minutes=9)


@blend.criterion("the shares of the keys mix their values", points=2)
def shares_mix(rng):
    yield dict(query=np.array([[0.0]]), keys=np.array([[1.0], [5.0]]), values=np.array([[2.0], [4.0]]), temperature=1.0)
    yield dict(
        query=np.array([[np.log(3.0)]]), keys=np.array([[1.0], [0.0]]), values=np.array([[4.0], [0.0]]), temperature=1.0
    )
    yield dict(
        query=rng.normal(size=(5, 3)), keys=rng.normal(size=(7, 3)), values=rng.normal(size=(7, 2)), temperature=1.0
    )
    sizes = ((1, 6, 4, 3, 1), (4, 1, 2, 5, 1), (4, 4, 4, 4, 1), (3, 5, 1, 1, 1e-6), (14, 19, 2, 12, 1e6))
    for n, m, d, d_v, size in sizes:
        keys, values = rng.normal(size=(m, d)), size * rng.normal(size=(m, d_v))
        yield dict(query=rng.normal(size=(n, d)), keys=keys, values=values, temperature=1.0)


@blend.criterion("a low temperature sharpens the shares, a high one evens them out", points=1)
def temperatures(rng):
    keys, values = np.array([[1.0], [0.0]]), np.array([[4.0], [0.0]])
    yield dict(query=np.array([[np.log(3.0)]]), keys=keys, values=values, temperature=0.5)
    yield dict(query=np.array([[1.0]]), keys=np.array([[0.0], [9.0]]), values=values, temperature=0.5)
    for temperature in (0.2, 2.5, 40.0):
        query = rng.normal(size=(4, 3))
        yield dict(query=query, keys=rng.normal(size=(6, 3)), values=rng.normal(size=(6, 5)), temperature=temperature)


@blend.criterion("one query of shape (d,) brings one value of shape (d_v,)", points=1)
def one_soft_query(rng):
    keys, values = np.array([[1.0], [0.0]]), np.array([[4.0, 8.0], [0.0, 0.0]])
    yield dict(query=np.array([np.log(3.0)]), keys=keys, values=values, temperature=1.0)
    yield dict(query=rng.normal(size=4), keys=rng.normal(size=(6, 4)), values=rng.normal(size=(6, 3)), temperature=1.0)
    for m, d, d_v in ((5, 5, 5), (1, 3, 2), (6, 1, 1)):
        keys, values = rng.normal(size=(m, d)), rng.normal(size=(m, d_v))
        yield dict(query=rng.normal(size=d), keys=keys, values=values, temperature=0.7)


@blend.criterion("scores of ±100,000 and temperatures from 0.001 to 1000 give shares, not NaN", points=1)
def extreme_scores(rng):
    keys, values = np.array([[1000.0], [999.0], [-1000.0]]), np.array([[2.0], [4.0], [8.0]])
    yield dict(query=np.array([[1.0], [-1.0]]), keys=keys, values=values, temperature=1.0)
    yield dict(
        query=rng.normal(size=(2, 3)), keys=rng.normal(size=(5, 3)), values=rng.normal(size=(5, 4)), temperature=0.001
    )
    one = np.array([[1.0]])
    yield dict(query=one, keys=np.array([[1001.0], [1002.0], [1000.0]]), values=values, temperature=1.0)
    yield dict(query=-one, keys=np.array([[100001.0], [100000.0], [100002.0]]), values=values, temperature=1.0)
    yield dict(query=one, keys=np.array([[0.001], [0.002], [-0.003]]), values=values, temperature=0.001)
    yield dict(query=one, keys=np.array([[100000.0], [99000.0], [98000.0]]), values=values, temperature=1000.0)
    yield dict(query=one, keys=np.array([[-1001.0], [-1002.0], [-1000.0]]), values=values, temperature=1.0)
    # The first row's scores lie 2000 above those of the second: one maximum for both is not enough.
    far_apart = np.array([[1.0], [-1.0]])
    yield dict(query=far_apart, keys=np.array([[1000.0], [1001.0], [1002.0]]), values=values, temperature=1.0)


blend.leaves_inputs_alone(points=1)


@blend.mistake(
    "Your shares went through softmax twice, and the second one flattens them: shares lie between 0 and 1, so none can lead by more than 1."
)
def softmax_twice(query, keys, values, temperature):
    return attn_ref.softmax(attn_ref.softmax(query @ keys.T / temperature)) @ values


@blend.mistake(
    "You mix the values by the raw scores. Scores can be negative and do not sum to 1; what turns them into shares?"
)
def raw_scores(query, keys, values, temperature):
    return (query @ keys.T / temperature) @ values


@blend.mistake(
    "Your exponentials are not divided by their sum, so the shares do not sum to 1 and the answer grows with the number of keys."
)
def exp_without_sum(query, keys, values, temperature):
    return np.exp(query @ keys.T / temperature) @ values


@blend.mistake(
    "You multiply by the temperature. Then a high temperature sharpens; which way should a hot lookup go, towards one book or towards all alike?"
)
def temperature_multiplied(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T * temperature) @ values


@blend.mistake("The answer is the same at every temperature. Where does `temperature` enter your scores?")
def temperature_forgotten(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T) @ values


@blend.mistake(
    "You divide by the temperature after the softmax. The shares then sum to 1/temperature; what should be divided, and when?"
)
def temperature_after_softmax(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T) / temperature @ values


@blend.mistake(
    "Your shares sum to 1 over the queries, so the queries compete for each key. Each query shares itself out over the *keys*: which axis is that?"
)
def shares_over_queries(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T / temperature, axis=0) @ values


@blend.mistake("You also divide by √d. That belongs to chapter 02; here the temperature alone divides the scores.")
def divided_by_root_d(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T / (temperature * np.sqrt(keys.shape[-1]))) @ values


@blend.mistake(
    "You still bring back the one best value. A soft lookup lets every key contribute in proportion to its share."
)
def still_hard(query, keys, values, temperature):
    return values[np.argmax(query @ keys.T / temperature, axis=-1)]


@blend.mistake("Those are the shares, one for each key. The reader wants the books: what is mixed by the shares?")
def shares_returned(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T / temperature)


@blend.mistake(
    "You mix the labels instead of the books. The keys have done their work once the shares are known; what is read then?"
)
def keys_mixed(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T / temperature) @ keys


@blend.mistake(
    "Small scores come out right. But exp(1000) is too large for a float, and inf / inf is NaN. attn_ref.softmax takes care of that; call it on the scores."
)
def own_exp_overflows(query, keys, values, temperature):
    e = np.exp(query @ keys.T / temperature)
    return e / e.sum(axis=-1, keepdims=True) @ values


@blend.mistake(
    "You subtract one maximum, the largest of the whole table, before exp. A row whose scores all lie far below it is left with zeros, and 0 / 0 is NaN. Whose largest score should each row subtract?"
)
def one_maximum_for_all(query, keys, values, temperature):
    scores = query @ keys.T / temperature
    e = np.exp(scores - scores.max())
    return e / e.sum(axis=-1, keepdims=True) @ values


@blend.mistake(
    "You cut the scores off at ±700, so that exp stays finite. Scores of 1002 and 1001 then tie, and their shares should be 2.72 to 1. What does attn_ref.softmax do with them as they are?"
)
def scores_cut_off(query, keys, values, temperature):
    e = np.exp(np.clip(query @ keys.T / temperature, -700, 700))
    return e / e.sum(axis=-1, keepdims=True) @ values


@blend.mistake(
    "You do not let the temperature fall below a floor of your own. Every number above 0 is allowed: what do scores of 0.001 and 0.002 become at a temperature of 0.001?"
)
def a_floor_under_the_temperature(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T / max(temperature, 0.01)) @ values


@blend.mistake(
    "You add a small number to the temperature, against a division by zero that the contract rules out. At a temperature of 0.001 it moves the shares."
)
def a_little_extra_in_the_temperature(query, keys, values, temperature):
    return attn_ref.softmax(query @ keys.T / (temperature + 1e-6)) @ values


@blend.mistake(
    "The values are right, and a table of one query loses an axis: (1, d) queries should bring (1, d_v). Which call drops axes of length 1?"
)
def one_soft_row_flattened(query, keys, values, temperature):
    mixed = attn_ref.softmax(np.atleast_2d(query) @ keys.T / temperature) @ values
    return mixed[0] if len(mixed) == 1 else mixed


@blend.mistake(
    "The value is right, but a single query comes back as a table of one row, (1, d_v). One query (d,) should bring (d_v,)."
)
def soft_table_always(query, keys, values, temperature):
    return attn_ref.softmax(np.atleast_2d(query) @ keys.T / temperature) @ values


@blend.mistake(
    "The values are right, but `query /= temperature` changed the caller's own array: the next call with it would be wrong. How do you get a new array instead?"
)
def query_cooled_in_place(query, keys, values, temperature):
    query /= temperature
    return attn_ref.softmax(query @ keys.T) @ values


@blend.also_right
def by_attention(query, keys, values, temperature):
    out = attn_ref.attention(np.atleast_2d(query), keys, values, scale=1 / temperature)
    return out[0] if query.ndim == 1 else out


@blend.also_right
def key_by_key(query, keys, values, temperature):
    def one(row):
        scores = [float(row @ key) / temperature for key in keys]
        top = max(scores)
        e = [np.exp(score - top) for score in scores]
        return sum(weight / sum(e) * value for weight, value in zip(e, values, strict=True))

    return one(query) if query.ndim == 1 else [one(row) for row in query]


@blend.also_right
def keys_scaled_then_logs(query, keys, values, temperature):
    scores = np.einsum("...d,md->...m", query, keys / temperature)
    log_shares = scores - attn_ref.logsumexp(scores)[..., None]
    return np.einsum("...m,me->...e", np.exp(log_shares), values)


blend.hints(
    "You have written two of the three steps already: the scores in 1.2, and an average with given weights in 0.2. What lies between them, and which shape has it?",
    "Write the shapes down: the table of scores is (n, m), and so is the table of shares. The values are (m, d_v), the answer (n, d_v). Which operation joins the two tables and makes the m vanish? Do the shares still need a division by their total?",
    "One line for each step, with a name for each result. Print the shares of the first example: do they say 0.75 and 0.25? If they say 1.10 and 0, they are still scores; 3 and 1 are not yet divided by their sum. Then try a query of shape (d,): the shares have the shape (m,), and the same last operation brings (d_v,).",
)
blend.errors(
    (
        "RuntimeWarning: overflow encountered in exp",
        "You wrote exp yourself and a score was above about 709, the largest that a float64 can take. attn_ref.softmax is stable for any size.",
    ),
)


# 1.4 Additive scores

learned_match = Exercise("1.4", "A match that is learned", reference=additive_scores, minutes=18)


@learned_match.criterion("every query meets every key: a table (n, m)", points=1)
def every_pair(rng):
    w = dict(w_q=np.array([[1.0]]), w_k=np.array([[-1.0]]), w_v=np.array([2.0]))
    yield dict(query=np.array([[1.0]]), keys=np.array([[0.0], [1.0]]), **w)
    yield dict(query=np.array([[1.0], [0.0], [3.0]]), keys=np.array([[0.0], [1.0]]), **w)
    for n, m, d, h in ((4, 5, 2, 3), (1, 6, 3, 4), (3, 1, 2, 5), (13, 11, 3, 1), (2, 7, 1, 2)):
        w = dict(w_q=rng.normal(size=(d, h)), w_k=rng.normal(size=(d, h)), w_v=rng.normal(size=h))
        yield dict(query=rng.normal(size=(n, d)), keys=rng.normal(size=(m, d)), **w)


@learned_match.criterion("queries and keys may have different widths", points=1)
def own_widths(rng):
    w = dict(w_q=rng.normal(size=(2, 6)), w_k=rng.normal(size=(4, 6)), w_v=rng.normal(size=6))
    yield dict(query=rng.normal(size=(3, 2)), keys=rng.normal(size=(5, 4)), **w)


@learned_match.criterion("as many queries as keys still give a square table", points=1)
def square_table(rng):
    w = dict(w_q=np.array([[1.0]]), w_k=np.array([[-1.0]]), w_v=np.array([2.0]))
    yield dict(query=np.array([[1.0], [2.0]]), keys=np.array([[0.0], [1.0]]), **w)
    w = dict(w_q=rng.normal(size=(3, 2)), w_k=rng.normal(size=(5, 2)), w_v=rng.normal(size=2))
    yield dict(query=rng.normal(size=(4, 3)), keys=rng.normal(size=(4, 5)), **w)
    w = dict(w_q=rng.normal(size=(3, 3)), w_k=rng.normal(size=(3, 3)), w_v=rng.normal(size=3))
    yield dict(query=rng.normal(size=(3, 3)), keys=rng.normal(size=(3, 3)), **w)


@learned_match.criterion("one query of shape (d_q,) gives one score for each key, (m,)", points=1)
def one_additive_query(rng):
    w = dict(w_q=np.array([[1.0]]), w_k=np.array([[-1.0]]), w_v=np.array([2.0]))
    yield dict(query=np.array([1.0]), keys=np.array([[0.0], [1.0]]), **w)
    w = dict(w_q=rng.normal(size=(3, 5)), w_k=rng.normal(size=(2, 5)), w_v=rng.normal(size=5))
    yield dict(query=rng.normal(size=3), keys=rng.normal(size=(4, 2)), **w)
    for m, d_q, d_k, h in ((4, 4, 4, 4), (1, 3, 2, 4), (5, 2, 3, 1), (2, 1, 1, 1)):
        w = dict(w_q=rng.normal(size=(d_q, h)), w_k=rng.normal(size=(d_k, h)), w_v=rng.normal(size=h))
        yield dict(query=rng.normal(size=d_q), keys=rng.normal(size=(m, d_k)), **w)


@learned_match.criterion("huge sums give no NaN, and the scores grow with w_v", points=1)
def huge_parts(rng):
    w = dict(w_q=np.array([[1.0]]), w_k=np.array([[-1.0]]), w_v=np.array([2.0]))
    yield dict(query=np.array([[1000.0], [-100000.0]]), keys=np.array([[0.0], [1.0], [999.0]]), **w)
    w["w_v"] = np.array([-2.0])
    yield dict(query=np.array([[0.5], [3.0]]), keys=np.array([[0.0], [1.0], [-4.0]]), **w)
    w = dict(w_q=rng.normal(size=(2, 3)), w_k=rng.normal(size=(4, 3)), w_v=np.array([30000.0, -5000.0, 200.0]))
    yield dict(query=rng.normal(size=(3, 2)), keys=rng.normal(size=(5, 4)), **w)
    w["w_v"] = np.array([3e-6, -2e-6, 1e-6])
    yield dict(query=rng.normal(size=(3, 2)), keys=rng.normal(size=(5, 4)), **w)


learned_match.leaves_inputs_alone(points=1)


@learned_match.mistake(
    "tanh is missing. Without it the query adds the same number to every key's score; what does a softmax make of that?"
)
def tanh_missing(query, keys, w_q, w_k, w_v):
    return ((query @ w_q)[..., None, :] + keys @ w_k) @ w_v


@learned_match.mistake(
    "You squeeze the two parts before adding them. tanh should see their sum, because only there do query and key meet."
)
def squeezed_apart(query, keys, w_q, w_k, w_v):
    return (np.tanh(query @ w_q)[..., None, :] + np.tanh(keys @ w_k)) @ w_v


@learned_match.mistake(
    "Row i of the queries is added to row i of the keys, so only pairs (i, i) meet, and different numbers of rows do not fit at all. Which axis must the queries gain?"
)
def row_with_row(query, keys, w_q, w_k, w_v):
    return np.tanh(query @ w_q + keys @ w_k) @ w_v


@learned_match.mistake(
    "Your table has the keys down and the queries across. In this course queries go down: the shape is (n, m)."
)
def keys_down(query, keys, w_q, w_k, w_v):
    asked = (query @ w_q)[..., None, :]
    return (np.tanh(asked + keys @ w_k) @ w_v).T


@learned_match.mistake(
    "You add the hidden numbers up as they are. w_v says how much each of them counts, and with which sign."
)
def summed_without_w_v(query, keys, w_q, w_k, w_v):
    return np.tanh((query @ w_q)[..., None, :] + keys @ w_k).sum(axis=-1)


@learned_match.mistake(
    "tanh comes last in your answer, so no score can leave the range from −1 to 1. It belongs between the sum and w_v."
)
def tanh_last(query, keys, w_q, w_k, w_v):
    return np.tanh(((query @ w_q)[..., None, :] + keys @ w_k) @ w_v)


@learned_match.mistake(
    "You multiply the two parts. That is a cousin of the dot product; Bahdanau's score is called additive because the parts are added."
)
def multiplied(query, keys, w_q, w_k, w_v):
    return np.tanh((query @ w_q)[..., None, :] * (keys @ w_k)) @ w_v


@learned_match.mistake(
    "You return shares that sum to 1. The exercise stops one step earlier, at the scores; the softmax comes after it."
)
def already_shares(query, keys, w_q, w_k, w_v):
    return attn_ref.softmax(np.tanh((query @ w_q)[..., None, :] + keys @ w_k) @ w_v)


@learned_match.mistake(
    "The queries go through w_k and the keys through w_q. Which matrix has as many rows as a query has numbers?"
)
def matrices_swapped(query, keys, w_q, w_k, w_v):
    return np.tanh((query @ w_k)[..., None, :] + keys @ w_q) @ w_v


@learned_match.mistake(
    "The scores are right, but a single query comes back as a table of one row, (1, m). One query (d_q,) should give (m,)."
)
def additive_table_always(query, keys, w_q, w_k, w_v):
    return np.tanh((np.atleast_2d(query) @ w_q)[:, None] + keys @ w_k) @ w_v


@learned_match.mistake(
    "The scores are right, and a table of one query loses an axis: (1, d_q) queries should give (1, m). Which call drops axes of length 1?"
)
def one_additive_row_flattened(query, keys, w_q, w_k, w_v):
    scores = np.tanh((np.atleast_2d(query) @ w_q)[:, None] + keys @ w_k) @ w_v
    return scores[0] if len(scores) == 1 else scores


@learned_match.mistake(
    "You built tanh out of exp, and exp(1000) is too large for a float: inf / inf is NaN. Which function of NumPy does the whole step?"
)
def additive_tanh_out_of_exp(query, keys, w_q, w_k, w_v):
    total = (query @ w_q)[..., None, :] + keys @ w_k
    return (np.exp(2 * total) - 1) / (np.exp(2 * total) + 1) @ w_v


@learned_match.mistake(
    "`query[...] = ` and `keys[...] = ` store the products in the caller's arrays, which have room for them only while h equals d_q and d_k. Which name could each product have instead?"
)
def products_stored_in_the_inputs(query, keys, w_q, w_k, w_v):
    query[...] = query @ w_q
    keys[...] = keys @ w_k
    return np.tanh(query[..., None, :] + keys) @ w_v


@learned_match.also_right
def pair_by_pair(query, keys, w_q, w_k, w_v):
    def one(row):
        return [sum(np.tanh(row @ w_q + key @ w_k) * w_v) for key in keys]

    return one(query) if query.ndim == 1 else [one(row) for row in query]


@learned_match.also_right
def joined_vectors(query, keys, w_q, w_k, w_v):
    rows = np.atleast_2d(query)
    n, m = len(rows), len(keys)
    pairs = np.concatenate([np.repeat(rows, m, axis=0), np.tile(keys, (n, 1))], axis=1)
    scores = np.tanh(pairs @ np.concatenate([w_q, w_k])) @ w_v
    return scores if query.ndim == 1 else scores.reshape(n, m)


@learned_match.also_right
def key_columns(query, keys, w_q, w_k, w_v):
    asked, offered = np.einsum("...d,dh->...h", query, w_q), np.einsum("md,dh->mh", keys, w_k)
    return np.stack([np.einsum("...h,h->...", np.tanh(asked + one), w_v) for one in offered], axis=-1)


learned_match.hints(
    "Work out query @ w_q and keys @ w_k first. What are their shapes, and which shape should their sum have so that every pair has h numbers?",
    "The sum should have the shape (n, m, h). NumPy stretches an axis of length 1 (or one that is missing in front), so give the query's part the shape (n, 1, h).",
    "Two projections. A new axis before the last one in the query's part (`[..., None, :]` inserts it, for one query or many). Add, take tanh, multiply by w_v and sum over the last axis.",
)
learned_match.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (2,2) (6,2)",
        "NumPy tries to add row to row. You want every row with every row: one part needs an axis of length 1.",
    ),
)


# 1.5 Card, label and book from the same word

three_roles = Exercise("1.5", "Card, label and book", reference=project_qkv, minutes=4)


@three_roles.criterion("it returns q, k, v in this order", points=2)
def in_this_order(rng):
    yield dict(
        x=np.array([[1.0, 2.0]]),
        w_q=np.array([[1.0], [0.0]]),
        w_k=np.array([[0.0], [1.0]]),
        w_v=np.array([[1.0], [1.0]]),
    )
    yield dict(x=rng.normal(size=(4, 3)), **{name: rng.normal(size=(3, 3)) for name in ("w_q", "w_k", "w_v")})
    yield dict(x=rng.normal(size=(3, 3)), **{name: rng.normal(size=(3, 3)) for name in ("w_q", "w_k", "w_v")})
    yield dict(x=1e6 * rng.normal(size=(12, 2)), **{name: rng.normal(size=(2, 11)) for name in ("w_q", "w_k", "w_v")})
    yield dict(x=1e-6 * rng.normal(size=(2, 7)), **{name: rng.normal(size=(7, 4)) for name in ("w_q", "w_k", "w_v")})


@three_roles.criterion("each keeps the width of its own matrix", points=1)
def widths_of_their_own(rng):
    yield dict(
        x=rng.normal(size=(5, 3)), w_q=rng.normal(size=(3, 2)), w_k=rng.normal(size=(3, 4)), w_v=rng.normal(size=(3, 6))
    )
    yield dict(
        x=rng.normal(size=(1, 4)), w_q=rng.normal(size=(4, 1)), w_k=rng.normal(size=(4, 1)), w_v=rng.normal(size=(4, 2))
    )
    yield dict(
        x=rng.normal(size=(3, 1)), w_q=rng.normal(size=(1, 3)), w_k=rng.normal(size=(1, 3)), w_v=rng.normal(size=(1, 1))
    )


@three_roles.criterion("leading axes, such as a batch of sentences, stay as they are", points=1)
def a_batch(rng):
    w = dict(w_q=rng.normal(size=(3, 5)), w_k=rng.normal(size=(3, 5)), w_v=rng.normal(size=(3, 6)))
    yield dict(x=rng.normal(size=(2, 4, 3)), **w)
    yield dict(x=rng.normal(size=(2, 1, 4, 3)), **w)
    yield dict(x=rng.normal(size=(1, 4, 3)), **w)
    yield dict(x=rng.normal(size=(1, 1, 1, 3)), **w)
    w = dict(w_q=rng.normal(size=(3, 3)), w_k=rng.normal(size=(3, 3)), w_v=rng.normal(size=(3, 3)))
    yield dict(x=rng.normal(size=(3, 3, 3)), **w)


three_roles.leaves_inputs_alone(points=1)


@three_roles.mistake("Label and book have changed places: your second result comes from w_v and your third from w_k.")
def labels_for_books(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_v, x @ w_k


@three_roles.mistake("Card and label have changed places: your first result comes from w_k and your second from w_q.")
def labels_for_cards(x, w_q, w_k, w_v):
    return x @ w_k, x @ w_q, x @ w_v


@three_roles.mistake(
    "Book and card have changed places: the three are there in the order v, k, q. Which order is asked for?"
)
def begins_with_the_books(x, w_q, w_k, w_v):
    return x @ w_v, x @ w_k, x @ w_q


@three_roles.mistake("Card, label and book are all there, in the order k, v, q. Which order does the caller unpack?")
def begins_with_the_labels(x, w_q, w_k, w_v):
    return x @ w_k, x @ w_v, x @ w_q


@three_roles.mistake(
    "The numbers are right, and a batch of one sentence has lost its first axis. What does x @ w do by itself with it?"
)
def drops_a_batch_of_one(x, w_q, w_k, w_v):
    return tuple((x @ w)[0] if x.ndim > 2 and len(x) == 1 else x @ w for w in (w_q, w_k, w_v))


@three_roles.mistake(
    "`q = x` gives the words a second name and makes no copy, so `q @= w_q` overwrites the caller's words, and the keys are made from what is left. What makes a new array instead of @=?"
)
def second_names_for_the_words(x, w_q, w_k, w_v):
    q = x
    q @= w_q
    k = x
    k @= w_k
    v = x
    v @= w_v
    return q, k, v


@three_roles.mistake(
    "The same matrix makes your queries and your keys, so what a word seeks would always be what it offers. Which matrix is left unused?"
)
def one_matrix_for_two(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_q, x @ w_v


@three_roles.mistake(
    "Your values are the words themselves. Even the book is made for reading: which matrix prepares it?"
)
def raw_books(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_k, x


@three_roles.mistake(
    "Your matrices are transposed. A word is a row of d numbers and each w has d rows, so the row meets w as it is."
)
def matrices_transposed(x, w_q, w_k, w_v):
    return x @ w_q.T, x @ w_k.T, x @ w_v.T


@three_roles.mistake("You make the keys from the queries. All three come from x; none of them from another.")
def a_chain(x, w_q, w_k, w_v):
    q = x @ w_q
    k = q @ w_k
    return q, k, x @ w_v


@three_roles.mistake(
    "Your sentences have run together: the axes before the last two are gone. What does x @ w do by itself with a batch?"
)
def batch_flattened(x, w_q, w_k, w_v):
    rows = x.reshape(-1, x.shape[-1])
    return rows @ w_q, rows @ w_k, rows @ w_v


@three_roles.mistake(
    "You return one wide array. The caller writes q, k, v = ..., so it needs three arrays, separated by commas."
)
def one_wide_array(x, w_q, w_k, w_v):
    return np.concatenate([x @ w_q, x @ w_k, x @ w_v], axis=-1)


@three_roles.mistake(
    "You stack the three results into one array, which works only while all three widths are alike. Return them side by side, with commas between them."
)
def stacked(x, w_q, w_k, w_v):
    return np.stack([x @ w_q, x @ w_k, x @ w_v])


@three_roles.also_right
def by_einsum(x, w_q, w_k, w_v):
    return [np.einsum("...d,de->...e", x, w) for w in (w_q, w_k, w_v)]


@three_roles.also_right
def one_product_then_split(x, w_q, w_k, w_v):
    edges = np.cumsum([w_q.shape[1], w_k.shape[1]])
    return tuple(np.split(x @ np.concatenate([w_q, w_k, w_v], axis=1), edges, axis=-1))


@three_roles.also_right
def word_by_word(x, w_q, w_k, w_v):
    made = []
    for w in (w_q, w_k, w_v):
        out = np.empty((*x.shape[:-1], w.shape[1]))
        for index in np.ndindex(*x.shape[:-1]):
            for column in range(w.shape[1]):
                out[index][column] = sum(x[index] * w[:, column])
        made.append(out)
    return tuple(made)


three_roles.hints(
    "Three matrix products of the same x. What is the shape of x @ w_q for six words of four numbers and a w_q of shape (4, 2)?",
    "A batch needs nothing more: `@` works on the last two axes and carries the others along. Return three things, separated by commas.",
)
three_roles.errors(
    (
        "ValueError: too many values to unpack (expected 3)",
        "`q, k, v = project_qkv(...)` needs exactly three things. You return one array, and Python tries to unpack its rows.",
    ),
)


# Quiz

why_long_sentences = Quiz(
    "1.a",
    "Why did the encoder-decoder RNNs of 2014 translate long sentences worse than short ones?",
    {
        "a": (
            "Long sentences contain rarer words.",
            "Rare words were a trouble of their own, in short sentences too. What did the decoder receive from the encoder?",
        ),
        "b": (
            "The decoder received a vector of the same length, however long the sentence was.",
            "Yes: more words had to fit into the same few numbers, and the earliest had passed through the most steps.",
        ),
        "c": (
            "The RNN compared each word with each other word, which takes too long.",
            "That is what attention does. An RNN meets each word once; its cost grows only in step with the length.",
        ),
    },
    right="b",
)

cold_or_hot = Quiz(
    "1.b",
    "A soft lookup returns almost the plain average of all values, whatever is asked. Which temperature is likely?",
    {
        "a": ("A very low one.", "A low temperature blows up the gaps between scores, so one key takes nearly all."),
        "b": (
            "A very high one.",
            "Yes: dividing by a large number makes all scores nearly equal, and equal scores give equal shares.",
        ),
        "c": ("Exactly 0.", "Dividing by 0 is not defined. The limit towards 0 is the hard lookup, the opposite case."),
    },
    right="b",
)

only_a_value = Quiz(
    "1.c",
    "You change one value (a book) and no key (a label). What changes for a reader with the same query?",
    {
        "a": (
            "The weights and the output.",
            "The weights come from the query and the keys alone. Has either of them changed?",
        ),
        "b": (
            "The weights, but not the output.",
            "It is the other way round: the weights never look at the values, and the output is made of them.",
        ),
        "c": (
            "The output, but not the weights.",
            "Yes: the key is for being found and the value is what is read. The same shares now mix another book.",
        ),
    },
    right="c",
)

why_faster = Quiz(
    "1.d",
    "On a GPU, training with self-attention is often many times faster than training an RNN. What is the main reason?",
    {
        "a": (
            "It always needs fewer multiplications.",
            "In the count of this chapter it never does: 1.5 times as many for 6 words of 512 numbers, 2.7 times as many for 600.",
        ),
        "b": (
            "All positions can be computed at once; none waits for the one before.",
            "Yes: in training every word is known, so the work of a layer runs side by side. How much that gains depends on the machine.",
        ),
        "c": (
            "Soft lookup needs no training; the weights are computed on the spot.",
            "The weights are computed on the spot, from matrices that are learned. Those are trained like any others.",
        ),
    },
    right="b",
)

a_dictionary = Written(
    "1.w",
    "Is attention a dictionary?",
    minutes=10,
    rubric=(
        "What is right (queries meet keys, values come back); at least two things that are wrong (no exact match is needed, all values are mixed in shares, q, k and v are made by learned matrices); **and** what a single winner would lose (a small change flips it, no slope to learn from).",
        "What is right, that all values are mixed in shares, and one consequence.",
        "That values are mixed rather than picked, without a consequence.",
        "Queries, keys and values named correctly, the “most similar entry” left standing.",
    ),
)
