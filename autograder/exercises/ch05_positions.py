"""Chapter 05, positions: is order seen at all, sinusoids, rotations in both pairings, ALiBi, longer contexts."""

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

# --- 5.1 -------------------------------------------------------------------------------------------------------------


def order_matters(layer, x):
    """Does the order of the rows matter to this layer?  layer: (n, d) -> (n, d), x (n, d) -> bool"""
    out = layer(x)
    for i in range(len(x) - 1):  # each swap of two neighbours
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if not np.allclose(layer(x[order]), out[order], rtol=0, atol=1e-6):
            return True
    return False


def with_one_row_raised(row):
    def layer(x):
        out = np.tanh(x)
        out[row] += 0.5
        return out

    return layer


def with_one_number_raised(x):
    """One row in its last feature."""
    out = np.tanh(x)
    out[1, -1] += 0.5
    return out


def with_the_first_row_turned_round(x):
    """The first row's features in reverse: the sum and the length of every row stay."""
    out = np.tanh(x)
    out[0] = out[0, ::-1]
    return out


def with_a_faint_number(x):
    """Tenths around 20, with 0.002 added to a single one: little for outputs of this size, and still order."""
    out = np.round(x, 1) + 20
    out[2, 1] += 0.002
    return out


def with_a_weighted_sum(x):
    """To every row the sum of the first feature, in which later rows weigh more."""
    return x + np.arange(len(x)) @ x[:, 0] / len(x)


def raised_by_rank(x):
    """Each row by how many rows are larger in the first column: no order of rows enters."""
    return x + (x[:, :1] > x[:, 0]).sum(axis=1, keepdims=True) / len(x)


LAYERS = {
    # The order does not matter.
    "attention": lambda x: attn_ref.attention(x, x, x),
    "attention with two tables": lambda x: attn_ref.attention(np.sin(3 * x), np.cos(2 * x), x),
    "tanh of each row": np.tanh,
    "each row minus the mean": lambda x: x - x.mean(axis=0),
    "the mean in every row": lambda x: 0 * x + x.mean(axis=0),
    "softmax down the columns": lambda x: attn_ref.softmax(x, axis=0),
    "ranks": raised_by_rank,
    "attention, values times 100,000": lambda x: attn_ref.attention(x, x, 1e5 * x),
    # The order matters.
    "causal attention": lambda x: attn_ref.attention(x, x, x, causal=True),
    "attention with codes": lambda x: attn_ref.attention(*[x + attn_ref.sinusoidal(*x.shape)] * 3),
    "attention with faint codes": lambda x: attn_ref.attention(x, x, x + 0.01 * attn_ref.sinusoidal(*x.shape)),
    "attention with ALiBi": lambda x: attn_ref.attention(x, x, x, bias=attn_ref.alibi_bias(1, len(x), len(x))[0]),
    "mean with both neighbours, in a ring": lambda x: (np.roll(x, 1, axis=0) + x + np.roll(x, -1, axis=0)) / 3,
    "distance from the middle": lambda x: np.tanh(x) + abs(np.arange(len(x)) - (len(x) - 1) / 2)[:, None] / len(x),
    "every row hands on to the next": lambda x: np.roll(x, 1, axis=0),
    "every second row": lambda x: np.tanh(x) + 0.5 * (np.arange(len(x)) % 2)[:, None],
    "row 1 raised in its last feature": with_one_number_raised,
    "a sum in which later rows weigh more": with_a_weighted_sum,
    "rows turned round": lambda x: x[::-1].copy(),
    "rows turned by RoPE": lambda x: attn_ref.rope(x, np.arange(len(x))),
    "features of row 0 in reverse": with_the_first_row_turned_round,
    "tenths around 20, one number 0.002 higher": with_a_faint_number,
    **{f"row {row} raised": with_one_row_raised(row) for row in range(7)},
}

order = Exercise("5.1", "Does order matter to this layer?", reference=order_matters, minutes=15)


@order.probe
def judge_a_layer(answer, layer, x):
    return answer(LAYERS[layer], x)


@order.criterion("attention passes, and is caught with a causal mask or with codes for positions", points=1)
def attention_layers(rng):
    for layer in ("attention", "causal attention", "attention with codes", "attention with two tables"):
        yield dict(layer=layer, x=rng.normal(size=(6, 4)))
    yield dict(layer="attention with ALiBi", x=rng.normal(size=(5, 2)))
    yield dict(layer="attention", x=rng.normal(size=(2, 3)))


@order.criterion("an effect on a single row is found wherever it is; a layer that works row by row passes", points=1)
def one_row(rng):
    yield dict(layer="tanh of each row", x=rng.normal(size=(5, 3)))
    for row in range(7):
        yield dict(layer=f"row {row} raised", x=rng.normal(size=(7, 3)))
    yield dict(layer="row 1 raised", x=rng.normal(size=(2, 2)))
    yield dict(layer="row 1 raised in its last feature", x=rng.normal(size=(5, 3)))
    yield dict(layer="features of row 0 in reverse", x=rng.normal(size=(5, 4)))
    yield dict(layer="rows turned by RoPE", x=rng.normal(size=(5, 4)))


@order.criterion("effects that a rotation or a reversal of the rows would hide are found", points=1)
def symmetric_effects(rng):
    yield dict(layer="each row minus the mean", x=rng.normal(size=(6, 3)))
    yield dict(layer="ranks", x=rng.normal(size=(5, 2)))
    for layer in (
        "mean with both neighbours, in a ring",
        "distance from the middle",
        "every row hands on to the next",
        "every second row",
        "rows turned round",
    ):
        yield dict(layer=layer, x=rng.normal(size=(8, 3)))
    for low, high in ((-1.2, 0.3), (0.9, -0.7)):  # the one swap lowers every output, or raises every one
        x = np.array([[low], [high]]) + 0.1 * rng.random(size=(2, 1))
        yield dict(layer="a sum in which later rows weigh more", x=x)


@order.criterion("rounding is not taken for order, nor a small effect for rounding", points=1)
def rounding(rng):
    yield dict(layer="the mean in every row", x=rng.normal(size=(9, 50)))
    yield dict(layer="softmax down the columns", x=rng.normal(size=(12, 5)))
    yield dict(layer="attention", x=rng.normal(size=(12, 16)))
    yield dict(layer="attention with faint codes", x=rng.normal(size=(7, 4)))
    yield dict(layer="attention, values times 100,000", x=rng.normal(size=(12, 6)))
    yield dict(layer="tenths around 20, one number 0.002 higher", x=rng.normal(size=(8, 5)))


order.leaves_inputs_alone(points=1)


@order.mistake(
    "You ask whether the output stays the same when the rows are reordered. With attention the rows of the output move along with those of the input, and that is no sign of order. With what should the new output be compared?"
)
def asked_for_the_same_output(layer, x):
    out = layer(x)
    for i in range(len(x) - 1):
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if not np.allclose(layer(x[order]), out):
            return True
    return False


@order.mistake(
    "Your answer is turned round: True where order plays no part, False where it does. Read the name of the function aloud; what should `order_matters(attention)` be?"
)
def turned_round(layer, x):
    out = layer(x)
    for i in range(len(x) - 1):
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if not np.allclose(layer(x[order]), out[order]):
            return False
    return True


@order.mistake(
    "You try one order only, the reversed one. Some layers treat both ends alike, such as a layer that marks how far a row is from the middle. Which other orders could you try?"
)
def only_reversed(layer, x):
    return not np.allclose(layer(x[::-1]), layer(x)[::-1])


@order.mistake(
    "You only rotate the rows, so that each keeps its neighbours. A layer that mixes neighbours in a ring passes this test. Which reordering separates neighbours?"
)
def only_rotated(layer, x):
    return any(not np.allclose(layer(np.roll(x, s, axis=0)), np.roll(layer(x), s, axis=0)) for s in range(1, len(x)))


@order.mistake(
    "You rotate and you reverse the rows. In a ring, both keep every row's neighbours, so a layer that mixes neighbours passes. What does a random order do to them?"
)
def rotated_and_reversed(layer, x):
    orders = [np.roll(np.arange(len(x)), s) for s in range(len(x))]
    orders += [one[::-1] for one in orders]
    return any(not np.allclose(layer(x[one]), layer(x)[one]) for one in orders)


@order.mistake(
    "You swap the first two rows and no others. An effect on the last row never shows. Which other orders are there?"
)
def only_the_first_two(layer, x):
    order = np.arange(len(x))
    order[[0, 1]] = 1, 0
    return not np.allclose(layer(x[order]), layer(x)[order])


@order.mistake(
    "You swap the first row with the last and leave the rest in place, so an effect on a row in between never shows. Which other orders are there?"
)
def only_the_ends(layer, x):
    order = np.arange(len(x))
    order[[0, -1]] = len(x) - 1, 0
    return not np.allclose(layer(x[order]), layer(x)[order])


@order.mistake(
    "Your test compares exactly. A sum taken in another order differs in its 16th digit, and so attention itself is called order-aware. How large a difference should count?"
)
def compared_exactly(layer, x):
    out = layer(x)
    for i in range(len(x) - 1):
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if not np.array_equal(layer(x[order]), out[order]):
            return True
    return False


@order.mistake(
    "Only differences above a tenth count in your test, and a faint code for positions stays below that. Rounding is a thousand million times smaller; where could the line be drawn?"
)
def small_effects_forgiven(layer, x):
    out = layer(x)
    for i in range(len(x) - 1):
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if np.abs(layer(x[order]) - out[order]).max() > 0.1:
            return True
    return False


@order.mistake(
    "You compare sums over the rows. A layer that hands every row on to the next keeps its sum in any order. Which row of the new output belongs to which row of the old one?"
)
def compared_by_sums(layer, x):
    out = layer(x)
    for i in range(len(x) - 1):
        order = np.arange(len(x))
        order[[i, i + 1]] = i + 1, i
        if not np.allclose(layer(x[order]).sum(axis=0), out.sum(axis=0)):
            return True
    return False


@order.mistake(
    "You undo the reordering with the reordering itself: `layer(x[order])[order]` against `layer(x)`. That works for a swap; for other orders the way back is another one. Which index array undoes `order`?"
)
def undone_with_the_same_order(layer, x):
    rng = np.random.default_rng(0)
    orders = [np.roll(np.arange(len(x)), 1)] + [rng.permutation(len(x)) for _ in range(20)]
    return any(not np.allclose(layer(x[one])[one], layer(x)) for one in orders)


@order.mistake(
    "You reorder the features, along axis 1, where the tokens lie along axis 0. Which axis of x is the order of the text?"
)
def features_reordered(layer, x):
    out = layer(x)
    return any(not np.allclose(layer(np.roll(x, s, axis=1)), np.roll(out, s, axis=1)) for s in range(1, x.shape[1]))


@order.mistake(
    "The verdicts are right, and x comes back with its rows in another order: something shuffles the caller's array in place. Which call gives a reordered copy?"
)
def shuffled_in_place(layer, x):
    before, out, rng = x.copy(), layer(x), np.random.default_rng(0)
    for _ in range(30):
        order = rng.permutation(len(x))
        x[:] = before[order]
        if not np.allclose(layer(x), out[order]):
            return True
    x[:] = before[::-1]
    return False


@order.mistake(
    "You look for outputs that have grown. With two rows in this order, every output falls instead. Which sign may a difference have?"
)
def differences_with_their_sign(layer, x):
    out = layer(x)
    for i in range(len(x)):
        for j in range(i):
            order = np.arange(len(x))
            order[[i, j]] = j, i
            if (layer(x[order]) - out[order]).max() > 1e-4:
                return True
    return False


@order.mistake(
    "You compare the sum of each row. A layer that exchanges two features of one row keeps that sum. Which numbers should be compared one by one?"
)
def compared_by_sums_of_features(layer, x):
    out, rng = layer(x), np.random.default_rng(0)
    orders = [rng.permutation(len(x)) for _ in range(50)]
    return any(np.abs(layer(x[one]).sum(axis=1) - out[one].sum(axis=1)).max() > 1e-4 for one in orders)


@order.mistake(
    "You compare the lengths of the rows. A layer that rotates each row by its position keeps every length. Which numbers should be compared one by one?"
)
def compared_by_lengths(layer, x):
    out, rng = layer(x), np.random.default_rng(0)
    orders = [rng.permutation(len(x)) for _ in range(50)]
    lengths = np.linalg.norm(out, axis=1)
    return any(np.abs(np.linalg.norm(layer(x[one]), axis=1) - lengths[one]).max() > 1e-4 for one in orders)


@order.mistake(
    "Your tolerance is a share of the output, so that 0.002 more on an output of 20 is forgiven, or an average over all numbers hides it. Order moves a number by more than 0.001, however large it is: which argument of `np.allclose` is about that?"
)
def small_shares_forgiven(layer, x):
    out, rng = layer(x), np.random.default_rng(0)
    orders = [rng.permutation(len(x)) for _ in range(50)]
    return any(not np.allclose(layer(x[one]), out[one], rtol=1e-3) for one in orders)


@order.mistake(
    "Your line is drawn below the rounding: where outputs are large, a sum in another order differs by more than 10⁻¹², and so attention is called order-aware. The statement leaves room between 10⁻⁹ and 0.001; where in it will you draw the line?"
)
def line_below_rounding(layer, x):
    out, rng = layer(x), np.random.default_rng(0)
    orders = [rng.permutation(len(x)) for _ in range(50)]
    return any(np.abs(layer(x[one]) - out[one]).max() > 1e-12 for one in orders)


@order.mistake("You compare the first feature of each row only. Which numbers of a row can order change?")
def first_feature_only(layer, x):
    out, rng = layer(x), np.random.default_rng(0)
    for _ in range(50):
        order = rng.permutation(len(x))
        if np.abs(layer(x[order]) - out[order])[:, 0].max() > 1e-4:
            return True
    return False


@order.also_right
def thirty_random_orders(layer, x):
    rng = np.random.default_rng(0)
    for _ in range(30):
        order = rng.permutation(len(x))
        back = np.argsort(order)
        if np.abs(layer(x[order])[back] - layer(x)).max() > 1e-5:
            return True
    return False


@order.also_right
def with_permutation_matrices(layer, x):
    out, caught = layer(x), False
    for i in range(1, len(x)):
        p = np.eye(len(x))
        p[[0, i]] = p[[i, 0]]
        caught |= bool(np.linalg.norm(layer(p @ x) - p @ out) > 1e-4)
    return caught


order.hints(
    "Reorder the rows, run the layer: where should each output row be now?",
    "One order is not enough. Many random ones will do.",
    "For each order compare layer(x[order]) with layer(x)[order]. Any difference above 0.0001 means True.",
)
order.errors(
    (
        "ValueError: The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()",
        "<code>layer(x[order]) == out[order]</code> is a whole array of answers. When is the array as a whole "
        "different?",
    ),
)

# --- 5.2 -------------------------------------------------------------------------------------------------------------

sinusoidal = Exercise("5.2", "A code for every position", reference=attn_ref.sinusoidal, minutes=8)


@sinusoidal.criterion("column 2i holds the sine and column 2i + 1 the cosine of the same angle", points=2)
def small_codes(rng):
    yield dict(n=2, d=4)
    yield dict(n=5, d=8)


@sinusoidal.criterion("pair i has the wavelength 2π · 10000^(2i/d)", points=1)
def other_widths(rng):
    yield dict(n=7, d=6)
    yield dict(n=50, d=10)
    yield dict(n=3, d=64)


@sinusoidal.criterion("any number of positions, and a single pair", points=1)
def odd_sizes(rng):
    yield dict(n=1, d=6)
    yield dict(n=9, d=2)
    yield dict(n=1, d=2)
    yield dict(n=6, d=6)
    yield dict(n=3000, d=4)


@sinusoidal.mistake("Sine and cosine have changed places: your row 0 is 1, 0, 1, 0. What is the sine of 0?")
def cosine_first(n, d):
    codes = attn_ref.sinusoidal(n, d).reshape(n, d // 2, 2)
    return codes[:, :, ::-1].reshape(n, d)


@sinusoidal.mistake(
    "All sines come first and then all cosines. Some libraries store them so; here the two of one pair stand side by side. In which columns does pair i belong?"
)
def sines_then_cosines(n, d):
    codes = attn_ref.sinusoidal(n, d)
    return np.concatenate([codes[:, 0::2], codes[:, 1::2]], axis=1)


@sinusoidal.mistake(
    "Your exponent is i/d with i the number of the pair, half of what it should be, so the slowest pair is a hundred times too fast. For d = 4 and i = 1, what is 2i/d?"
)
def half_the_exponent(n, d):
    angles = np.arange(n)[:, None] / 10_000 ** (np.arange(d // 2) / d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake(
    "Each column has a wavelength of its own in your table: the exponent counts columns. Columns 2i and 2i + 1 are one pair; which number do they share?"
)
def exponent_of_the_column(n, d):
    angles = np.arange(n)[:, None] / 10_000 ** (np.arange(d) / d)
    return np.where(np.arange(d) % 2 == 0, np.sin(angles), np.cos(angles))


@sinusoidal.mistake(
    "You multiply the position by 10000^(2i/d) where it is divided, so later pairs turn faster and faster. Which pair should be the slowest?"
)
def multiplied_by_the_power(n, d):
    angles = np.arange(n)[:, None] * 10_000 ** (np.arange(0, d, 2) / d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake("You count positions from 1. The first token stands at 0: what should its row be?")
def positions_from_one(n, d):
    return attn_ref.sinusoidal(n + 1, d)[1:]


@sinusoidal.mistake(
    "Your exponent divides by d - 2, so that the last pair is exactly 10,000 times slower than the first. Some code does it so; the formula here divides by what?"
)
def last_pair_ten_thousand_times_slower(n, d):
    angles = np.arange(n)[:, None] / 10_000 ** (np.arange(0, d, 2) / max(d - 2, 1))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake(
    "The exponent is cut off to a whole number, `//` in place of `/`, so every pair turns at the same speed. What is 2 // 4?"
)
def whole_exponents(n, d):
    angles = np.arange(n)[:, None] / 10_000.0 ** (np.arange(0, d, 2) // d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake(
    "Your angles are taken for degrees. NumPy's sine counts in radians, and so does the formula: a full turn is 2π. What happens to the angle on its way into the sine?"
)
def in_degrees(n, d):
    angles = np.deg2rad(np.arange(n)[:, None] / 10_000 ** (np.arange(0, d, 2) / d))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake(
    "Positions go across and features down in your table. A text's tokens are rows; which axis of the result counts them?"
)
def turned_table(n, d):
    return attn_ref.sinusoidal(n, d).T


@sinusoidal.mistake(
    "Your hands go round once in 10000^(2i/d) positions: the angles are 2π times too large. In the formula, by how much has hand 0 turned at position 1?"
)
def whole_turns(n, d):
    angles = 2 * np.pi * np.arange(n)[:, None] / 10_000 ** (np.arange(0, d, 2) / d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake("You scale by 1000 where the formula has 10000. Which number stands under the exponent?")
def another_base(n, d):
    angles = np.arange(n)[:, None] / 1_000 ** (np.arange(0, d, 2) / d)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.mistake(
    "The numbers are right, and stored with 7 digits only: a float32 array has taken them in. The course keeps float64; where does the dtype come from?"
)
def single_precision(n, d):
    angles = (np.arange(n, dtype=np.float32)[:, None] / 10_000 ** (np.arange(0, d, 2) / d)).astype(np.float32)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, d)


@sinusoidal.also_right
def filled_column_by_column(n, d):
    codes = np.zeros((n, d))
    for i in range(d // 2):
        angle = np.arange(n) / 10_000 ** (2 * i / d)
        codes[:, 2 * i] = np.sin(angle)
        codes[:, 2 * i + 1] = np.cos(angle)
    return codes


@sinusoidal.also_right
def cosine_as_a_shifted_sine(n, d):
    columns = np.arange(d)
    speed = np.exp(-np.log(10_000) * (columns - columns % 2) / d)
    return np.sin(np.outer(np.arange(n), speed) + np.pi / 2 * (columns % 2))


@sinusoidal.also_right
def a_list_of_rows(n, d):
    rows = []
    for position in range(n):
        row = []
        for i in range(0, d, 2):
            z = np.exp(1j * position / 10_000 ** (i / d))
            row += [z.imag, z.real]
        rows.append(row)
    return rows


sinusoidal.hints(
    "Make a table of angles first, with a row for each position and a column for each pair.",
    "Divide a column of positions by 10000 to the powers 0, 2, 4, … / d. Sines go into every second column.",
)
sinusoidal.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (5,) (4,)",
        "Positions and pairs are two axes. A column (5, 1) against a row (4,) gives a table (5, 4).",
    ),
)

# --- 5.3 -------------------------------------------------------------------------------------------------------------


def rope(x, positions, base=10_000.0):
    """Turns numbers i and i + d/2 of each row by the angle position · base^(-2i/d).  (..., n, d) -> (..., n, d)"""
    return attn_ref.rope(x, positions, base)


rotation = Exercise("5.3", "Turn instead of add", reference=rope, minutes=15, forbids=("attn_ref.rope",))


@rotation.criterion("numbers i and i + d/2 are turned together, each pair at its own speed", points=2)
def pairs_turn(rng):
    yield dict(x=np.array([[1.0, 0.0]]), positions=np.array([np.pi / 2]))
    yield dict(x=np.array([[1.0, 0.0, 0.0, 1.0]]), positions=np.array([1]))
    yield dict(x=rng.normal(size=(5, 8)), positions=np.arange(5))
    yield dict(x=rng.normal(size=(6, 6)), positions=np.arange(6))


@rotation.criterion("the angle follows the positions that are given: late, out of order, fractions, negative", points=1)
def given_positions(rng):
    yield dict(x=rng.normal(size=(1, 6)), positions=np.array([37]))
    yield dict(x=20 * rng.normal(size=(4, 8)), positions=np.array([1203, 1204, 1205, 1206]))
    yield dict(x=rng.normal(size=(3, 4)), positions=np.array([2, 0, 7]))
    yield dict(x=rng.normal(size=(4, 6)), positions=np.array([0.25, 1.5, -3.0, 2.0]))
    yield dict(x=rng.normal(size=(2, 4)), positions=np.array([5, 5]))


@rotation.criterion("the base is the caller's", points=1)
def given_base(rng):
    yield dict(x=rng.normal(size=(5, 6)), positions=np.arange(5), base=100.0)
    yield dict(x=rng.normal(size=(3, 10)), positions=np.arange(3) + 40, base=500_000)


@rotation.criterion("leading axes are carried along, and whole numbers are turned like any others", points=1)
def batches_of_rows(rng):
    yield dict(x=rng.normal(size=(2, 3, 5, 6)), positions=np.arange(5) + 2)
    yield dict(x=rng.normal(size=(4, 4, 4)), positions=np.arange(4))
    yield dict(x=rng.normal(size=(1, 2, 1, 2)), positions=np.array([3]))
    yield dict(x=np.array([[3, 1, -2, 0], [1, 4, 4, 1]]), positions=np.array([1, 2]))
    yield dict(x=rng.normal(size=(2, 2, 6)), positions=np.array([9, 11]))


rotation.leaves_inputs_alone(points=1)


@rotation.mistake(
    "You take neighbours, 2i and 2i + 1, as pairs and return the results as two halves. In which columns do the two numbers of a pair stand here, before and after?"
)
def neighbours_in_halves_out(x, positions, base=10_000.0):
    out = attn_ref.rope(x, positions, base, pairing="interleaved")
    return np.concatenate([out[..., 0::2], out[..., 1::2]], axis=-1)


@rotation.mistake(
    "You turn neighbours, 2i and 2i + 1, together. That is the other pairing, and exercise 5.5. Here number i goes with which one?"
)
def neighbours_paired(x, positions, base=10_000.0):
    return attn_ref.rope(x, positions, base, pairing="interleaved")


@rotation.mistake(
    "You turn clockwise: (1, 0) at a quarter of a turn becomes (0, -1) where (0, 1) is wanted. In which of the two lines does the minus stand?"
)
def clockwise(x, positions, base=10_000.0):
    return attn_ref.rope(x, -np.asarray(positions), base)


@rotation.mistake(
    "Your pairs turn too fast: the exponent is i/d with i the number of the pair. With d = 4 the second pair should turn base^(-1/2) a position; what is 2i/d there?"
)
def half_exponent(x, positions, base=10_000.0):
    d = x.shape[-1]
    return attn_ref.rope(x, positions, frequencies=base ** (-np.arange(d // 2) / d))


@rotation.mistake(
    "The second half is made from a first half that was already turned. Both lines need the old numbers; where do you keep them?"
)
def turned_number_used_again(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    out = np.array(x, dtype=float)
    out[..., :half] = out[..., :half] * np.cos(angles) - out[..., half:] * np.sin(angles)
    out[..., half:] = out[..., :half] * np.sin(angles) + out[..., half:] * np.cos(angles)
    return out


@rotation.mistake(
    "You count the rows 0, 1, 2, ... and never read `positions`. When a model writes one word at a time, x has one row; at which position does it stand?"
)
def rows_counted_from_zero(x, positions, base=10_000.0):
    return attn_ref.rope(x, np.arange(x.shape[-2]), base)


@rotation.mistake(
    "You count from the first position that is given, so a text that starts at 1203 is turned like one that starts at 0. What is subtracted from `positions`, and why?"
)
def restarted_at_zero(x, positions, base=10_000.0):
    return attn_ref.rope(x, np.asarray(positions) - positions[0], base)


@rotation.mistake("The speeds are always those of base 10,000. Where does the argument `base` enter?")
def base_ignored(x, positions, base=10_000.0):
    return attn_ref.rope(x, positions)


@rotation.mistake(
    "Fractions of a position are cut off. A position is a number like any other here, and longer contexts will need fractions. Which line makes it whole?"
)
def whole_positions(x, positions, base=10_000.0):
    return attn_ref.rope(x, np.asarray(positions).astype(int), base)


@rotation.mistake(
    "The two halves do not turn, they are mixed with a plus in both lines, so lengths are not kept. In a rotation, which of the two products is subtracted?"
)
def no_minus(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) + b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], axis=-1)


@rotation.mistake(
    "Sine and cosine have changed places, so at position 0 the vector is not left as it was. What are the cosine and the sine of 0?"
)
def sine_and_cosine_swapped(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.sin(angles) - b * np.cos(angles), a * np.cos(angles) + b * np.sin(angles)], axis=-1)


@rotation.mistake(
    "Only the first half has changed; the second is still the old one. A turn changes both numbers of a pair. What becomes of b?"
)
def first_half_only(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    return np.concatenate([attn_ref.rope(x, positions, base)[..., :half], x[..., half:]], axis=-1)


@rotation.mistake("Your fast pairs are the last ones: the speeds run the wrong way. Which pair has the speed 1?")
def speeds_backwards(x, positions, base=10_000.0):
    return attn_ref.rope(x, positions, frequencies=attn_ref.rotary_frequencies(x.shape[-1], base)[::-1])


@rotation.mistake(
    "The first axis is taken for the positions. With heads in front the tokens are the last axis but one; how does a (n, d/2) table of angles meet a (2, 3, n, d/2) array?"
)
def first_axis_for_positions(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    angles = angles.reshape(len(angles), *[1] * (x.ndim - 2), half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], axis=-1)


@rotation.mistake(
    "For whole numbers the result is cut off: an array made like x holds whole numbers only. Which dtype should the result have?"
)
def cut_to_whole_numbers(x, positions, base=10_000.0):
    out = np.empty_like(x)
    out[...] = attn_ref.rope(x, positions, base)
    return out


@rotation.mistake("The result is right, and x itself was turned too. Which line writes into the caller's array?")
def x_overwritten(x, positions, base=10_000.0):
    turned = attn_ref.rope(x, positions, base)
    if x.dtype.kind == "f":
        x[...] = turned
    return turned


@rotation.mistake("You add a code to x. A rotation multiplies, so that lengths stay: with which 2 by 2 matrix?")
def code_added(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    return x + np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)


@rotation.also_right
def one_pair_after_the_other(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    out = np.zeros(x.shape)
    for row, position in enumerate(positions):
        for i in range(half):
            angle = position / base ** (2 * i / x.shape[-1])
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            out[..., row, [i, i + half]] = x[..., row, [i, i + half]] @ turn.T
    return out


@rotation.also_right
def as_complex_numbers(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    z = x[..., :half] + 1j * x[..., half:]
    z = z * np.exp(1j * np.multiply.outer(np.asarray(positions, dtype=float), base ** (-np.arange(half) / half)))
    return np.concatenate([z.real, z.imag], axis=-1).tolist()


@rotation.also_right
def cosine_and_a_half_turned(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * np.exp(-np.log(base) * np.arange(half) / half)
    angles = np.concatenate([angles, angles], axis=-1)
    other = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * np.cos(angles) + other * np.sin(angles)


rotation.hints(
    "The first half of a row holds every a, the second every b. The angles are a table, a row for each position and a column for each pair.",
    "Angles: positions as a column times base^(-2i/d). Make both new halves from the old a and b, and put them side by side along the last axis.",
)
rotation.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (5,8) (5,4)",
        "x has d numbers a row and the table of angles d/2. The cosines meet one half of x at a time.",
    ),
)

# --- 5.4 -------------------------------------------------------------------------------------------------------------


def rope_attention(q, k, v, base=10_000.0):
    """Causal attention with rotations; the queries are the last of the keys' positions.  -> (..., n_q, d_v)"""
    keys = np.arange(k.shape[-2])
    return attn_ref.attention(
        attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base), v, causal=True
    )


rotated = Exercise("5.4", "Attention that knows how far", reference=rope_attention, minutes=10)


def three(rng, lead, n_q, n_k, d, d_v, size=1.0):
    return dict(
        q=size * rng.normal(size=(*lead, n_q, d)),
        k=size * rng.normal(size=(*lead, n_k, d)),
        v=rng.normal(size=(*lead, n_k, d_v)),
    )


@rotated.criterion("a whole text: queries and keys are turned, values are not, no query sees a later key", points=2)
def whole_text(rng):
    yield dict(
        q=np.array([[0.0, 0.0], [2.0, 0.0]]), k=np.array([[1.0, 0.0], [0.0, 0.0]]), v=np.array([[4.0, 0.0], [8.0, 0.0]])
    )
    yield three(rng, (), 5, 5, 4, 4, 2.0)
    yield three(rng, (), 7, 7, 6, 3, 2.0)


@rotated.criterion("fewer queries than keys: the queries are the last positions", points=2)
def last_positions(rng):
    yield three(rng, (), 1, 6, 4, 2, 2.0)
    yield three(rng, (), 3, 8, 6, 6, 2.0)
    yield three(rng, (), 2, 5, 2, 4, 2.0)


@rotated.criterion("leading axes, any d_v, the caller's base, scores in the thousands", points=1)
def all_together(rng):
    yield three(rng, (2, 3), 4, 7, 6, 5, 2.0)
    yield three(rng, (3,), 3, 3, 4, 1, 2.0) | dict(base=20.0)
    yield three(rng, (), 4, 9, 8, 3, 40.0) | dict(v=20 * rng.normal(size=(9, 3)))
    yield three(rng, (5, 5), 1, 5, 2, 2, 2.0) | dict(base=7.0)
    q, k = 0.1 * rng.normal(size=(2, 3, 4))
    q[0, 1], k[0, 1], k[1, 1] = -110, 110, -110  # query 0 scores -6050 with its own key and +6050 with the next
    yield dict(q=q, k=k, v=rng.normal(size=(3, 2)))


rotated.leaves_inputs_alone(points=1)


@rotated.mistake(
    "You turn the values as well. What a query reads would then depend on where it was written, turned by the key's position. Which two of q, k and v meet in the score?"
)
def values_turned(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    turned_q, turned_k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    if v.shape[-1] % 2:
        raise ValueError("d must be even, because numbers are turned in pairs")
    return attn_ref.attention(turned_q, turned_k, attn_ref.rope(v, keys, base), causal=True)


@rotated.mistake(
    "Your queries count their positions from 0. For a whole text that is right; with fewer queries than keys, the first query stands at n_k - n_q. A model that writes word by word would ask every question from the first seat. Where does the last query stand?"
)
def queries_restarted_at_zero(q, k, v, base=10_000.0):
    q, k = attn_ref.rope(q, np.arange(q.shape[-2]), base), attn_ref.rope(k, np.arange(k.shape[-2]), base)
    return attn_ref.attention(q, k, v, causal=True)


@rotated.mistake(
    "Only the queries are turned. The score then depends on where the query stands and not on how far away the key is. What has to happen to k?"
)
def keys_not_turned(q, k, v, base=10_000.0):
    positions = np.arange(k.shape[-2])[-q.shape[-2] :]
    return attn_ref.attention(attn_ref.rope(q, positions, base), k, v, causal=True)


@rotated.mistake("Only the keys are turned. By what angle should a query at position p be turned?")
def queries_not_turned(q, k, v, base=10_000.0):
    return attn_ref.attention(q, attn_ref.rope(k, np.arange(k.shape[-2]), base), v, causal=True)


@rotated.mistake("This is causal attention without positions. Where are q and k turned?")
def nothing_turned(q, k, v, base=10_000.0):
    return attn_ref.attention(q, k, v, causal=True)


@rotated.mistake("Your queries see keys that come after them. Which mask of chapter 04 is missing?")
def not_causal(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    return attn_ref.attention(attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base), v)


@rotated.mistake(
    "The rotations are right, and the mask is aligned top-left: query 0 sees key 0 only, though it stands at n_k - n_q. Which keys lie at or before that position?"
)
def mask_top_left(q, k, v, base=10_000.0):
    n_q, n_k = q.shape[-2], k.shape[-2]
    keys = np.arange(n_k)
    q, k = attn_ref.rope(q, keys[-n_q:], base), attn_ref.rope(k, keys, base)
    return attn_ref.attention(q, k, v, allowed=np.tri(n_q, n_k, dtype=bool))


@rotated.mistake(
    "Queries and keys turn in opposite directions, so the score depends on the sum of the positions. What must be the same for both so that the difference remains?"
)
def opposite_directions(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, -keys, base)
    return attn_ref.attention(q, k, v, causal=True)


@rotated.mistake(
    "Your queries stand one position too late, after their own key. The last query and the last key are the same token; which position do they share?"
)
def queries_one_too_late(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :] + 1, base), attn_ref.rope(k, keys, base)
    return attn_ref.attention(q, k, v, causal=True)


@rotated.mistake("The rotations always use base 10,000. Where does the argument `base` enter?")
def own_base_ignored(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    return attn_ref.attention(attn_ref.rope(q, keys[-q.shape[-2] :]), attn_ref.rope(k, keys), v, causal=True)


@rotated.mistake(
    "One of the two rotations uses the caller's base, the other always 10,000. Distances count only if q and k turn at the same speeds; where is `base` missing?"
)
def base_for_one_of_the_two(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    return attn_ref.attention(attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys), v, causal=True)


@rotated.mistake(
    "The largest score is taken before the later keys are hidden. If a hidden key holds it, thousands above the others, every visible weight becomes 0 and the division 0/0. Which scores should take part in the maximum?"
)
def largest_score_of_a_hidden_key(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * attn_ref.causal_mask(*scores.shape[-2:])
    with np.errstate(all="ignore"):
        return weights / weights.sum(axis=-1, keepdims=True) @ v


@rotated.mistake(
    "Your queries are numbered backwards, from the end of the text, and your keys from its beginning. In which direction do positions grow?"
)
def queries_numbered_backwards(q, k, v, base=10_000.0):
    n_q, n_k = q.shape[-2], k.shape[-2]
    q = attn_ref.rope(q, np.arange(n_k)[::-1][:n_q], base)
    return attn_ref.attention(q, attn_ref.rope(k, np.arange(n_k), base), v, causal=True)


@rotated.mistake(
    "The scores are not divided by √d. Turning keeps lengths, so the spread of the scores is what it was in chapter 02. Which division went with it?"
)
def scale_forgotten(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    return attn_ref.attention(q, k, v, causal=True, scale=1.0)


@rotated.mistake(
    "The scale is taken from v: you divide by √d_v. The scores are sums over the features of q and k; how many are those?"
)
def scaled_by_the_values(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    return attn_ref.attention(q, k, v, causal=True, scale=v.shape[-1] ** -0.5)


@rotated.mistake(
    "Later keys get a large negative number, and the visible scores of a query can lie below it: then a hidden key wins. Which number lies below every score?"
)
def hidden_by_a_number(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    scores = np.where(attn_ref.causal_mask(*scores.shape[-2:]), scores, -1000.0)
    return attn_ref.softmax(scores) @ v


@rotated.mistake(
    "A number is taken away from the scores of later keys, and a hidden score can still end above the visible ones. What is left of any score if minus infinity is added?"
)
def hidden_by_a_difference(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    scores = scores - 1e4 * ~attn_ref.causal_mask(*scores.shape[-2:])
    return attn_ref.softmax(scores) @ v


@rotated.mistake(
    "The exponential of a score in the thousands overflows, and the weights become NaN. What does the softmax of chapter 02 subtract first?"
)
def exponentials_of_raw_scores(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    q, k = attn_ref.rope(q, keys[-q.shape[-2] :], base), attn_ref.rope(k, keys, base)
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    with np.errstate(all="ignore"):
        weights = np.where(attn_ref.causal_mask(*scores.shape[-2:]), np.exp(scores), 0)
        return weights / weights.sum(axis=-1, keepdims=True) @ v


@rotated.mistake("The output is right, and the caller's keys are turned. Which line writes into k?")
def keys_overwritten(q, k, v, base=10_000.0):
    keys = np.arange(k.shape[-2])
    k[...] = attn_ref.rope(k, keys, base)
    return attn_ref.attention(attn_ref.rope(q, keys[-q.shape[-2] :], base), k, v, causal=True)


@rotated.also_right
def turned_by_the_difference(q, k, v, base=10_000.0):
    n_q, n_k, d = q.shape[-2], k.shape[-2], q.shape[-1]
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for i in range(n_q):
        p = i + n_k - n_q
        near = attn_ref.rope(k, np.arange(n_k) - p, base)[..., : p + 1, :]  # the query stays, the keys turn back
        scores = (near @ q[..., i, :, None])[..., 0] / np.sqrt(d)
        out[..., i, :] = (attn_ref.softmax(scores)[..., None, :] @ v[..., : p + 1, :])[..., 0, :]
    return out


@rotated.also_right
def steps_spelled_out(q, k, v, base=10_000.0):
    n_q, n_k, half = q.shape[-2], k.shape[-2], q.shape[-1] // 2

    def turn(x, first):
        angles = np.outer(np.arange(first, first + x.shape[-2]), base ** (-np.arange(half) / half))
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1)

    scores = np.einsum("...qd,...kd->...qk", turn(q, n_k - n_q), turn(k, 0)) / (2 * half) ** 0.5
    scores = np.where(np.tri(n_q, n_k, n_k - n_q, dtype=bool), scores, -1e9)
    return (attn_ref.softmax(scores) @ v).tolist()


rotated.hints(
    "Positions must act in the score. Which two arrays make it? Number the queries so that the last query and the last key share a position.",
    "Turn q by its positions and k by its own, then call causal attention with both, and v as it is.",
)
rotated.errors(
    (
        "ValueError: positions must hold one number for each of x's n=3 rows, shape (3,), got (8,)",
        "q has fewer rows than k, so it needs positions of its own.",
    ),
)

# --- 5.5 -------------------------------------------------------------------------------------------------------------


def rope_interleaved(x, positions, base=10_000.0):
    """Turns numbers 2i and 2i + 1 of each row by the angle position · base^(-2i/d).  (..., n, d) -> (..., n, d)"""
    return attn_ref.rope(x, positions, base, pairing="interleaved")


interleaved = Exercise("5.5", "The other pairing", reference=rope_interleaved, minutes=8, forbids=("attn_ref.rope",))


@interleaved.criterion("numbers 2i and 2i + 1 are turned together and stay where they were", points=2)
def neighbours_turn(rng):
    yield dict(x=np.array([[1.0, 0.0, 0.0, 0.0]]), positions=np.array([np.pi / 2]))
    yield dict(x=rng.normal(size=(5, 8)), positions=np.arange(5))
    yield dict(x=rng.normal(size=(6, 6)), positions=np.arange(6))


@interleaved.criterion("the angle follows the positions and the base that are given", points=1)
def given_positions_and_base(rng):
    yield dict(x=20 * rng.normal(size=(1, 6)), positions=np.array([37]))
    yield dict(x=rng.normal(size=(4, 6)), positions=np.array([0.25, 1.5, -3.0, 2.0]))
    yield dict(x=rng.normal(size=(3, 10)), positions=np.arange(3) + 40, base=500.0)
    yield dict(x=20 * rng.normal(size=(2, 8)), positions=np.array([1204, 1203]), base=1234.5)


@interleaved.criterion("leading axes are carried along, and whole numbers are turned like any others", points=1)
def batches_and_whole_numbers(rng):
    yield dict(x=rng.normal(size=(2, 3, 5, 6)), positions=np.arange(5) + 2)
    yield dict(x=rng.normal(size=(4, 4, 4)), positions=np.arange(4))
    yield dict(x=rng.normal(size=(3, 1, 2)), positions=np.array([3]))
    yield dict(x=np.array([[3, 1, -2, 0], [1, 4, 4, 1]]), positions=np.array([1, 2]))


interleaved.leaves_inputs_alone(points=1)


@interleaved.mistake("This is the pairing of 5.3: i goes with i + d/2. Which number is the partner of number 0 now?")
def halves_paired(x, positions, base=10_000.0):
    return attn_ref.rope(x, positions, base)


@interleaved.mistake(
    "The right numbers are turned, and they come back sorted: first those from even columns, then those from odd ones. Where did each of them stand?"
)
def put_back_in_halves(x, positions, base=10_000.0):
    turned = attn_ref.rope(x, positions, base, pairing="interleaved")
    return np.concatenate([turned[..., 0::2], turned[..., 1::2]], axis=-1)


@interleaved.mistake(
    "The right pairs meet with the wrong speeds: the speeds are laid out as for halves, f0 f1 … f0 f1 …. Both numbers of a pair need the same speed; in which order should the speeds stand?"
)
def speeds_laid_out_in_halves(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * np.tile(base ** (-np.arange(half) / half), 2)
    other = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    return x * np.cos(angles) + other * np.sin(angles)


@interleaved.mistake(
    "Every column has a speed of its own in your answer. The two numbers of a pair turn together; which number counts the pairs?"
)
def a_speed_for_every_column(x, positions, base=10_000.0):
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(x.shape[-1]) / x.shape[-1])
    other = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    return x * np.cos(angles) + other * np.sin(angles)


@interleaved.mistake(
    "The odd column is made from an even one that was already turned. Both lines need the old numbers; where do you keep them?"
)
def turned_neighbour_used_again(x, positions, base=10_000.0):
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    out = np.array(x, dtype=float)
    out[..., 0::2] = out[..., 0::2] * np.cos(angles) - out[..., 1::2] * np.sin(angles)
    out[..., 1::2] = out[..., 0::2] * np.sin(angles) + out[..., 1::2] * np.cos(angles)
    return out


@interleaved.mistake(
    "You turn clockwise. A positive angle should take (1, 0) towards (0, 1); where does the minus stand?"
)
def neighbours_clockwise(x, positions, base=10_000.0):
    return attn_ref.rope(x, -np.asarray(positions), base, pairing="interleaved")


@interleaved.mistake("You count the rows from 0 and never read `positions`. What is the position of a single row?")
def interleaved_from_zero(x, positions, base=10_000.0):
    return attn_ref.rope(x, np.arange(x.shape[-2]), base, pairing="interleaved")


@interleaved.mistake("The speeds are always those of base 10,000. Where does the argument `base` enter?")
def interleaved_base_ignored(x, positions, base=10_000.0):
    return attn_ref.rope(x, positions, pairing="interleaved")


@interleaved.mistake(
    "x is rearranged into halves, turned, and not rearranged back. Which order of columns undoes 0, 2, 4, …, 1, 3, 5, …?"
)
def rearranged_with_the_same_order_twice(x, positions, base=10_000.0):
    d = x.shape[-1]
    order = np.concatenate([np.arange(0, d, 2), np.arange(1, d, 2)])
    return attn_ref.rope(x[..., order], positions, base)[..., order]


@interleaved.mistake(
    "For whole numbers the result is cut off: an array made like x holds whole numbers only. Which dtype should the result have?"
)
def neighbours_cut_to_whole_numbers(x, positions, base=10_000.0):
    out = np.zeros_like(x)
    out[...] = attn_ref.rope(x, positions, base, pairing="interleaved")
    return out


@interleaved.mistake("The result is right, and x itself was turned too. Which line writes into the caller's array?")
def x_overwritten_by_neighbours(x, positions, base=10_000.0):
    turned = attn_ref.rope(x, positions, base, pairing="interleaved")
    if x.dtype.kind == "f":
        x[...] = turned
    return turned


@interleaved.also_right
def neighbours_as_complex_numbers(x, positions, base=10_000.0):
    pairs = np.asarray(x, dtype=float).reshape(*x.shape[:-1], -1, 2)
    z = pairs[..., 0] + 1j * pairs[..., 1]
    z = z * np.exp(1j * np.asarray(positions)[:, None] * base ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1]))
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


@interleaved.also_right
def halves_and_back(x, positions, base=10_000.0):
    d = x.shape[-1]
    order = np.concatenate([np.arange(0, d, 2), np.arange(1, d, 2)])
    angle = np.asarray(positions)[:, None] * base ** (-2 * np.arange(d // 2) / d)
    first, second = x[..., order[: d // 2]], x[..., order[d // 2 :]]
    c, s = np.cos(angle), np.sin(angle)
    return np.concatenate([first * c - second * s, first * s + second * c], axis=-1)[..., np.argsort(order)]


@interleaved.also_right
def neighbours_one_by_one(x, positions, base=10_000.0):
    d, out = x.shape[-1], np.zeros(x.shape)
    for row, position in enumerate(positions):
        for i in range(0, d, 2):
            c, s = np.cos(position * base ** (-i / d)), np.sin(position * base ** (-i / d))
            a, b = x[..., row, i], x[..., row, i + 1]
            out[..., row, i], out[..., row, i + 1] = a * c - b * s, a * s + b * c
    return out.tolist()


interleaved.hints(
    "The two lines of 5.3 stay. What changes is which columns are a and which are b, and where the results go.",
    "a is every second column from 0, b every second column from 1. A new array of floats can take the results.",
)
interleaved.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (3,8) (5,4)",
        "Half of the columns are wanted, not half of the rows. Which axis does your slice walk along?",
    ),
)

# --- 5.6 -------------------------------------------------------------------------------------------------------------


def to_half_split(w, n_heads):
    """The columns of each head in the order 0 2 4 … 1 3 5 …  (d_model, n_heads · d) -> the same shape"""
    pairs = w.reshape(len(w), n_heads, -1, 2)  # (d_model, n_heads, d/2, 2)
    return pairs.swapaxes(-1, -2).reshape(w.shape)


convert = Exercise("5.6", "A checkpoint changes its pairing", reference=to_half_split, minutes=10)


@convert.criterion("within a head the even columns come first, then the odd ones", points=2)
def one_head(rng):
    yield dict(w=np.array([[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]]), n_heads=1)
    yield dict(w=rng.normal(size=(3, 10)), n_heads=1)
    yield dict(w=rng.normal(size=(8, 8)), n_heads=1)


@convert.criterion("every head is rearranged by itself", points=2)
def several_heads(rng):
    yield dict(w=rng.normal(size=(5, 12)), n_heads=2)
    yield dict(w=rng.normal(size=(7, 12)), n_heads=3)
    yield dict(w=rng.normal(size=(12, 18)), n_heads=3)
    yield dict(w=rng.normal(size=(1, 24)), n_heads=4)
    yield dict(w=rng.normal(size=(4, 6)), n_heads=3)
    yield dict(w=rng.normal(size=(16, 16)), n_heads=2)


convert.leaves_inputs_alone(points=1)


@convert.mistake(
    "You went the other way, from half-split to interleaved: columns 0 1 2 3 4 5 became 0 3 1 4 2 5. In the result, which old column should stand second?"
)
def other_way_round(w, n_heads):
    return w.reshape(len(w), n_heads, 2, -1).swapaxes(-1, -2).reshape(w.shape)


@convert.mistake(
    "You sorted the columns of the whole matrix, so numbers of different heads end up in one. Where does each head begin and end?"
)
def heads_not_kept_apart(w, n_heads):
    return np.concatenate([w[:, 0::2], w[:, 1::2]], axis=1)


@convert.mistake(
    "You rearranged the rows. Column c of w makes feature c of the queries; which axis holds the features that are paired?"
)
def rows_rearranged(w, n_heads):
    return np.concatenate([w[0::2], w[1::2]], axis=0)


@convert.mistake("The odd columns come first in your result. Number 0 of a pair should stand in which half?")
def odd_first(w, n_heads):
    pairs = w.reshape(len(w), n_heads, -1, 2)[..., ::-1]
    return pairs.swapaxes(-1, -2).reshape(w.shape)


@convert.mistake(
    "You cut the columns as (d, n_heads), as if the numbers of the heads took turns. Heads stand side by side: first all columns of head 0, then all of head 1."
)
def heads_taking_turns(w, n_heads):
    pairs = w.reshape(len(w), -1, 2, n_heads)
    return pairs.swapaxes(1, 2).reshape(w.shape)


@convert.mistake("Only the first head is rearranged. What about the others?")
def first_head_only(w, n_heads):
    d, out = w.shape[1] // n_heads, w.copy()
    out[:, :d] = np.concatenate([w[:, 0:d:2], w[:, 1:d:2]], axis=1)
    return out


@convert.mistake(
    "The shape is right and nothing was exchanged but a reshape: reshape alone reads the numbers in their old order. Which axis should change places with which before the columns are joined again?"
)
def only_reshaped(w, n_heads):
    return w.reshape(len(w), n_heads, -1, 2).reshape(w.shape)


@convert.mistake(
    "You return an array with the heads as an axis of their own. x @ w needs a matrix again: which axes have to be joined?"
)
def heads_left_apart(w, n_heads):
    return w.reshape(len(w), n_heads, -1, 2).swapaxes(-1, -2).reshape(len(w), n_heads, -1)


@convert.mistake(
    "The two halves of each head have changed places, which pairs the same numbers as before. Which two numbers were a pair in the old order?"
)
def halves_exchanged(w, n_heads):
    return w.reshape(len(w), n_heads, 2, -1)[:, :, ::-1].reshape(w.shape)


@convert.mistake("The result is right, and the caller's weights are rearranged too. Which line writes into w?")
def weights_overwritten(w, n_heads):
    w[...] = w.reshape(len(w), n_heads, -1, 2).swapaxes(-1, -2).reshape(w.shape).copy()
    return w


@convert.also_right
def head_by_head(w, n_heads):
    parts = []
    for head in np.split(w, n_heads, axis=1):
        parts += [head[:, 0::2], head[:, 1::2]]
    return np.hstack(parts)


@convert.also_right
def by_an_index(w, n_heads):
    d = w.shape[1] // n_heads
    order = [h * d + 2 * i + odd for h in range(n_heads) for odd in (0, 1) for i in range(d // 2)]
    return w[:, order]


@convert.also_right
def times_a_permutation_matrix(w, n_heads):
    d = w.shape[1] // n_heads
    one = np.eye(d)[:, sorted(range(d), key=lambda c: (c % 2, c))]
    return w @ np.kron(np.eye(n_heads), one)


convert.hints(
    "Begin with one head. For several, do the same within each block of d columns.",
    "Either list the column numbers, head by head, and index with them. Or reshape the columns to (heads, pairs, 2), exchange the last two axes, and reshape back.",
)
convert.errors(
    (
        "ValueError: cannot reshape array of size 60 into shape (5,2,3)",
        "A head of d columns has d/2 pairs of 2 numbers each: is the last axis of length 2 there?",
    ),
)

# --- 5.7 -------------------------------------------------------------------------------------------------------------


def alibi_bias(n_heads, n_q, n_k):
    """What ALiBi adds to the scores: -slope · distance for the keys at or before each query.  -> (n_heads, n_q, n_k)"""
    return attn_ref.alibi_bias(n_heads, n_q, n_k)


alibi = Exercise(
    "5.7",
    "A price for distance",
    reference=alibi_bias,
    minutes=10,
    forbids=("attn_ref.alibi_bias", "attn_ref.alibi_slopes"),
)


@alibi.probe
def judged_at_or_before_the_query(answer, n_heads, n_q, n_k):
    """What is added for later keys does not matter, as the causal mask hides it."""
    bias = answer(n_heads, n_q, n_k)
    if isinstance(bias, list):
        bias = np.array(bias, dtype=float)
    seen = attn_ref.causal_mask(n_q, n_k)
    if isinstance(bias, np.ndarray) and bias.ndim == 3 and bias.shape[1:] == seen.shape:
        return np.where(seen, bias, 0)
    return bias


@alibi.criterion(
    "a key's score falls by the head's slope with every step back, and the query's own key keeps it", points=2
)
def eight_heads(rng):
    yield dict(n_heads=8, n_q=2, n_k=3)
    yield dict(n_heads=8, n_q=5, n_k=5)


@alibi.criterion("slopes for any power of two", points=2)
def other_counts(rng):
    yield dict(n_heads=4, n_q=6, n_k=6)
    yield dict(n_heads=2, n_q=3, n_k=3)
    yield dict(n_heads=16, n_q=5, n_k=5)
    yield dict(n_heads=1, n_q=4, n_k=4)


@alibi.criterion("the queries are the last n_q positions", points=1)
def fewer_queries(rng):
    yield dict(n_heads=4, n_q=1, n_k=9)
    yield dict(n_heads=8, n_q=3, n_k=40)
    yield dict(n_heads=2, n_q=2, n_k=2)
    yield dict(n_heads=4, n_q=1, n_k=1)


@alibi.mistake("Your bias rewards distance: it is positive for keys far back. Which keys should lose?")
def distance_rewarded(n_heads, n_q, n_k):
    return -attn_ref.alibi_bias(n_heads, n_q, n_k)


@alibi.mistake(
    "Query 0 is placed at key 0. With fewer queries than keys it stands at n_k - n_q, bottom-right aligned as in chapter 04. How far is the last key from the last query?"
)
def top_left(n_heads, n_q, n_k):
    distance = np.arange(n_q)[:, None] - np.arange(n_k)
    return -attn_ref.alibi_slopes(n_heads)[:, None, None] * distance


@alibi.mistake(
    "Your first head has the slope 1. The exponent counts heads from 1: what is 2^(-8(h+1)/n_heads) for h = 0 and 8 heads?"
)
def first_slope_is_one(n_heads, n_q, n_k):
    slopes = 2.0 ** (-8 * np.arange(n_heads) / n_heads)
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return -slopes[:, None, None] * distance


@alibi.mistake(
    "Your slopes are ½, ¼, ⅛, … whatever the number of heads. That is right for 8 heads; with 4 the first is ¼. Where does n_heads stand in the exponent?"
)
def slopes_of_eight_heads(n_heads, n_q, n_k):
    slopes = 0.5 ** np.arange(1, n_heads + 1)
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return -slopes[:, None, None] * distance


@alibi.mistake(
    "`8 // n_heads` cuts the exponent to a whole number, which is 0 for 16 heads, so all slopes are 1 there. What is 8 / 16?"
)
def whole_exponents_of_slopes(n_heads, n_q, n_k):
    slopes = 2.0 ** (-(8 // n_heads) * np.arange(1, n_heads + 1))
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return -slopes[:, None, None] * distance


@alibi.mistake(
    "Your slopes always run from ½ to 1/256, evenly in their exponents, which is right for 8 heads. With 4 heads the first is 2^(-8/4). What is it?"
)
def slopes_between_the_same_ends(n_heads, n_q, n_k):
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return -np.geomspace(1 / 2, 1 / 256, n_heads)[:, None, None] * distance


@alibi.mistake("Every head has the same slope, that of the first. What makes a head look further than another?")
def one_slope(n_heads, n_q, n_k):
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return np.broadcast_to(-attn_ref.alibi_slopes(n_heads)[0] * distance, (n_heads, n_q, n_k)).copy()


@alibi.mistake("The slopes run the wrong way: head 0 should be the steepest. What is the exponent for h = 0?")
def gentlest_first(n_heads, n_q, n_k):
    return attn_ref.alibi_bias(n_heads, n_q, n_k)[::-1].copy()


@alibi.mistake("The query's own key already pays one step in your bias. How far away is a token from itself?")
def own_key_pays(n_heads, n_q, n_k):
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k) + 1
    return -attn_ref.alibi_slopes(n_heads)[:, None, None] * distance


@alibi.mistake("The price grows with the square of the distance. It should grow by the same slope at every step.")
def squared_distance(n_heads, n_q, n_k):
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return -attn_ref.alibi_slopes(n_heads)[:, None, None] * distance**2


@alibi.mistake(
    "Your bias is slope times the key's number, the same in every row. Softmax cannot tell the two apart, since each row differs from the right one by a constant; the table that is asked for has 0 at the query's own key. What does p add?"
)
def by_the_key_alone(n_heads, n_q, n_k):
    slopes = attn_ref.alibi_slopes(n_heads)
    return np.broadcast_to(slopes[:, None, None] * np.arange(n_k), (n_heads, n_q, n_k)).copy()


@alibi.mistake(
    "The heads are your last axis. Scores are (heads, queries, keys); what order must the bias have to be added?"
)
def heads_last(n_heads, n_q, n_k):
    return np.moveaxis(attn_ref.alibi_bias(n_heads, n_q, n_k), 0, -1).copy()


@alibi.mistake(
    "Keys go down and queries across in your table, so it is the later keys that pay. Queries go down: on which axis do the positions p lie?"
)
def keys_down(n_heads, n_q, n_k):
    distance = np.arange(n_k) - (np.arange(n_q)[:, None] + n_k - n_q)
    return -attn_ref.alibi_slopes(n_heads)[:, None, None] * np.maximum(distance, 0)


@alibi.mistake("These are distances without slopes. How much does one step cost in head h?")
def no_slopes(n_heads, n_q, n_k):
    distance = np.arange(n_q)[:, None] + n_k - n_q - np.arange(n_k)
    return np.broadcast_to(-distance.astype(float), (n_heads, n_q, n_k)).copy()


@alibi.also_right
def entry_by_entry(n_heads, n_q, n_k):
    bias = np.full((n_heads, n_q, n_k), -np.inf)  # later keys: forbidden
    for h in range(n_heads):
        for i in range(n_q):
            for steps in range(i + n_k - n_q + 1):
                bias[h, i, i + n_k - n_q - steps] = -steps * 2 ** (-8 * (h + 1) / n_heads)
    return bias


@alibi.also_right
def slopes_multiplied_up(n_heads, n_q, n_k):
    factor = 2 ** (-8 / n_heads)
    slopes = np.cumprod(np.full(n_heads, factor))
    ahead = np.arange(n_k) - np.arange(n_k - n_q, n_k)[:, None]
    return np.einsum("h,qk->hqk", slopes, ahead)  # positive for later keys, which nobody sees


@alibi.also_right
def lists_of_lists(n_heads, n_q, n_k):
    return [
        [[min(0, j - i - n_k + n_q) * 256 ** (-(h + 1) / n_heads) for j in range(n_k)] for i in range(n_q)]
        for h in range(n_heads)
    ]


alibi.hints(
    "Begin with a table (n_q, n_k) of how many steps back each key lies. The slopes are n_heads numbers, one for each table.",
    "The queries' positions as a column, minus the keys' as a row: the distance. Times the negative slopes, (n_heads, 1, 1).",
)
alibi.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (4,) (6,6)",
        "Four slopes and a table: with shape (4, 1, 1) each slope multiplies the whole table.",
    ),
)

# --- 5.8 -------------------------------------------------------------------------------------------------------------


def stretched_angles(positions, d, factor, method, base=10_000.0):
    """The angles of RoPE for texts `factor` times as long.  positions (n,) -> (n, d/2)"""
    if method == "interpolation":
        positions = attn_ref.interpolate_positions(positions, factor)
    else:
        base = attn_ref.ntk_base(base, d, factor)
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


stretch = Exercise(
    "5.8",
    "Two ways to a longer text",
    reference=stretched_angles,
    minutes=8,
    forbids=("attn_ref.interpolate_positions", "attn_ref.ntk_base", "attn_ref.yarn_frequencies"),
)


@stretch.criterion("interpolation: every angle is that of a position `factor` times nearer", points=1)
def interpolated(rng):
    yield dict(positions=np.array([0, 8]), d=4, factor=4, method="interpolation")
    yield dict(positions=np.arange(7), d=8, factor=2, method="interpolation")
    yield dict(positions=np.arange(3) + 1000, d=6, factor=8, method="interpolation")


@stretch.criterion("NTK: the base grows so that the slowest pair, and only it, is `factor` times slower", points=2)
def larger_base(rng):
    yield dict(positions=np.array([0, 8]), d=4, factor=4, method="ntk")
    yield dict(positions=np.arange(7), d=8, factor=2, method="ntk")
    yield dict(positions=np.arange(3) + 1000, d=6, factor=8, method="ntk")
    yield dict(positions=np.arange(5), d=64, factor=16, method="ntk")


@stretch.criterion("any base, any factor from 1 up, fractions too", points=1)
def bases_and_factors(rng):
    for method in ("interpolation", "ntk"):
        yield dict(positions=np.arange(6), d=8, factor=1.5, method=method, base=500.0)
        yield dict(positions=np.array([41]), d=4, factor=3, method=method, base=500_000)
        yield dict(positions=np.array([0.1, 7.3, 3.0]), d=6, factor=1, method=method)
        yield dict(positions=np.array([0.5, 7.25, 3.0, 90.0]), d=6, factor=2.5, method=method)


stretch.leaves_inputs_alone(points=1)


@stretch.mistake(
    "With interpolation your positions grow by the factor. Longer texts must be squeezed into the trained range: should position 8 become 32 or 2?"
)
def positions_multiplied(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) * factor
    else:
        base = base * factor ** (d / (d - 2))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "With NTK your base shrinks, and every pair turns faster than before. To slow a pair down, must base^(-2i/d) become larger or smaller, and so the base?"
)
def base_divided(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base / factor ** (d / (d - 2))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "Your base grows by the factor itself. The slowest pair's exponent is (d-2)/d, not 1, so it slows down by less than the factor. Which power of the factor makes up for that?"
)
def base_times_the_factor(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "The exponent is upside down: (d-2)/d is below 1, and the slowest pair needs a power above 1. What power of factor^(d-2)/d is the factor?"
)
def exponent_upside_down(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor ** ((d - 2) / d)
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "`factor ** d / (d - 2)` is a power divided by d - 2: powers bind before divisions. Which part should be the exponent?"
)
def only_d_in_the_exponent(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * float(factor) ** d / (d - 2)
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake("Your base grows by factor², which is right for d = 4 only. What is d/(d-2) for d = 8?")
def always_squared(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor**2
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "`d // (d - 2)` cuts the exponent to a whole number: 2 for d = 4, as it should be, and 1 for every larger d. What is 8 / 6?"
)
def exponent_cut_to_a_whole_number(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor ** (d // (d - 2))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "The exponent is d/(d-1). The slowest pair is i = d/2 - 1, and its speed base^(-2i/d): what is 2i there?"
)
def exponent_off_by_one(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor ** (d / (d - 1))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake("The two methods have changed places. Which of them divides the positions?")
def methods_exchanged(positions, d, factor, method, base=10_000.0):
    if method == "ntk":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor ** (d / (d - 2))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "Both changes are made at once, so the slowest pair slows down twice. Each method does one of the two; which line belongs to which?"
)
def both_at_once(positions, d, factor, method, base=10_000.0):
    base = base * factor ** (d / (d - 2))
    return np.asarray(positions)[:, None] / factor * attn_ref.rotary_frequencies(d, base)


@stretch.mistake("You interpolate for either method. Which argument says what is wanted?")
def always_interpolated(positions, d, factor, method, base=10_000.0):
    return np.asarray(positions)[:, None] / factor * attn_ref.rotary_frequencies(d, base)


@stretch.mistake(
    "Fractions of a position are lost: `//` cuts them off, so four neighbours share one angle. What should 1 / 4 be?"
)
def positions_cut_to_whole_numbers(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) // factor
    else:
        base = base * factor ** (d / (d - 2))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake("The caller's base is ignored: you start from 10,000. Where does the argument `base` enter?")
def own_base_forgotten(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        return np.asarray(positions)[:, None] / factor * attn_ref.rotary_frequencies(d)
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, 10_000 * factor ** (d / (d - 2)))


@stretch.mistake("These are the angles as trained. What do `factor` and `method` change?")
def nothing_stretched(positions, d, factor, method, base=10_000.0):
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.mistake("Pairs go down and positions across in your table. Which axis should count the positions?")
def angles_turned(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor ** (d / (d - 2))
    return (np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)).T


@stretch.mistake(
    "Every pair has its angle twice, once for each of its numbers. One angle a pair is asked for: how many columns is that?"
)
def every_angle_twice(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        positions = np.asarray(positions) / factor
    else:
        base = base * factor ** (d / (d - 2))
    angles = np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)
    return np.concatenate([angles, angles], axis=-1)


@stretch.mistake(
    "The angles are right, and the caller's positions have changed. `positions /= …` writes into the array that was passed in; which form makes a new one?"
)
def positions_overwritten(positions, d, factor, method, base=10_000.0):
    if method == "interpolation":
        squeezed = np.asarray(positions) / factor
        positions[...] = squeezed.astype(positions.dtype)
        positions = squeezed
    else:
        base = base * factor ** (d / (d - 2))
    return np.asarray(positions)[:, None] * attn_ref.rotary_frequencies(d, base)


@stretch.also_right
def speeds_slowed_down(positions, d, factor, method, base=10_000.0):
    i = np.arange(d // 2)
    slower = np.full(d // 2, factor, dtype=float) if method == "interpolation" else factor ** (2 * i / (d - 2))
    return np.outer(positions, base ** (-2 * i / d) / slower)


@stretch.also_right
def angle_by_angle(positions, d, factor, method, base=10_000.0):
    table = []
    for p in positions:
        row = []
        for i in range(d // 2):
            if method == "interpolation":
                row.append(p / factor / base ** (2 * i / d))
            else:
                row.append(p / (base * factor ** (d / (d - 2))) ** (2 * i / d))
        table.append(row)
    return table


stretch.hints(
    "Both methods end in the same line, positions as a column times base^(-2i/d). Each changes one of the two beforehand.",
    "Change positions or base first, by the method, in a new variable. Then make the table as in 5.3.",
)
stretch.errors(
    (
        "UFuncTypeError: Cannot cast ufunc 'divide' output from dtype('float64') to dtype('int64') with casting rule 'same_kind'",
        "<code>positions /= factor</code> writes into the caller's whole numbers. A new array can hold fractions.",
    ),
)

# --- questions -------------------------------------------------------------------------------------------------------

which_layer = Quiz(
    "5.a",
    "The tokens of a text are shuffled, and attention without mask or positions reads them. What happens to its output?",
    {
        "a": (
            "Nothing: it is the same array as before.",
            "The rows belong to the tokens, so they move with them. The same array would mean that token 0 gets the same output whoever sits there.",
        ),
        "b": (
            "Its rows are shuffled likewise, and hold the same numbers.",
            "Yes: a sum over the keys does not know in which order they came. The word for it is permutation equivariant.",
        ),
        "c": (
            "Every row changes, because every query has new neighbours.",
            "Without positions there are no neighbours. A query meets the same set of keys and values as before.",
        ),
        "d": (
            "Only the rows of tokens that moved change.",
            "They move, and their numbers stay. That would be so even for a token that travelled from one end to the other.",
        ),
    },
    right="b",
)

same_score = Quiz(
    "5.b",
    "With RoPE, a query at position 1007 meets a key at position 1003. Which placement of the same two vectors gives the same score?",
    {
        "a": (
            "Query at 1003, key at 1007",
            "The distance changes its sign, from 4 to -4. Turning forwards and turning back are different turns.",
        ),
        "b": (
            "Query at 1007, key at 1007",
            "The distance would be 0. Then the turns cancel, and the score is the plain dot product.",
        ),
        "c": (
            "Query at 2014, key at 2006",
            "Doubling both positions doubles their difference, from 4 to 8.",
        ),
        "d": (
            "Query at 7, key at 3",
            "Yes: only the difference of the two positions enters, and it is 4 in both.",
        ),
    },
    right="d",
)

wrong_pairing = Quiz(
    "5.c",
    "A checkpoint loads, every shape is right. Its first word is sensible, and the longer a text goes on, the worse it gets. What do you check first?",
    {
        "a": (
            "Which pairing its queries and keys were trained with.",
            "Yes. At position 0 nothing is turned, so both pairings agree; further on the wrong numbers are turned together, and no shape tells.",
        ),
        "b": (
            "Whether the values were turned too.",
            "Then the first token would be right as well, because position 0 turns nothing. It is a possible bug, and a rare one: the pairing is the trap that checkpoints bring with them.",
        ),
        "c": (
            "Whether the scores are divided by √d.",
            "That would hurt at every position alike, the first included as soon as there are two keys. Nothing in it gets worse with the position.",
        ),
        "d": (
            "Whether the context length is set high enough.",
            "A limit shows as an error or a cut, not as a text that gets worse from its second word on.",
        ),
    },
    right="a",
)

what_stretches = Quiz(
    "5.d",
    "A RoPE model is to read texts four times as long, without training. What does a larger base (NTK) keep that interpolation by 4 gives up?",
    {
        "a": (
            "The trained angles: no pair meets a new one.",
            "It is interpolation that keeps every angle inside the trained range. With NTK only the slowest pair is slowed by the whole factor; pairs in between can still meet new angles.",
        ),
        "b": (
            "Memory: its KV cache is a quarter of the size.",
            "Both methods change angles only. The cache holds a key and a value for each token either way.",
        ),
        "c": (
            "The speed of the fastest pair, so the angle between neighbours.",
            "Yes: 10000^0 is 1 for every base. Interpolation divides all angles, so the step to a neighbour looks like a quarter of a step.",
        ),
        "d": (
            "Relative positions.",
            "Scores depend on the difference of the positions with either; after interpolation on a quarter of it.",
        ),
    },
    right="c",
)

longer = Written(
    "5.w",
    "Longer is better?",
    minutes=10,
    rubric=(
        "Says what RoPE guarantees, what happens at distances never met and why, with numbers of the chapter; a remedy with its price; how to measure; and why longer need not be better even where it works.",
        "The same chain, right in every link; a number, the price of the remedy or the measurement is missing.",
        "One right link, such as that unseen distances are a problem, without the reason; or one wrong link.",
        "Doubts or agrees without a reason that concerns positions.",
    ),
)
