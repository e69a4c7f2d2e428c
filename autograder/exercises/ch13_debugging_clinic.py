"""Chapter 13, long contexts and the debugging clinic: metrics, five patients, their treatment, and what to choose."""

import math

import numpy as np
import torch

import attn_ref
from attn_ref import clinic
from attn_ref import diagnose as metrics
from autograder.exercise import Exercise, Quiz, Written


def shares(rng, *shape, causal=False):
    """Random weights as a tensor: no row of zeros, each row summing to 1."""
    scores = 2 * rng.normal(size=shape)
    if causal:
        scores = np.where(attn_ref.causal_mask(*shape[-2:]), scores, -np.inf)
    return torch.tensor(attn_ref.softmax(scores))


# --- 13.1 ------------------------------------------------------------------------------------------------------------

distance = Exercise("13.1", "How far a query looks", reference=metrics.attention_distance, minutes=8)


@distance.criterion("each query gets the mean of its distances, weighted by its row", points=2)
def one_map(rng):
    yield dict(weights=torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64))
    yield dict(weights=shares(rng, 7, 7, causal=True))
    yield dict(weights=shares(rng, 40, 40, causal=True))
    yield dict(weights=torch.ones(1, 1, dtype=torch.float64))


@distance.criterion("the last query stands at the last key; keys after a query are as far as keys before it", points=1)
def other_queries_than_keys(rng):
    yield dict(weights=shares(rng, 2, 5, causal=True))
    yield dict(weights=shares(rng, 1, 9))
    yield dict(weights=shares(rng, 6, 6))
    yield dict(weights=shares(rng, 3, 8))
    yield dict(weights=shares(rng, 2, 300))


@distance.criterion("leading axes, such as layers and heads, are kept", points=1)
def layers_and_heads(rng):
    yield dict(weights=shares(rng, 2, 3, 5, 5, causal=True))
    yield dict(weights=shares(rng, 4, 4, 4))
    yield dict(weights=shares(rng, 3, 3, 2, 6))
    yield dict(weights=shares(rng, 1, 2, 4, 7, causal=True))
    yield dict(weights=shares(rng, 1, 3, 1, 5))


distance.leaves_inputs_alone(points=1)


@distance.mistake(
    "You count the queries from position 0 although there are more keys than queries. The last query stands at the last key: where does the first of 2 queries over 5 keys stand?"
)
def queries_counted_from_zero(weights):
    n_q, n_k = weights.shape[-2:]
    gap = abs(torch.arange(n_q)[:, None] - torch.arange(n_k))
    return (weights * gap).sum(-1)


@distance.mistake(
    "You average p - j with its sign, so that a key before the query and one after it cancel. How far is a key that stands two places later?"
)
def signed(weights):
    n_q, n_k = weights.shape[-2:]
    gap = torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k)
    return (weights * gap).sum(-1)


@distance.mistake(
    "You leave out the keys after the query. These maps are not all causal; what should a weight on a later key add?"
)
def later_keys_dropped(weights):
    n_q, n_k = weights.shape[-2:]
    gap = torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k)
    return (weights * gap.clamp(min=0)).sum(-1)


@distance.mistake(
    "You take the distance of the one key with the largest weight. The mean over all keys is asked: what do the other weights add?"
)
def of_the_largest_weight(weights):
    n_q, n_k = weights.shape[-2:]
    positions = torch.arange(n_q) + (n_k - n_q)
    return (positions - weights.argmax(-1)).abs().double()


@distance.mistake(
    "You divide by the number of keys on top of weighting. The weights of a row sum to 1 already: what is then left to divide by?"
)
def divided_by_keys(weights):
    n_q, n_k = weights.shape[-2:]
    gap = abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k))
    return (weights * gap).mean(-1)


@distance.mistake(
    "You average over the queries as well. Each query has a distance of its own: which axes should remain?"
)
def averaged_over_queries(weights):
    n_q, n_k = weights.shape[-2:]
    gap = abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k))
    return (weights * gap).sum(-1).mean(-1)


@distance.mistake(
    "You average over the heads. Heads differ, and that is what one wants to see: which axes should remain?"
)
def averaged_over_heads(weights):
    n_q, n_k = weights.shape[-2:]
    gap = abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k))
    far = (weights * gap).sum(-1)
    return far.mean(-2) if far.ndim > 1 else far


@distance.mistake(
    "You sum down the columns. That tells how far each key is looked at from; which axis runs over the keys of one query?"
)
def summed_down_the_columns(weights):
    n_q, n_k = weights.shape[-2:]
    gap = abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k))
    return (weights * gap).sum(-2)


@distance.mistake(
    "Your distance of a token to itself is 1. Which number do you get for a row that has all its weight on its own key?"
)
def itself_counts_as_one(weights):
    n_q, n_k = weights.shape[-2:]
    gap = abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k)) + 1
    return (weights * gap).sum(-1)


@distance.mistake(
    "You look for the last two axes at fixed places, so a map with heads is read along the wrong ones. Counted from which end do queries and keys stay in place?"
)
def first_two_axes(weights):
    n_q, n_k = weights.shape[:2]
    gap = abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k))
    return (weights * gap).sum(1)


@distance.mistake(
    "The numbers are right, and the caller's weights have been multiplied by the distances: `weights *= ...` writes into them. Which form makes a new tensor?"
)
def weights_overwritten(weights):
    n_q, n_k = weights.shape[-2:]
    weights *= abs(torch.arange(n_q)[:, None] + (n_k - n_q) - torch.arange(n_k))
    return weights.sum(-1)


@distance.mistake(
    "You average the positions that are read, and then take the distance to that average: a key two before and one two after cancel. Which comes first, the distance or the mean?"
)
def distance_to_the_mean_position(weights):
    n_q, n_k = weights.shape[-2:]
    return (torch.arange(n_k - n_q, n_k) - (weights * torch.arange(n_k)).sum(-1)).abs()


@distance.also_right
def one_query_at_a_time(weights):
    flat = weights.reshape(-1, *weights.shape[-2:])
    n_q, n_k = flat.shape[1:]
    out = [[sum(abs(i + n_k - n_q - j) * float(w[i, j]) for j in range(n_k)) for i in range(n_q)] for w in flat]
    return torch.tensor(out, dtype=torch.float64).reshape(weights.shape[:-1])


@distance.also_right
def as_one_product(weights):
    weights = np.asarray(weights)
    n_q, n_k = weights.shape[-2:]
    gap = np.abs(np.subtract.outer(np.arange(n_k - n_q, n_k), np.arange(n_k)))
    return np.einsum("...qk,qk->...q", weights, gap)


@distance.also_right
def by_both_sides(weights):
    n_q, n_k = weights.shape[-2:]
    gap = torch.arange(n_k - n_q, n_k).unsqueeze(1) - torch.arange(n_k)
    return (weights * gap.clamp(min=0)).sum(-1) + (weights * (-gap).clamp(min=0)).sum(-1)


distance.hints(
    "Write the table of distances for 3 queries and 3 keys on paper. Then for 2 queries, the last of which stands at the last "
    "key.",
    "Make the positions of the queries a column and those of the keys a row; broadcasting gives the table. Multiply and sum.",
)
distance.errors(
    (
        "RuntimeError: The size of tensor a (5) must match the size of tensor b (2) at non-singleton dimension 1",
        "The table needs a column for the queries, (n_q, 1), and a row for the keys, (n_k,).",
    ),
)

# --- 13.2 ------------------------------------------------------------------------------------------------------------

sinks = Exercise("13.2", "What goes to the first keys", reference=metrics.sink_mass, minutes=4)


@sinks.criterion("each query gets the share of its first key", points=1)
def one_sink(rng):
    yield dict(weights=torch.tensor([[1.0, 0.0, 0.0], [0.75, 0.25, 0.0]], dtype=torch.float64))
    yield dict(weights=shares(rng, 5, 3))
    yield dict(weights=shares(rng, 4, 4, causal=True))
    yield dict(weights=torch.ones(1, 1, dtype=torch.float64))


@sinks.criterion("the shares of the first n_sinks keys are added up, all keys included if asked for", points=1)
def several_sinks(rng):
    yield dict(weights=torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64), n_sinks=2)
    yield dict(weights=shares(rng, 6, 9), n_sinks=4)
    yield dict(weights=shares(rng, 4, 5), n_sinks=5)
    yield dict(weights=shares(rng, 7, 7, causal=True), n_sinks=3)


@sinks.criterion("leading axes are kept, and a single row will do", points=1)
def any_axes(rng):
    yield dict(weights=shares(rng, 2, 3, 5, 7), n_sinks=2)
    yield dict(weights=shares(rng, 3, 3, 3))
    yield dict(weights=shares(rng, 6), n_sinks=2)
    yield dict(weights=shares(rng, 4, 1, 2, 5))
    yield dict(weights=shares(rng, 3, 1, 5), n_sinks=2)
    yield dict(weights=shares(rng, 1, 2, 2, 6), n_sinks=3)


sinks.leaves_inputs_alone(points=1)


@sinks.mistake(
    "You take the mean of the first keys' weights. How much of its budget does the query spend on them together?"
)
def mean_of_the_first(weights, n_sinks=1):
    return weights[..., :n_sinks].mean(-1)


@sinks.mistake("You cut along the queries. Which axis runs over the keys that are looked at?")
def first_queries(weights, n_sinks=1):
    return weights[..., :n_sinks, :].sum(-2) if weights.ndim > 1 else weights[:n_sinks].sum(-1)


@sinks.mistake("You always take one key. Where does your code read `n_sinks`?")
def always_one_key(weights, n_sinks=1):
    return weights[..., 0]


@sinks.mistake("You take the keys 0 to n_sinks, one too many. Does a slice include its end?")
def one_key_too_many(weights, n_sinks=1):
    return weights[..., : n_sinks + 1].sum(-1)


@sinks.mistake("You take key number n_sinks - 1 alone. What of those before it?")
def only_the_last_sink(weights, n_sinks=1):
    return weights[..., n_sinks - 1]


@sinks.mistake("You add up the last keys, which are the nearest. Where in a row do the first keys stand?")
def last_keys(weights, n_sinks=1):
    return weights[..., -n_sinks:].sum(-1)


@sinks.mistake("You sum the whole row, which is 1 for every query. Which part of it is asked for?")
def whole_row(weights, n_sinks=1):
    return weights.sum(-1)


@sinks.mistake("You average over the queries too. Each query has a sink mass of its own: which axis alone should go?")
def mean_over_queries(weights, n_sinks=1):
    mass = weights[..., :n_sinks].sum(-1)
    return mass.mean(-1) if mass.ndim else mass


@sinks.mistake(
    "Your result keeps the axis of the keys with length 1. One query, one number: which axes should be left?"
)
def axis_kept(weights, n_sinks=1):
    return weights[..., :n_sinks].sum(-1, keepdim=True)


@sinks.mistake(
    "The sums are right, and the caller's weights are not what they were: which line writes 0 into them? A slice of a tensor is a view."
)
def others_set_to_zero(weights, n_sinks=1):
    weights[..., n_sinks:] = 0
    return weights.sum(-1)


@sinks.mistake("Where nothing is said you take four keys. Which number does the first line of the function name?")
def four_by_default(weights, n_sinks=4):
    return weights[..., :n_sinks].sum(-1)


@sinks.mistake("You cut the first axis, which may hold layers or heads. Counted from which end do the keys come first?")
def first_axis(weights, n_sinks=1):
    return weights[:n_sinks].sum(-1)


@sinks.also_right
def one_less_the_rest(weights, n_sinks=1):
    return weights.sum(-1) - weights[..., n_sinks:].sum(-1)


@sinks.also_right
def by_a_product(weights, n_sinks=1):
    weights = np.asarray(weights)
    return weights @ (np.arange(weights.shape[-1]) < n_sinks).astype(float)


sinks.hints(
    "By hand: of a row 0.5, 0.25, 0.25 and n_sinks = 2, which two numbers count?",
    "Keys are the last axis. A slice of it, then a sum along it.",
)

# --- 13.3 ------------------------------------------------------------------------------------------------------------


def needle_map(read, hide, lengths, depths, trials):
    """How often a hidden note is found, for each length and depth.  -> (lengths, depths), 0 to 1"""
    found = np.zeros((len(lengths), len(depths)))
    for row, n in enumerate(lengths):
        for column, depth in enumerate(depths):
            place = 1 + int(depth * (n - 3))
            for trial in range(trials):
                tokens, answer = hide(n, place, trial)
                found[row, column] += read(tokens) == answer
    return found / trials


needles = Exercise("13.3", "Where does it find the needle?", reference=needle_map, minutes=12)


@needles.probe
def drive_needle_map(answer, reader, lengths, depths, trials, m=0):
    """The map of a reader of known eyesight. A text is zeros, its trial's number first, a note, and a question."""

    def hide(n, place, trial):
        if not 1 <= place <= n - 2:
            raise ValueError(f"place must be 1..{n - 2} for a text of {n} tokens, got {place}")
        tokens = torch.zeros(n, dtype=torch.int64)
        note = 300 + (5 * int(trial) + 3 * int(place) + int(n)) % 7
        tokens[0], tokens[place], tokens[-1] = 100 + int(trial), note, 1
        return tokens, note

    def read(tokens):
        trial, seen = int(tokens[0]) - 100, tokens.clone()
        if reader == "sees the last m":
            seen[:-m] = 0
        if reader == "sees the first and the last m":
            seen[m:-m] = 0
        if reader == "sees texts of up to m":
            seen = seen if len(seen) <= m else seen * 0
        if reader == "fails every third trial" and trial % 3 == 2:
            seen = seen * 0
        if reader == "fails the first trial" and trial == 0:
            seen = seen * 0
        if reader == "fails early notes in odd trials" and trial % 2:
            seen[: len(seen) // 2] = 0
        notes = seen[1:-1][seen[1:-1] >= 4]
        return int(notes[0]) if len(notes) else -1

    return answer(read, hide, lengths, depths, trials)


@needles.criterion("rows are lengths and columns depths, for a reader that sees the end of a text only", points=2)
def short_sighted(rng):
    yield dict(reader="sees the last m", lengths=[8, 16], depths=[0.0, 0.5, 1.0], trials=1, m=9)
    yield dict(reader="sees the last m", lengths=[10, 20, 40, 8, 15, 30], depths=[0.0, 0.25, 0.5, 0.9], trials=2, m=8)
    yield dict(reader="sees texts of up to m", lengths=[9, 12, 33], depths=[0.0, 1.0], trials=2, m=12)
    yield dict(reader="sees the last m", lengths=[9, 17, 25], depths=[0.0, 0.6, 1.0], trials=1, m=12)


@needles.criterion(
    "the note stands where the depth says: 0 is place 1, 1 is place n - 2, fractions are cut off", points=1
)
def places(rng):
    for m in (2, 3, 7, 12):
        yield dict(
            reader="sees the first and the last m",
            lengths=[24],
            depths=[0.0, 0.06, 0.3, 0.52, 0.96, 1.0],
            trials=1,
            m=m,
        )
    for m in (2, 3):
        yield dict(reader="sees the last m", lengths=[24, 31], depths=[0.97, 0.99, 1.0], trials=1, m=m)


@needles.criterion("an entry is the share of the trials 0, 1, … that were right", points=1, tolerance=2e-7)
def share_of_trials(rng):
    yield dict(reader="fails every third trial", lengths=[11, 14], depths=[0.0, 0.5, 1.0], trials=7)
    yield dict(reader="fails early notes in odd trials", lengths=[12], depths=[0.1, 0.9], trials=5)
    yield dict(reader="fails every third trial", lengths=[9], depths=[0.4], trials=3)
    yield dict(reader="fails the first trial", lengths=[10, 8], depths=[0.0, 0.7, 0.8], trials=4)
    yield dict(reader="fails early notes in odd trials", lengths=[8, 9, 30], depths=[0.2], trials=2)


@needles.mistake("Your rows are depths and your columns lengths. Which of the two should run down?")
def turned(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t) for t in range(trials))]) for n in lengths] for depth in depths]  # fmt: skip
    return np.array(table)


@needles.mistake(
    "You measure the depth from the end. Should a note at depth 0 stand at the beginning or before the question?"
)
def depth_from_the_end(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int((1 - depth) * (n - 3)), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake("You count right answers and do not divide. What is the largest number that an entry may have?")
def counts_not_shares(read, hide, lengths, depths, trials):
    table = [[float(sum(read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t) for t in range(trials)))) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake("Your table is in percent. Between which two numbers does a share lie?")
def in_percent(read, hide, lengths, depths, trials):
    table = [[100 * np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake(
    "Every trial reads the same text: `hide` gets the same trial number each time. What is the average of one text read five times?"
)
def one_text_for_all_trials(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), 0) for _ in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake("Your trials run from 1 to `trials`. Which numbers does the text name?")
def trials_from_one(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t + 1) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake("You round the place to the nearest one. The fraction is to be cut off: where does 0.52 of 21 stand?")
def rounded_places(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + round(depth * (n - 3)), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake(
    "Your notes stand one place too early at the end: with n - 4 steps from place 1, depth 1 is not the place before the question. How many steps lie between place 1 and place n - 2?"
)
def one_step_short(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 4)), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake(
    "You scale the depth by the whole length. At depth 1 the note then falls on the question or behind it; which places are free for a note?"
)
def depth_of_the_whole_text(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, int(depth * n), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake("You look at the last trial only, or divide its result by all. Does every trial add to its entry?")
def only_the_last_trial(read, hide, lengths, depths, trials):
    table = np.zeros((len(lengths), len(depths)))
    for row, n in enumerate(lengths):
        for column, depth in enumerate(depths):
            for t in range(trials):
                tokens, answer = hide(n, 1 + int(depth * (n - 3)), t)
                table[row, column] = read(tokens) == answer
    return table


@needles.mistake(
    "Your table has one row: all lengths are averaged. A map is there to tell them apart; which axis is missing?"
)
def lengths_averaged(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table).mean(0, keepdims=True)


@needles.mistake("An entry is 1 if any trial was right. How often is the note found, and not whether it ever is?")
def found_at_least_once(read, hide, lengths, depths, trials):
    table = [[float(any(read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t) for t in range(trials)))) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake("You round the place up. The fraction is to be cut off: which place has n = 24 and depth 0.52?")
def rounded_up(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, 1 + int(np.ceil(depth * (n - 3))), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake(
    "You count the fraction from place 0 and move a note off the start where it falls on it. Between which two places do the steps lie?"
)
def pushed_off_the_start(read, hide, lengths, depths, trials):
    table = [[np.mean([read(tokens) == answer for tokens, answer in (hide(n, max(1, int(depth * (n - 2))), t) for t in range(trials))]) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.mistake(
    "An entry is 1 only if every trial was right. How often is the note found, and not whether it always is?"
)
def found_every_time(read, hide, lengths, depths, trials):
    table = [[float(all(read(tokens) == answer for tokens, answer in (hide(n, 1 + int(depth * (n - 3)), t) for t in range(trials)))) for depth in depths] for n in lengths]  # fmt: skip
    return np.array(table)


@needles.also_right
def as_nested_lists(read, hide, lengths, depths, trials):
    def right(n, depth, trial):
        tokens, answer = hide(n, math_floor(depth * (n - 3)) + 1, trial)
        return 1.0 if read(tokens) == answer else 0.0

    def math_floor(x):
        return int(np.floor(x))

    return [[sum(right(n, depth, t) for t in range(trials)) / trials for depth in depths] for n in lengths]


@needles.also_right
def through_attn_ref(read, hide, lengths, depths, trials):
    shape = (len(lengths), len(depths), trials)
    answers, notes = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    for row, column, trial in np.ndindex(*shape):
        n = lengths[row]
        tokens, notes[row, column, trial] = hide(n, 1 + int(depths[column] * (n - 3)), trial)
        answers[row, column, trial] = read(tokens)
    return attn_ref.diagnose.needle_accuracy(answers, notes)


@needles.also_right
def as_a_tensor(read, hide, lengths, depths, trials):
    found = torch.zeros(trials, len(lengths), len(depths), dtype=torch.float64)
    for trial in range(trials):
        for column, depth in enumerate(depths):
            for row, n in enumerate(lengths):
                tokens, answer = hide(n, 1 + int(depth * (n - 3)), trial)
                found[trial, row, column] = int(read(tokens)) == int(answer)
    return found.mean(0)


needles.hints(
    "Write three loops, over lengths, depths and trials, and print the place of each note before you call anything.",
    "From place 1 to n - 2 there are n - 3 steps, and `int` cuts a fraction off. Inside, count the trials in which `read` "
    "gives the answer.",
)
needles.errors(
    (
        "ValueError: place must be 1..22 for a text of 24 tokens, got 23",
        "The last token is the question and token 0 the start, so notes have the places in between.",
    ),
)

# --- 13.4 ------------------------------------------------------------------------------------------------------------

copies = Exercise("13.4", "How much is copied", reference=metrics.copy_rate, minutes=12)


@copies.criterion("against a source: the share of n-grams that stand in it word for word", points=2, tolerance=2e-7)
def from_a_source(rng):
    yield dict(tokens=[1, 2, 3, 9], source=[0, 1, 2, 3, 4], n=2)
    yield dict(tokens=rng.integers(4, size=40).tolist(), source=rng.integers(4, size=25).tolist(), n=3)
    yield dict(tokens=[3, 4, 5, 6, 3, 4, 5, 6, 7], source=[9, 3, 4, 5, 6, 8], n=3)  # copied twice counts twice
    yield dict(tokens=[1, 2, 3, 4], source=[4, 3, 2, 1, 3, 2, 4], n=2)  # the same words in another order
    yield dict(tokens=[1, 23, 5], source=[12, 3, 5, 4], n=2)
    yield dict(tokens=[101, 0, 50_256], source=[1, 1, 50_256, 101], n=2)  # numbers of any size
    yield dict(tokens=[1001, 4, 1001, 9, 10_001, 4, 10_001], source=[1, 5, 1], n=2)  # alike in base 1000 or 10,000
    yield dict(tokens=[1, 2, 3], source=[11, 2, 5, 2, 31], n=2)  # "1 2" is in the text "11 2", and no n-gram of it


@copies.criterion("without a source: the share of n-grams that stood earlier in the text", points=1, tolerance=2e-7)
def from_itself(rng):
    yield dict(tokens=[5, 6, 5, 6, 5], n=2)
    yield dict(tokens=rng.integers(3, size=50).tolist(), n=3)
    yield dict(tokens=[7, 7, 7, 7, 7, 7], n=2)
    yield dict(tokens=[1, 12, 11, 2, 1, 1, 12], n=2)
    yield dict(tokens=[4, 8, 15, 16, 23, 42], n=2)
    yield dict(tokens=[*range(100, 240), 100, 101, 102, 103], n=3)  # copied from far back


@copies.criterion("any n from 1 on, 3 by default, and texts of n tokens", points=1, tolerance=2e-7)
def any_n(rng):
    tokens, source = rng.integers(3, size=30).tolist(), rng.integers(3, size=20).tolist()
    yield dict(tokens=tokens, source=source)
    yield dict(tokens=tokens)
    yield dict(tokens=tokens, source=source, n=1)
    yield dict(tokens=tokens, n=1)
    yield dict(tokens=[2, 3, 4], source=[1, 2, 3, 4])
    yield dict(tokens=[5, 6, 7, 8], source=[8, 7, 5, 6], n=4)
    yield dict(tokens=tokens + source, source=tokens, n=5)


copies.leaves_inputs_alone(points=1)


@copies.mistake(
    "You count different n-grams. A phrase copied twice is copied twice: how many n-grams does the text hold?"
)
def different_ones_only(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return len(set(written) & known) / len(set(written))


@copies.mistake("You divide by the number of tokens. How many n-grams do 5 tokens hold for n = 2?")
def divided_by_tokens(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return (len(written) - len(set(written))) / len(tokens)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(tokens)


@copies.mistake("Your last n-gram is missing: for 4 tokens and n = 2 there are three. Where does the range end?")
def last_one_missing(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n)] or [tuple(tokens)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake(
    "You ask whether the words of an n-gram occur in the source, in any order and anywhere. Does “word for word” not mean next to each other, in this order?"
)
def words_anywhere(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    return sum(set(gram) <= set(source) for gram in written) / len(written)


@copies.mistake("You sort the words of each n-gram, or compare sets: 1, 2 and 2, 1 become the same. Does order count?")
def order_ignored(tokens, source=None, n=3):
    written = [tuple(sorted(tokens[i : i + n])) for i in range(len(tokens) - n + 1)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {tuple(sorted(source[i : i + n])) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake(
    "You join the numbers to a text without a gap, so 1, 23 and 12, 3 both read 123. What keeps two tokens apart in a tuple?"
)
def joined_to_text(tokens, source=None, n=3):
    written = ["".join(str(t) for t in tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {"".join(str(t) for t in source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake(
    "Without a source you count every n-gram that occurs more than once, its first occurrence included. Had the first one stood earlier?"
)
def first_occurrence_counted(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return sum(written.count(gram) > 1 for gram in written) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake(
    "Without a source your text is compared with itself, so everything is copied. What is “earlier in the text”?"
)
def compared_with_itself(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    known = set(written) if source is None else {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake("You count what is new. The question is how much is copied.")
def share_of_the_new(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return len(set(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram not in known for gram in written) / len(written)


@copies.mistake(
    "You measure how much of the source was used. Whose n-grams are to be counted, the source's or the text's?"
)
def share_of_the_source(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    grams = [tuple(source[i : i + n]) for i in range(len(source) - n + 1)]
    return sum(gram in set(written) for gram in grams) / len(grams)


@copies.mistake("Your n-grams do not overlap: you step by n. Does one begin at every token?")
def steps_of_n(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(0, len(tokens) - n + 1, n)]
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake("You compare single tokens whatever n is. Where does your code read `n`?")
def single_tokens(tokens, source=None, n=3):
    if source is None:
        return 1 - len(set(tokens)) / len(tokens)
    return sum(t in source for t in tokens) / len(tokens)


@copies.mistake(
    "The share is right, and the caller's list is not: `sort`, `pop` and `append` change it. Which of them did you call?"
)
def list_used_up(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    while len(tokens) > n:
        tokens.pop()
    if source is None:
        return 1 - len(set(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake(
    "Without a source you leave out the n-grams that overlap with the earlier ones. In 7 7 7, does the second 77 not stand where the first has already stood?"
)
def overlaps_left_out(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if source is None:
        return sum(gram in written[: max(0, i - n + 1)] for i, gram in enumerate(written)) / len(written)
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in written) / len(written)


@copies.mistake(
    "With a source you also count what stood earlier in the text. Which of the two is asked for when a source is given?"
)
def source_and_text(tokens, source=None, n=3):
    written = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    known = set() if source is None else {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known or gram in written[:i] for i, gram in enumerate(written)) / len(written)


@copies.also_right
def by_a_loop(tokens, source=None, n=3):
    tokens, copied, total = list(tokens), 0, 0
    for start in range(len(tokens) - n + 1):
        gram, total = tokens[start : start + n], total + 1
        place = tokens[: start + n - 1] if source is None else list(source)
        copied += any(place[i : i + n] == gram for i in range(len(place) - n + 1))
    return copied / total


@copies.also_right
def with_windows_of_an_array(tokens, source=None, n=3):
    view = np.lib.stride_tricks.sliding_window_view
    written = view(np.array(tokens), n)
    if source is None:
        return 1 - len(np.unique(written, axis=0)) / len(written)
    return np.mean((written[:, None] == view(np.array(source), n)).all(-1).any(-1))


@copies.also_right
def with_a_growing_memory(tokens, source=None, n=3):
    grams = list(zip(*(tokens[i:] for i in range(n)), strict=False))
    seen = set() if source is None else set(zip(*(source[i:] for i in range(n)), strict=False))
    hits = []
    for gram in grams:
        hits.append(gram in seen)
        if source is None:
            seen.add(gram)
    return torch.tensor(hits).float().mean()


copies.hints(
    "List the 2-grams of 1, 2, 3, 9 on paper. How many are there, and which stand in 0, 1, 2, 3, 4?",
    "Tuples can be put into a set: those of the source, or those so far as you walk along the text.",
)
copies.errors(
    (
        "TypeError: unhashable type: 'list'",
        "A set holds things that cannot change. Turn the slice into a <code>tuple</code> first.",
    ),
)

# --- 13.5 ------------------------------------------------------------------------------------------------------------

NAMES = dict(zip(("leak", "window", "scale", "pad", "cache"), clinic.BUGS, strict=True))

# What each layer of the clinic does. (bug or None, what is different).
LAYERS = {
    "healthy, sees all": (None, {}),
    "healthy, with the window it promises": (None, {}),
    "healthy, sums in another order": (None, {"noise": 1e-13}),
    "healthy, off by less than a millionth": (None, {"noise": 2e-8}),
    "healthy, with NaN in the rows of padding": (None, {"padded_rows": math.nan}),
    "healthy, with large numbers in the rows of padding": (None, {"padded_rows": 1e4}),
    "healthy, hides with -1e9": (None, {"fill": -1e9}),
    "leaky, one key ahead": ("leak", {"seen": lambda i, j, m: j <= i + 1}),
    "leaky, all keys": ("leak", {"seen": lambda i, j, m: j >= 0 * i}),
    "leaky, one key far ahead": ("leak", {"seen": lambda i, j, m: (j <= i) | (j == i + m)}),
    "leaky, blocks that see themselves": ("leak", {"seen": lambda i, j, m: (j <= i) | (i // m == j // m)}),
    "leaky, later keys get a score of -6": ("leak", {"ahead": -6.0}),
    "leaky, the first token sees all": ("leak", {"seen": lambda i, j, m: (j <= i) | (i == 0)}),
    "leaky, a ten-thousandth of the next value": ("leak", {"peek": 1e-4}),
    "a window one key short": ("window", {"width": lambda window, m: window - 1}),
    "half the window": ("window", {"width": lambda window, m: window // 2}),
    "a window where none was spoken of": ("window", {"width": lambda window, m: m}),
    "one token that misses the first key": ("window", {"seen": lambda i, j, m: (j <= i) & ((i != m) | (j > 0))}),
    "no scale": ("scale", {"scale": lambda d: 1.0}),
    "padding not hidden": ("pad", {"text": lambda j, pad: j >= 0}),
    "the last padding not hidden": ("pad", {"text": lambda j, pad: j >= pad - 1}),
    "the first padding not hidden": ("pad", {"text": lambda j, pad: (j >= pad) | (j == 0)}),
    "padding hidden from the first token of the text alone": ("pad", {"readers": lambda i, pad: i > pad}),
    "padding with a score of 0": ("pad", {"padded_score": 0.0}),
    "positions from 0 after the cut": ("cache", {"of_q": lambda p, cut: p % (cut or 10**6), "of_k": lambda p, cut: p - cut * (p >= cut)}),
    "positions one too late after the cut": ("cache", {"of_q": lambda p, cut: p + (p >= cut) * (cut > 0), "of_k": lambda p, cut: p + (p >= cut) * (cut > 0)}),
    "queries from 0 after the cut": ("cache", {"of_q": lambda p, cut: p - cut * (p >= cut)}),
    "keys from 0 after the cut": ("cache", {"of_k": lambda p, cut: p - cut * (p >= cut)}),
    "leaky, in texts of m, 2m, 3m ... tokens": ("other", {"seen": lambda i, j, m: (j <= i) | ((j == i + 1) & (len(j) % m == 0))}),
    "a share of each row that goes nowhere": ("other", {"lost": True}),
    "no rotation": ("other", {"of_q": lambda p, cut: 0 * p, "of_k": lambda p, cut: 0 * p}),
    "positions start again after m": ("other", {"wrap": True}),
    "the first key dropped after m tokens": ("other", {"seen": lambda i, j, m: (j <= i) & ((j > 0) | (i < m))}),
}  # fmt: skip
LAYERS["positions from 0 after the cut"][1]["of_q"] = LAYERS["positions from 0 after the cut"][1]["of_k"]


def build(kind, window=None, m=0):
    """A layer of the clinic with nothing in its name or its attributes that tells what it is."""
    how = LAYERS[kind][1]
    seen = how.get("seen", lambda i, j, m: j <= i)
    of_q, of_k = (how.get(name, lambda p, cut: p) for name in ("of_q", "of_k"))
    text = how.get("text", lambda j, pad: j >= pad)

    def model(q, k, v, pad=0, cut=0):
        q, k, v = (torch.as_tensor(x, dtype=torch.float64) for x in (q, k, v))
        n, d = q.shape
        pad, cut = int(pad), int(cut)
        j = torch.arange(n)
        i = j[:, None]
        places = [j % m if how.get("wrap") else of(j, cut) for of in (of_q, of_k)]
        scores = attn_ref.rope(q, places[0]) @ attn_ref.rope(k, places[1]).T
        scores = scores * how.get("scale", lambda d: d**-0.5)(d)
        allowed = seen(i, j, m) & ((i >= cut) | (j < cut))  # what has not arrived cannot be seen
        width = how.get("width", lambda window, m: window)(window, m)
        if width is not None:
            allowed = allowed & (i - j < width)
        if "padded_score" in how:
            scores = torch.where(j < pad, torch.full_like(scores, how["padded_score"]), scores)
        else:
            allowed = allowed & (text(j, pad) | how.get("readers", lambda i, pad: i < 0)(i, pad))
        scores = torch.where(allowed, scores, torch.full_like(scores, how.get("fill", -math.inf)))
        if "ahead" in how:
            scores = torch.where((j > i) & ((i >= cut) | (j < cut)), torch.full_like(scores, how["ahead"]), scores)
        out = attn_ref.softmax(scores) @ v
        if "peek" in how:
            ahead = (j < n - 1) & (j != cut - 1)  # the next token has arrived
            out = out + how["peek"] * ahead[:, None] * (v.roll(-1, 0) - out)
        if "lost" in how:
            out = out * torch.sigmoid(torch.logsumexp(scores, -1, keepdim=True))  # one more in the denominator
        out = out * (1 + how.get("noise", 0.0) * torch.sin(1e3 * v.sum()))
        out[:pad] = how.get("padded_rows", 0.0)
        return out

    model.window = window
    return model


def diagnosis(kind):
    bug = LAYERS[kind][0]
    return "healthy" if bug is None else NAMES[bug]


def diagnose(model):
    """The bug of a layer, by its name, or "healthy"."""
    n = 40
    generator = torch.Generator().manual_seed(13)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)  # as values: the output is then the table of weights
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0].abs() > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    scores = attn_ref.rope(q, range(n)) @ attn_ref.rope(k, range(n)).T / 8**0.5
    expected = scores.masked_fill(~promised, -torch.inf).softmax(-1)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5].abs() > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), expected, atol=1e-6):
        return "RoPE offset"
    return "healthy"


diagnosing = Exercise("13.5", "Name the bug", reference=diagnose, minutes=30, time_limit=30)


@diagnosing.probe
def drive_diagnose(answer, kind, window=None, m=0):
    """The learner's word on one layer; the card names the layer."""
    return {kind: answer(build(kind, window, m))}


@diagnosing.criterion("the five bugs in their plainest form, and a healthy layer", points=2)
def plain_patients(rng):
    yield dict(kind="healthy, sees all")
    yield dict(kind="leaky, one key ahead")
    yield dict(kind="a window one key short", window=12)
    yield dict(kind="no scale")
    yield dict(kind="padding not hidden")
    yield dict(kind="positions from 0 after the cut")


@diagnosing.criterion("leaks of every reach; a layer that keeps its window is healthy", points=1)
def leaks(rng):
    window = int(rng.integers(6, 30))
    yield dict(kind="healthy, with the window it promises", window=window)
    yield dict(kind="leaky, all keys")
    yield dict(kind="leaky, one key far ahead", m=int(rng.integers(20, 35)))
    yield dict(kind="leaky, one key far ahead", m=39)  # shows on 40 tokens and on no fewer
    yield dict(kind="leaky, blocks that see themselves", m=int(rng.integers(3, 7)), window=window)
    yield dict(kind="leaky, the first token sees all")
    yield dict(kind="leaky, later keys get a score of -6")
    yield dict(kind="leaky, a ten-thousandth of the next value")
    yield dict(kind="leaky, one key ahead", window=window)


@diagnosing.criterion("windows that fall short, for all tokens or for one; a window of 1 can be healthy", points=1)
def windows(rng):
    yield dict(kind="healthy, with the window it promises", window=1)
    yield dict(kind="healthy, with the window it promises", window=2)
    yield dict(kind="a window one key short", window=int(rng.integers(25, 39)))
    yield dict(kind="a window one key short", window=39)
    yield dict(kind="half the window", window=int(rng.integers(8, 30)))
    yield dict(kind="a window where none was spoken of", m=int(rng.integers(30, 39)))
    yield dict(kind="healthy, hides with -1e9", window=int(rng.integers(25, 39)))
    yield dict(kind="one token that misses the first key", m=int(rng.integers(10, 30)))


@diagnosing.criterion("padding hidden in part, or from some; what stands in its own rows does not matter", points=1)
def paddings(rng):
    yield dict(kind="healthy, with NaN in the rows of padding")
    yield dict(kind="healthy, with large numbers in the rows of padding", window=int(rng.integers(5, 20)))
    yield dict(kind="the last padding not hidden", window=int(rng.integers(5, 20)))
    yield dict(kind="the first padding not hidden")
    yield dict(kind="padding hidden from the first token of the text alone")
    yield dict(kind="padding with a score of 0")


@diagnosing.criterion("positions that go wrong after the cut in any way; rounding is healthy", points=1)
def offsets(rng):
    yield dict(kind="healthy, sums in another order")
    yield dict(kind="positions one too late after the cut")
    yield dict(kind="queries from 0 after the cut")
    yield dict(kind="keys from 0 after the cut", window=int(rng.integers(10, 30)))
    yield dict(kind="positions from 0 after the cut", window=int(rng.integers(10, 30)))


@diagnosing.criterion("a missing scale and seen padding under a window", points=1)
def under_a_window(rng):
    yield dict(kind="no scale", window=int(rng.integers(3, 9)))
    yield dict(kind="padding with a score of 0", window=int(rng.integers(6, 12)))
    yield dict(kind="healthy, with the window it promises", window=int(rng.integers(3, 9)))
    yield dict(kind="padding not hidden", window=int(rng.integers(3, 9)))


@diagnosing.mistake(
    "You look at the cut before you look at the mask. A leaky layer changes with the cut too, because before the cut there is less to peek at. Which bug can disturb which test, and which test can trust nobody?"
)
def accuses_the_cache_first(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    return "healthy"


@diagnosing.mistake(
    "You compare with the healthy layer first and call every difference a missing scale. A leak and a short window change the same table: what has to be excluded before the scale is to blame?"
)
def accuses_the_scale_first(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "With q and k full of zeros all scores are 0, whatever the scale and whatever the positions. Which two bugs can such a text never show?"
)
def zeros_for_q_and_k(model):
    n = 40
    q, k = torch.zeros(2, n, 8, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "Your text has 8 tokens. A window of 24 that is one short, or a leak from 30 tokens ahead, does not show in it. How long are the texts that the contract speaks of?"
)
def a_text_too_short(model):
    n = 8
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=4), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You look at the rows of padding too. The contract says that they mean nothing: from which row on does the text begin?"
)
def padded_rows_judged(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You call every window too small, also where the layer keeps the window it promises. Where does your code read `model.window`?"
)
def the_promise_ignored(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = back >= 0
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "A window that is one key short passes. Which is the oldest key that a token under a window of w may see, itself being the first of the w?"
)
def the_oldest_key_not_tested(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n) - 1)
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You test the window only where one is promised. `None` is a promise too: how far back must a token see then?"
)
def no_promise_no_test(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if model.window is not None and (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You look for a leak from the next token alone. Leaks can come from further ahead: which part of the table must be empty?"
)
def only_the_next_key(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back == -1] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You take rows that sum to 1 for proof against leaks. A leaky softmax sums to 1 as well. Which entries of the table must be 0?"
)
def rows_that_sum_to_one(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (abs(weights.sum(-1) - 1) > 1e-6).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You ask for equality to the last bit. Sums in another order differ by rounding, which is no illness. Which difference is too large for rounding?"
)
def exactly_equal(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.equal(weights, expected):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You look at the first padded key alone. Suppose all of the padding is hidden but its last token: which keys have to be looked at?"
)
def only_the_first_padding(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :1] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You look at the last padded key alone. Suppose the first one is forgotten, as an off-by-one at the other end does: which keys have to be looked at?"
)
def only_the_last_padding(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, 4:5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You never pass `pad`, so a layer that reads padding looks healthy. What may no row of the text read when pad = 5?"
)
def never_padded(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You never pass `cut`, so the cache is never used. What should a cut change, and what does it change in a sick layer?"
)
def never_cut(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    return "healthy"


@diagnosing.mistake("No test of yours depends on the scale. With scores that you know, which weights do you expect?")
def never_compared_with_a_scale(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You overlook leaks below 0.001. How small may the weight of a forbidden key be, by the text of the exercise?"
)
def faint_leaks_overlooked(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-3).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake(
    "You test the window of the last token alone. Suppose that it falls short for one token in the middle: which rows keep the same promise?"
)
def window_of_the_last_row(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[-1][promised[-1]] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5:, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake("You look for padding in the first row of the text alone. Which other rows could read it?")
def padding_of_the_first_row(model):
    n = 40
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    weights = model(q, k, eye)
    back = torch.arange(n)[:, None] - torch.arange(n)
    if (weights[back < 0] > 1e-9).any():
        return "leaky mask"
    promised = (back >= 0) & (back < (model.window or n))
    if (weights[promised] == 0).any():
        return "small window"
    expected = attn_ref.clinic.layer(model.window)(q, k, eye)
    if not torch.allclose(weights, expected, atol=1e-6):
        return "missing scale"
    if (model(q, k, eye, pad=5)[5, :5] > 1e-9).any():
        return "padded keys"
    if not torch.allclose(model(q, k, eye, cut=20), weights, atol=1e-6):
        return "RoPE offset"
    return "healthy"


@diagnosing.mistake("Every layer is healthy in your eyes. What does the table of weights of a leaky one look like?")
def all_are_healthy(model):
    return "healthy"


@diagnosing.mistake("You return the bugs as a list. A layer has at most one: which form does the text ask for?")
def a_list_of_bugs(model):
    q, k = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eye = torch.eye(40, dtype=torch.float64)
    healthy, found = attn_ref.clinic.layer(model.window), []
    if not torch.allclose(model(q, k, eye), healthy(q, k, eye)):
        found.append("missing scale")
    return found


@diagnosing.also_right
def by_influence(model):
    n = 40
    q, k, v = torch.randn(3, n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def readers(j, **how):
        changed = v.clone()
        changed[j] += 1.0
        return (model(q, k, changed, **how) - model(q, k, v, **how)).abs().amax(-1) > 1e-9

    reads = torch.stack([readers(j) for j in range(n)], dim=1)
    window = n if model.window is None else model.window
    if torch.triu(reads, 1).any():
        return "leaky mask"
    if not all(reads[i, j] for i in range(n) for j in range(max(0, i - window + 1), i + 1)):
        return "small window"
    turned = attn_ref.rope(q, range(n)), attn_ref.rope(k, range(n))
    right = attn_ref.attention(*turned, v, causal=True, window=window)
    if (model(q, k, v) - right).abs().max() > 1e-6:
        return "missing scale"
    if any(readers(j, pad=3)[3:].any() for j in range(3)):
        return "padded keys"
    worst = max(float((model(q, k, v, cut=cut) - right).abs().max()) for cut in (1, 7, n - 1))
    return "RoPE offset" if worst > 1e-6 else "healthy"


@diagnosing.also_right
def with_two_tokens_for_the_scale(model):
    rng = np.random.default_rng(3)
    q, k = (torch.tensor(rng.normal(size=(40, 6))) for _ in range(2))
    reads = model(0 * q, 0 * k, torch.eye(40, dtype=torch.float64)).numpy() > 0
    if (np.triu(reads, 1)).any():
        return "leaky mask"
    if model.window != 1:
        first = np.array([row.argmax() for row in reads])
        if (first != np.maximum(0, np.arange(40) - (model.window or 40) + 1)).any():
            return "small window"
        pair = torch.zeros(2, 4, dtype=torch.float64)
        pair[1, 0] = 2.0  # the second token's score with itself is 2 · 2 / √4, with the first 0
        shares = model(pair, pair, torch.eye(2, dtype=torch.float64))[1]
        if abs(float(torch.log(shares[1] / shares[0])) - 2.0) > 1e-3:
            return "missing scale"
    padded = [model(q, k, torch.eye(40, dtype=torch.float64), pad=pad)[pad:, :pad] for pad in (1, 2, 4)]
    if any(float(part.abs().max()) > 1e-9 for part in padded):
        return "padded keys"
    v = torch.tensor(rng.normal(size=(40, 3)))
    same = [torch.allclose(model(q, k, v, cut=cut), model(q, k, v), atol=1e-7) for cut in range(1, 40)]
    return "healthy" if all(same) else "RoPE offset"


diagnosing.hints(
    "Pass the identity as v: the output is then the table of weights, queries down, keys across. Print it for patient C.",
    "Ask in this order: is anything above the diagonal; is something exactly 0 that the window promises; are the numbers those "
    "of the healthy layer; does a row of the text read padding; does the cut change anything.",
    "`clinic.layer(model.window)` says what is healthy; `allclose` with a tolerance of a millionth compares.",
)
diagnosing.errors(
    (
        "TypeError: '&lt;' not supported between instances of 'Tensor' and 'NoneType'",
        "<code>model.window</code> is None where no window is promised.",
    ),
)


# --- 13.6 ------------------------------------------------------------------------------------------------------------


def smallest_test(model):
    """The shortest text on which a layer departs from its promise, and what a healthy one gives; None if there is none."""
    healthy = clinic.layer(model.window)
    generator = torch.Generator().manual_seed(13)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


smallest = Exercise("13.6", "The smallest failing test", reference=smallest_test, minutes=20, time_limit=30)


@smallest.probe
def drive_smallest_test(answer, kind, window=None, m=0):
    """The test is run on the layer that it was written for and on healthy ones that promise the same."""
    test = answer(build(kind, window, m))
    if LAYERS[kind][0] is None or test is None:
        return {f"test for: {kind}": "no test" if test is None else "a test"}
    told = {f"test for: {kind}": "a test"}
    if not isinstance(test, dict) or not {"q", "k", "v", "pad", "cut", "expected"} <= test.keys():
        return {**told, "its form": "not a dict of q, k, v, pad, cut and expected"}
    inputs = {name: test[name] for name in ("q", "k", "v", "pad", "cut")}
    expected, pad = torch.as_tensor(test["expected"], dtype=torch.float64), int(test["pad"])

    def passes(model):
        out = model(**inputs)
        return out.shape == expected.shape and bool(((out - expected)[pad:].abs() <= 1e-6).all())

    healthy = [
        build("healthy, sums in another order", window),
        build("healthy, with NaN in the rows of padding", window),
    ]
    return {
        **told,
        "its form": "a dict of q, k, v, pad, cut and expected",
        "this layer fails it": not passes(build(kind, window, m)),
        "healthy layers pass it": all(passes(model) for model in healthy),
        "tokens in it": len(inputs["q"]),
    }


@smallest.criterion("a test for each plain patient, of the fewest tokens, which healthy layers pass", points=2)
def one_for_each_patient(rng):
    yield dict(kind="leaky, one key ahead")
    yield dict(kind="a window one key short", window=int(rng.integers(5, 13)))
    yield dict(kind="no scale")
    yield dict(kind="padding not hidden")
    yield dict(kind="positions from 0 after the cut")


@smallest.criterion("no test for a healthy layer", points=1)
def nothing_to_test(rng):
    yield dict(kind="healthy, sees all")
    yield dict(kind="healthy, with the window it promises", window=int(rng.integers(3, 12)))
    yield dict(kind="healthy, sums in another order")
    yield dict(kind="healthy, off by less than a millionth")
    yield dict(kind="healthy, with NaN in the rows of padding")
    yield dict(kind="healthy, with large numbers in the rows of padding", window=4)
    yield dict(kind="no scale", window=2)  # so that a function that never finds a test earns nothing here


@smallest.criterion("bugs that show in longer texts only get the fewest tokens that show them", points=2)
def longer_ones(rng):
    yield dict(kind="a window where none was spoken of", m=int(rng.integers(17, 30)))
    yield dict(kind="leaky, one key far ahead", m=int(rng.integers(9, 16)))
    yield dict(kind="half the window", window=2 * int(rng.integers(3, 9)) + 1)
    yield dict(kind="a window one key short", window=40)
    yield dict(kind="leaky, in texts of m, 2m, 3m ... tokens", m=8)


@smallest.criterion("faint bugs, and bugs that have no name in the table, are caught all the same", points=1)
def bugs_without_a_name(rng):
    yield dict(kind="the first key dropped after m tokens", m=int(rng.integers(6, 20)))
    yield dict(kind="no rotation")
    yield dict(kind="positions start again after m", m=int(rng.integers(5, 12)))
    yield dict(kind="positions one too late after the cut")
    yield dict(kind="padding with a score of 0")
    yield dict(kind="a share of each row that goes nowhere")
    yield dict(kind="leaky, a ten-thousandth of the next value")


@smallest.mistake(
    "You try a text of 40 tokens and no shorter one. It fails, but a colleague has to read 40 tokens: which length comes first if you look for the shortest?"
)
def one_long_text(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in (40,):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake("You double the length, so a bug that needs 9 tokens gets a test of 16. Which lengths do you skip?")
def powers_of_two(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 4, 8, 16, 32, 40):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake(
    "You give up before 40 tokens. A window of 40 that is one short needs all of them: how far does the contract say to look?"
)
def stops_too_early(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 21):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake("Your shortest text has two tokens. Which bugs show on a single one?")
def starts_at_two(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(2, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
            test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
            expected = healthy(**test)
            if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                return {**test, "expected": expected}
    return None


@smallest.mistake(
    "You halve the range of lengths, which trusts that a bug shown by 8 tokens is shown by 9 too. What of a bug that shows in texts of 8, 16, 24 tokens?"
)
def by_bisection(model):
    healthy = attn_ref.clinic.layer(model.window)

    def failing(n):
        q, k, v = torch.randn(3, n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}

    low, high = 1, 40
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if failing(middle) else (middle + 1, high)
    return failing(low)


@smallest.mistake("You overlook differences below 0.001. From which size on does the contract speak of a difference?")
def faint_bugs_overlooked(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-3):
                    return {**test, "expected": expected}
    return None


@smallest.mistake("Your q and k are zeros, so all scores are 0. Which bugs change nothing then?")
def zeros_and_no_scores(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = (
                    torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                    * torch.tensor([0.0, 0, 1])[:, None, None]
                )
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake("You never pad. Which patient looks healthy then?")
def never_with_padding(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake("You never cut. Which patient looks healthy then?")
def never_with_a_cut(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake(
    "Your `expected` is what the patient gave, so the patient passes and healthy layers fail. Whose output should a test expect?"
)
def expects_what_it_got(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": model(**test)}
    return None


@smallest.mistake(
    "You compare the rows of padding too. They mean nothing and may hold NaN: from which row on does the text begin?"
)
def padding_compared(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test), expected, rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake(
    "You ask for equality to the last bit, so a layer that sums in another order gets a test. Which difference is no rounding?"
)
def equal_to_the_last_bit(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.equal(model(**test)[pad:], expected[pad:]):
                    return {**test, "expected": expected}
    return None


@smallest.mistake(
    "A difference of a hundred-millionth is enough for you, so a layer that keeps its promise gets a test. By how much must a layer miss what is expected?"
)
def a_tolerance_too_fine(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-10):
                    return {**test, "expected": expected}
    return None


@smallest.mistake("You compare the last row. It has no later token to peek at: which row of a text shows a leak?")
def only_the_last_row(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[-1:], expected[-1:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake(
    "You compare with a layer that sees everything, so a layer that keeps its promised window gets a test. Where is the promise written?"
)
def promise_of_a_window_ignored(model):
    healthy = attn_ref.clinic.layer()
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            if max(pad, cut) < n:
                q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
                test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
                expected = healthy(**test)
                if not torch.allclose(model(**test)[pad:], expected[pad:], rtol=0, atol=1e-6):
                    return {**test, "expected": expected}
    return None


@smallest.mistake(
    "No layer gets a test from you. Are all your values equal, so that every average of them is the same, or does the function end before its `return`?"
)
def never_a_test(model):
    return None


@smallest.mistake(
    "You return the inputs and not what a healthy layer gives on them. How is a reader to know that the test failed?"
)
def nothing_expected(model):
    healthy = attn_ref.clinic.layer(model.window)
    generator = torch.Generator().manual_seed(0)
    for n in range(2, 41):
        for pad, cut in ((0, 0), (1, 0), (0, 1)):
            q, k, v = torch.randn(3, n, 4, generator=generator, dtype=torch.float64)
            test = {"q": q, "k": k, "v": v, "pad": pad, "cut": cut}
            if not torch.allclose(model(**test)[pad:], healthy(**test)[pad:], rtol=0, atol=1e-6):
                return test
    return None


@smallest.also_right
def beginnings_of_one_text(model):
    """The beginnings of one text of 40 tokens; padding and a cut are tried apart, and the shortest of the three wins."""
    healthy = attn_ref.clinic.layer(model.window)
    q, k, v = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    best = None
    for pad, cut in ((0, 0), (1, 0), (0, 1)):

        def differs(n, pad=pad, cut=cut):
            how = dict(pad=pad, cut=cut)
            gap = model(q[:n], k[:n], v[:n], **how) - healthy(q[:n], k[:n], v[:n], **how)
            return n > max(pad, cut) and bool((gap[pad:].abs() > 1e-6).any())

        lengths = [n for n in range(1, 41) if differs(n)]
        if lengths and (best is None or lengths[0] < len(best["q"])):
            n = lengths[0]
            out = healthy(q[:n], k[:n], v[:n], pad=pad, cut=cut)
            best = {"q": q[:n], "k": k[:n], "v": v[:n], "pad": pad, "cut": cut, "expected": out}
    return best


@smallest.also_right
def with_arrays_and_the_identity(model):
    rng = np.random.default_rng(2)
    for n in range(1, 41):
        for pad in (0, 1):
            for cut in (0, 1):
                q, k = torch.tensor(rng.normal(size=(2, n, 2)))
                eye = torch.eye(n, dtype=torch.float64)
                turned = [attn_ref.rope(x, np.arange(n)) for x in (q, k)]
                hidden = {"allowed": torch.arange(n) >= pad}
                right = attn_ref.attention(*turned, eye, causal=True, window=model.window, **hidden)
                got = model(q, k, eye, pad=pad, cut=cut)
                if pad < n and cut < n and float((got - right)[pad:].abs().nan_to_num(1.0).max()) > 1e-5:
                    return dict(q=q, k=k, v=eye, pad=pad, cut=cut, expected=right)


smallest.hints(
    "A loop over lengths, shortest first; inside it the ways to call a layer; inside that one comparison. What do you return "
    "where the loops end?",
    "Per length three calls suffice: plain, with one token of padding, with a cut of one. `clinic.layer(model.window)` gives "
    "what is expected. Compare the rows from `pad` on.",
)
smallest.errors(
    (
        "RuntimeError: max(): Expected reduction dim to be specified for input.numel() == 0",
        "One token that is padding leaves no row to compare. Begin that call at n = 2.",
    ),
)

# --- 13.7 ------------------------------------------------------------------------------------------------------------


def treated(q, k, v, window=None, pad=0, cut=0):
    """One causal head, in two pieces, with a window, padding hidden, rotations and the scale.  -> (n, d_v)"""
    return clinic.layer(window)(q, k, v, pad=pad, cut=cut)


treatment = Exercise(
    "13.7",
    "Treat all five",
    reference=treated,
    minutes=12,
    forbids=(
        "attn_ref.clinic",
        "attn_ref.clinic.layer",
        "attn_ref.attention",
        "attn_ref.decode_step",
        "attn_ref.prefill_in_chunks",
        "attn_ref.tiled_attention",
        "attn_ref.flash_forward",
        "attn_ref.attention_packed",
        "attn_ref.attention_left_padded",
        "attn_ref.paged_attention",
        "attn_ref.MultiHeadAttention",
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.MultiheadAttention",
    ),
)


@treatment.probe
def drive_treated(answer, q, k, v, window=None, pad=0, cut=0):
    """The rows of the text; those of padding mean nothing."""
    out = answer(q, k, v, window=window, pad=pad, cut=cut)
    return out[pad:] if pad else out


def text_of(rng, n, d, d_v, size=1.0):
    q, k = size * torch.tensor(rng.normal(size=(2, n, d)))
    return {"q": q, "k": k, "v": torch.tensor(3 * rng.normal(size=(n, d_v)))}


@treatment.criterion("no token reads a later one", points=1)
def no_leak(rng):
    v = torch.tensor([[4.0], [8.0]], dtype=torch.float64)
    yield dict(q=torch.zeros(2, 2, dtype=torch.float64), k=torch.zeros(2, 2, dtype=torch.float64), v=v)
    yield {**text_of(rng, 1, 4, 3)}
    zeros = {"q": torch.zeros(7, 2, dtype=torch.float64), "k": torch.zeros(7, 2, dtype=torch.float64)}
    yield {**zeros, "v": torch.tensor(30 * rng.normal(size=(7, 7)))}


@treatment.criterion("scores are divided by the root of their width, for any width and any size", points=1)
def scaled(rng):
    yield {**text_of(rng, 6, 16, 5)}
    yield {**text_of(rng, 9, 2, 1)}
    yield {**text_of(rng, 8, 8, 8)}
    yield {**text_of(rng, 7, 4, 3, size=40.0)}  # scores in the thousands
    huge = text_of(rng, 5, 6, 2, size=200.0)
    yield {**huge, "k": -huge["q"]}  # each token's own score is far below -10,000


@treatment.criterion("a window of w shows w tokens, the token itself included", points=1)
def whole_window(rng):
    for window in (1, 2, 5, 30):
        yield {**text_of(rng, 11, 6, 4), "window": window}


@treatment.criterion("the text reads no padding", points=1)
def padding_hidden(rng):
    yield {**text_of(rng, 9, 4, 3), "pad": 1}
    yield {**text_of(rng, 9, 4, 3), "pad": 4}
    yield {**text_of(rng, 10, 6, 2), "pad": 3, "window": 4}


@treatment.criterion("a cut changes nothing, also with a window and padding", points=1)
def any_cut(rng):
    for cut in (1, 5, 8):
        yield {**text_of(rng, 9, 4, 3), "cut": cut}
    yield {**text_of(rng, 9, 6, 9), "cut": 9}
    yield {**text_of(rng, 12, 6, 5), "cut": 7, "window": 3}
    yield {**text_of(rng, 12, 6, 5), "cut": 4, "pad": 2}
    yield {**text_of(rng, 13, 4, 1), "cut": 3, "pad": 5, "window": 6}


treatment.leaves_inputs_alone(points=1)


@treatment.mistake(
    "The leak is still there: a token reads the one behind it. With zeros for q and k and the values 4 and 8, what should the first token read?"
)
def still_leaky(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= -1
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "The window is still one key short. With a window of 1 a token sees itself: how far back may `back` then be?"
)
def still_short_sighted(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window - 1)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "The window now shows one key too many. With a window of 1 a token sees itself alone: which values of `back` are allowed?"
)
def a_window_too_wide(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back <= window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("The scores are still not divided by the root of the width. What is that root for 16 numbers?")
def still_unscaled(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("You divide by the root of the values' width. Which numbers does a score multiply and add up?")
def scaled_by_the_values(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / v.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "`exp` of a large score is infinite, and infinity divided by infinity is NaN. What does softmax take off before it?"
)
def exponentials_of_large_scores(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        raised = torch.exp(scores) * allowed
        parts.append(raised / raised.sum(-1, keepdim=True) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "You hide with a score of -10,000, and some scores that may be read are lower. Which score is below all others?"
)
def hidden_by_ten_thousand(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -1e4)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("You divide by the root of the number of tokens. Which axis does a dot product sum over?")
def scaled_by_the_length(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / len(q) ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "You divide by d where its root is meant. How large is a typical dot product of two random vectors of length d?"
)
def scaled_twice_over(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1]
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("The padding is still read. Which keys must be out of reach for every token of the text?")
def padding_still_read(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("The last token of the padding is still read. Which is the first key of the text when pad = 4?")
def one_padding_still_read(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad - 1)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "The first token of the text is hidden along with the padding. Which is the first key of the text when pad = 4?"
)
def one_text_token_hidden(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) > pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "You return the rows of the text and leave out those of padding. How many rows does the answer have?"
)
def rows_of_padding_cut_off(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)[pad:]


@treatment.mistake(
    "You give padding a score of 0, which is a score like any other. Which score stands for “forbidden”?"
)
def padding_with_score_zero(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        scores = scores * (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("The second piece still counts its positions from 0. At which position does its first token stand?")
def second_piece_from_zero(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(end - start)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("The queries of the second piece stand right now, its keys do not. Which positions do they need?")
def keys_still_from_zero(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], range(end - start))])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake("The keys of the second piece stand right now, its queries do not. Which positions do they need?")
def queries_still_from_zero(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], range(end - start)) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "Your mask counts the rows of the second piece from 0, so its first token is treated as the first of the text. Where does it stand among the keys?"
)
def mask_of_the_piece(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(end - start)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.mistake(
    "The second piece reads itself alone: what came before the cut is not in its keys. What is a cache for?"
)
def first_piece_forgotten(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = attn_ref.rope(k[start:end], places)
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(start, end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(start, end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[start:end])
    return torch.cat(parts)


@treatment.mistake("You return the rows of the second piece alone. How many rows does the answer have?")
def only_the_second_piece(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return parts[-1]


@treatment.mistake("You turn the values as well. Position belongs into the scores: what does a value carry?")
def values_turned_too(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T / q.shape[1] ** 0.5
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(
            attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf))
            @ (attn_ref.rope(v, range(len(v)))[:end] if v.shape[1] % 2 == 0 else v[:end].roll(1, 1))
        )
    return torch.cat(parts)


@treatment.mistake(
    "The output is right, and the caller's q is not what it was: `q /= ...` or `q *= ...` writes into it. Which form makes a new tensor?"
)
def queries_overwritten(q, k, v, window=None, pad=0, cut=0):
    keys, parts = k[:0], []
    q *= q.shape[1] ** -0.5
    for start, end in ((0, cut), (cut, len(q))):
        if start == end:
            continue
        places = range(start, end)
        keys = torch.cat([keys, attn_ref.rope(k[start:end], places)])
        scores = attn_ref.rope(q[start:end], places) @ keys.T
        back = torch.arange(start, end)[:, None] - torch.arange(end)
        allowed = back >= 0
        if window is not None:
            allowed = allowed & (back < window)
        allowed = allowed & (torch.arange(end) >= pad)
        parts.append(attn_ref.softmax(scores.masked_fill(~allowed, -torch.inf)) @ v[:end])
    return torch.cat(parts)


@treatment.also_right
def in_one_piece(q, k, v, window=None, pad=0, cut=0):
    """A cut changes nothing in a healthy layer, so it need not be made."""
    n, d = q.shape
    q, k = (attn_ref.rope(x, np.arange(n)) for x in (q, k))
    out = torch.zeros(n, v.shape[1], dtype=v.dtype)
    for i in range(pad, n):
        first = max(pad, 0 if window is None else i - window + 1)
        shares = torch.softmax(k[first : i + 1] @ q[i] * d**-0.5, dim=0)
        out[i] = shares @ v[first : i + 1]
    return out


@treatment.also_right
def with_arrays(q, k, v, window=None, pad=0, cut=0):
    n = len(q)
    reach = n if window is None else window
    q, k, v = (x.numpy() for x in (q, k, v))
    scores = attn_ref.attention_scores(attn_ref.rope(q, range(n)), attn_ref.rope(k, range(n)))
    allowed = attn_ref.sliding_window_mask(n, n, reach) & (np.arange(n) >= pad)
    return (attn_ref.softmax(np.where(allowed, scores, -np.inf)) @ v).tolist()


@treatment.also_right
def piece_after_piece(q, k, v, window=None, pad=0, cut=0):
    cache, parts = attn_ref.KVCache(), []
    for new_q, new_k, new_v in zip(*(x.tensor_split([cut]) for x in (q, k, v)), strict=True):
        if len(new_q) == 0:
            continue
        at = torch.arange(cache.length, cache.length + len(new_q))
        keys, values = cache.append(attn_ref.rope(new_k, at)[None, None], new_v[None, None])
        j = torch.arange(keys.shape[2])
        hidden = (j > at[:, None]) | (j < pad)
        if window:
            hidden |= j <= at[:, None] - window
        scores = torch.einsum("qd,kd->qk", attn_ref.rope(new_q, at), keys[0, 0]) / q.shape[-1] ** 0.5
        parts += (scores.masked_fill(hidden, -1e30).softmax(-1) @ values[0, 0]).unbind(0)
    return torch.stack(parts)


treatment.hints(
    "`sick_layer.window = None` makes it a patient. Run `diagnose`, treat what it names, and run it again: the next bug comes "
    "to light. The window is left to your eyes.",
    "Ask of each line which promise it keeps: where the piece stands, the scale, the mask, the window. The padding has no line "
    "yet.",
)

# --- 13.8 ------------------------------------------------------------------------------------------------------------


def choose(requirements):
    """What to use for these requirements, in the order of the table.  dict -> list of names"""
    r, chosen = requirements, ["flash"]
    if r["serving"]:
        cache = r["texts"] * r["length"] * r["bytes_per_token"]
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


choosing = Exercise("13.8", "The decision table as code", reference=choose, minutes=12)
GIB = 2**30


def needs(**changed):
    """Requirements that ask for nothing beyond the cache, and what is different."""
    usual = dict(
        serving=True, texts=4, length=8192, bytes_per_token=2**19, memory=40 * GIB, heads_per_kv=4, far=False,
        trained_length=8192,
    )  # fmt: skip
    return dict(requirements={**usual, **changed})


@choosing.criterion("FlashAttention always, the cache where texts are served and nowhere else", points=1)
def always(rng):
    yield needs()
    yield needs(serving=False)
    yield needs(serving=False, texts=1000, length=4096)
    yield needs(texts=1, length=1)
    yield needs(serving=False, texts=10**6, memory=1, far=True)


@choosing.criterion("shared heads where the cache outgrows the memory, if the model offers any", points=2)
def shared_heads(rng):
    yield needs(texts=11)
    yield needs(texts=10)  # exactly full: 10 · 8192 · 2¹⁹ is 40 GiB
    yield needs(texts=40)  # exactly full with a quarter of the heads
    yield needs(texts=int(rng.integers(12, 39)), far=True)
    yield needs(texts=80, heads_per_kv=8)


@choosing.criterion("a window where shared heads do not suffice, and retrieval if far things are needed", points=2)
def windows_and_retrieval(rng):
    yield needs(texts=41)
    yield needs(texts=41, far=True)
    yield needs(texts=11, heads_per_kv=1)
    yield needs(texts=11, heads_per_kv=1, far=True)
    yield needs(length=131_072, texts=3, far=True, trained_length=131_072)
    yield needs(texts=3, length=3, bytes_per_token=5, memory=14, heads_per_kv=3)
    yield needs(texts=1, length=43, bytes_per_token=1, memory=14, heads_per_kv=3)
    long = dict(length=2**25 + 1, trained_length=2**26)
    yield needs(texts=1, **long, bytes_per_token=1, memory=2**25, heads_per_kv=1)  # one byte too many


@choosing.criterion(
    "positions are stretched for texts beyond the trained length, unless a window keeps them near", points=1
)
def stretched(rng):
    yield needs(length=8193, texts=2)
    yield needs(length=32_768, texts=2)
    yield needs(length=32_768, texts=9)
    yield needs(length=32_768, texts=11, far=True)
    yield needs(length=32_768, texts=11)
    yield needs(serving=False, length=65_536, trained_length=4096)
    yield needs(serving=False, length=65_536, trained_length=4096, far=True)
    yield needs(length=32_768, texts=2, far=True)
    yield needs(length=2048, trained_length=2048, texts=1)


choosing.leaves_inputs_alone(points=1)


@choosing.mistake(
    "You choose a cache for training too. Training reads whole texts at once: which token's keys would it wait for?"
)
def cache_in_training(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    chosen.append("cache")
    if r["serving"]:
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You apply the rules of the cache's memory to training as well, where there is no cache. Which rows of the table ask whether texts are served?"
)
def memory_rules_in_training(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
    if True:
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You choose shared heads where the model has one KV head for each query head. What does `heads_per_kv` = 1 say?"
)
def heads_that_are_not_there(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"]:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "A cache that fits exactly counts as too large in your table. Does the text say “more than” or “at least”?"
)
def full_is_too_full(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache >= r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] >= r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You choose a window as soon as the whole cache is too large. By how much do shared heads shrink it first?"
)
def window_before_sharing(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You divide with `//`, which rounds down: 43 // 3 is 14 and fits into 14, 43 / 3 does not. Which of the two is meant?"
)
def division_rounds_down(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache // r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You choose retrieval wherever far things are needed, also where all positions are kept anyway. Which row of the table does retrieval belong to?"
)
def retrieval_without_a_window(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
        if r["far"]:
            chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake("A window hides what lies far back. Where does your code read `far`?")
def never_retrieval(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You stretch positions although a window keeps all distances short. How far apart can a query and a key be then?"
)
def positions_despite_a_window(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"]:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You leave positions alone only where retrieval was chosen. Does a window keep distances short without it?"
)
def positions_unless_retrieval(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "retrieval" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You stretch positions only where texts are served. A model can also be trained further on longer texts: does the row ask for serving?"
)
def positions_when_served_only(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["serving"] and r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You stretch positions only where nothing far is needed. Does the last row of the table ask for that?"
)
def positions_for_near_things_only(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen and not r["far"]:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "You choose a window only where shared heads were chosen before. What remains to a model with heads_per_kv = 1?"
)
def window_after_sharing_only(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if "gqa" in chosen and cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake(
    "A text of exactly the trained length counts as too long in your table. Has the model seen such a text?"
)
def trained_length_is_too_long(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] >= r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake("You count the cache of one text. How many texts are served at once?")
def one_text_only(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake("You return after the first row that applies. The rows add up: which others apply?")
def first_match_only(requirements):
    for name, applies in (("flash", True), ("cache", requirements["serving"])):
        if applies:
            return [name]


@choosing.mistake(
    "You choose FlashAttention only for long texts. The first row has no condition: what does it cost to use it always?"
)
def flash_where_it_is_needed(requirements):
    r, chosen = requirements, ["flash"] if requirements["length"] > 4096 else []
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen


@choosing.mistake("The right names, in another order. In which order does the table list them?")
def another_order(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    return chosen[::-1]


@choosing.mistake(
    "You write into the caller's dict. The next call starts from what this one left: where is a new name enough?"
)
def defaults_written_in(requirements):
    r, chosen = requirements, ["flash"]
    cache = r["texts"] * r["length"] * r["bytes_per_token"]
    if r["serving"]:
        chosen.append("cache")
        if cache > r["memory"] and r["heads_per_kv"] > 1:
            chosen.append("gqa")
        if cache / r["heads_per_kv"] > r["memory"]:
            chosen.append("window")
            if r["far"]:
                chosen.append("retrieval")
    if r["length"] > r["trained_length"] and "window" not in chosen:
        chosen.append("positions")
    requirements["cache"] = cache
    return chosen


@choosing.also_right
def row_by_row(requirements):
    need = dict(requirements)
    kept = need["texts"] * need["length"] * need["bytes_per_token"] if need["serving"] else 0
    window = kept > need["memory"] * need["heads_per_kv"]
    rows = {
        "flash": True,
        "cache": need["serving"],
        "gqa": kept > need["memory"] and need["heads_per_kv"] != 1,
        "window": window,
        "retrieval": window and need["far"],
        "positions": not window and need["length"] > need["trained_length"],
    }
    return [name for name, applies in rows.items() if applies]


@choosing.also_right
def as_a_tuple_that_grows(requirements):
    def grows(serving, texts, length, bytes_per_token, memory, heads_per_kv, far, trained_length):
        yield "flash"
        per_token, fits = texts * bytes_per_token, memory / length
        if serving:
            yield "cache"
            if per_token > fits and heads_per_kv >= 2:
                yield "gqa"
            if per_token > fits * heads_per_kv:
                yield "window"
                if far:
                    yield "retrieval"
                return
        if trained_length < length:
            yield "positions"

    return tuple(grows(**requirements))


choosing.hints(
    "Compute the cache once. Start from a list with “flash” and append in the order of the table.",
    "The last row looks into the list: was a window chosen?",
)

# --- questions -------------------------------------------------------------------------------------------------------

sink = Quiz(
    "13.a",
    "A model spends 60 % of its attention on the first token. A colleague concludes that the first token is important. "
    "What is right?",
    {
        "a": (
            "The first token carries the meaning of the whole text.",
            "Under a causal mask it has read nothing but itself. What could it know of the text?",
        ),
        "b": (
            "Softmax must spend its 1 somewhere, and a key with a harmless value is a place for what is not needed.",
            "Yes. Whether the key is needed all the same, a window that drops it will show.",
        ),
        "c": (
            "Nothing depends on it, so a window may drop it.",
            "In this chapter's model the loss on words grew by more than half when it went: what was parked there had to go elsewhere.",
        ),
    },
    right="b",
)
needle = Quiz(
    "13.b",
    "A model finds every needle in texts of 100,000 tokens, at every depth. What has been shown?",
    {
        "a": (
            "That it uses a context of 100,000 tokens well.",
            "A needle asks for one token that differs from all others. Putting together what is spread over a text is another "
            "task, and models that find needles fail at it.",
        ),
        "b": (
            "That no window or position code keeps a single conspicuous token out of reach.",
            "Yes: a needle test can show that something is out of reach. It cannot show that the rest is used.",
        ),
        "c": (
            "That its attention weights are right.",
            "Answers are not weights. Needles may be found by few heads while all others are broken.",
        ),
    },
    right="b",
)
order = Quiz(
    "13.c",
    "A layer gives other outputs with a cut than without. Which bugs of the table can cause that?",
    {
        "a": (
            "The RoPE offset alone.",
            "A leaky layer changes as well: before the cut there are no later tokens to peek at.",
        ),
        "b": (
            "The RoPE offset and the leaky mask.",
            "Yes. So the mask has to be examined first, and then the cut speaks about positions alone.",
        ),
        "c": (
            "Any of the five.",
            "A missing scale, a short window and seen padding are the same on both sides of a cut.",
        ),
    },
    right="b",
)
masked = Quiz(
    "13.d",
    "You pass a mask with a window of 256 to PyTorch's scaled_dot_product_attention for 4,096 tokens. What do you save?",
    {
        "a": (
            "Fifteen sixteenths of the time.",
            "Of the pairs, that many are masked. A dense program computes them all and then hides them.",
        ),
        "b": (
            "The memory of the cache.",
            "A mask hides keys; they are all still there. A rolling cache is what forgets them.",
        ),
        "c": (
            "Nothing, until a program skips what the mask hides.",
            "Yes. Cutting the text into blocks, as in this chapter, or a kernel that knows the window does that.",
        ),
    },
    right="c",
)

capstone = Written(
    "13.w",
    "Choose, justify, measure",
    minutes=90,
    rubric=(
        "names the model and its numbers, compares the cache with the budget, chooses by the table and says why not the "
        "alternatives, predicts at least two results, measures quality at several lengths and depths and a cost, shows the code's "
        "numbers, and says what they do not prove",
        "computes the memory, chooses by the table and measures, with a gap: no prediction, one length only, or nothing about what "
        "was not shown",
        "chooses sensibly and gives reasons, with a number that is computed, and measures little or nothing",
        "names a method without a computation or a measurement",
    ),
)
