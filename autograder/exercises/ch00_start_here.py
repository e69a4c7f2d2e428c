"""Chapter 00, start here: shapes as a habit, in three exercises that every later chapter leans on."""

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written


def pairwise_dot(x, y):
    """Every row of x with every row of y.  (n, d), (m, d) -> (n, m)"""
    return x @ y.T


def weighted_average(weights, values):
    """Averages of the values, one for each row of weights.  (n, m), (m, d) -> (n, d)"""
    return (weights @ values) / weights.sum(axis=-1, keepdims=True)


def batched_matmul(a, b):
    """One matrix product for each sentence.  (B, n, k), (B, k, m) -> (B, n, m)"""
    return a @ b


pairs = Exercise(
    "0.1", "Every row meets every row", reference=pairwise_dot, minutes=7, forbids=("attn_ref.attention_scores",)
)


@pairs.criterion("row i, column j holds the dot product of x[i] and y[j]", points=2)
def every_pair(rng):
    yield dict(x=np.array([[1.0, 2.0], [3.0, 4.0]]), y=np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    yield dict(x=rng.normal(size=(5, 3)), y=rng.normal(size=(4, 3)))
    yield dict(x=rng.normal(size=(3, 7)), y=rng.normal(size=(8, 7)))
    yield dict(x=1e6 * rng.normal(size=(13, 4)), y=1e6 * rng.normal(size=(11, 4)))
    yield dict(x=1e-3 * rng.normal(size=(6, 5)), y=1e-3 * rng.normal(size=(2, 5)))


@pairs.criterion("it is still every pair when x and y have equally many rows", points=1)
def equally_many(rng):
    yield dict(x=rng.normal(size=(4, 2)), y=rng.normal(size=(4, 2)))
    yield dict(x=rng.normal(size=(3, 3)), y=rng.normal(size=(3, 3)))


@pairs.criterion("a single row on either side still gives a table", points=1)
def single_rows(rng):
    yield dict(x=rng.normal(size=(1, 4)), y=rng.normal(size=(3, 4)))
    yield dict(x=rng.normal(size=(5, 2)), y=rng.normal(size=(1, 2)))
    yield dict(x=rng.normal(size=(1, 3)), y=rng.normal(size=(1, 3)))
    yield dict(x=rng.normal(size=(4, 1)), y=rng.normal(size=(3, 1)))
    yield dict(x=rng.normal(size=(1, 1)), y=rng.normal(size=(1, 1)))


pairs.leaves_inputs_alone(points=1)


@pairs.mistake(
    "Row 0 meets row 0, row 1 meets row 1, and nobody else meets. The answer wants every row of x with every row of y: how many numbers is that?"
)
def row_meets_its_twin(x, y):
    return (x * y).sum(axis=-1)


@pairs.mistake(
    "x @ y joins the last axis of x with the first axis of y. In x the features are the last axis; where are they in y?"
)
def features_do_not_meet(x, y):
    return x @ y


@pairs.mistake(
    "You sum over the rows and keep the features; it should be the other way round. Which axis do x and y share in the contract (n, d), (m, d)?"
)
def sums_over_rows(x, y):
    return x.T @ y


@pairs.mistake(
    "Every number is there, with rows and columns exchanged: the rows of the answer belong to x. What is the shape of yours, and what should it be?"
)
def x_goes_across(x, y):
    return y @ x.T


@pairs.mistake(
    "The shape is right and the numbers are not: reshape refills the table in reading order, so the rows of y are torn apart. Which operation exchanges two axes and keeps every row together?"
)
def reshape_for_transpose(x, y):
    return x @ y.reshape(y.shape[1], y.shape[0])


@pairs.mistake(
    "You have every product, feature by feature, in three axes. One step of a dot product is missing: what becomes of the d products?"
)
def products_not_summed(x, y):
    return x[:, None, :] * y[None, :, :]


@pairs.mistake("Your products have the axes (n, m, d), and the sum runs over m. Which of the three is to vanish?")
def sums_over_the_wrong_axis(x, y):
    return (x[:, None, :] * y[None, :, :]).sum(axis=1)


@pairs.mistake(
    "Larger tables come out right. With a single row on one side, an axis of length 1 is dropped: two axes in, two axes out, whatever their lengths. Which call removes it?"
)
def drops_single_rows(x, y):
    return np.squeeze(x @ y.T)


@pairs.mistake("Both of your loops run over the rows of x. How many rows has y?")
def two_loops_over_x(x, y):
    return np.array([[x[i] @ y[j] for j in range(len(x))] for i in range(len(x))])


@pairs.mistake("Only the first row of your table is filled. Does your return stand inside the loop?")
def returns_too_early(x, y):
    table = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            table[i, j] = x[i] @ y[j]
        return table


@pairs.mistake(
    "You divide by the lengths of the vectors, which gives the cosine of their angle. The dot product keeps the lengths; what is (1, 2) · (1, 1)?"
)
def cosines(x, y):
    return (x @ y.T) / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1))


@pairs.mistake(
    "Yours multiplies every single number with every other. Two rows should give one number, the sum of d products."
)
def outer_product(x, y):
    return np.outer(x, y)


@pairs.mistake(
    "Your table holds float32, about 7 digits of each number, and the inputs have about 16. Which dtype does NumPy take when you name none?"
)
def half_the_digits(x, y):
    table = np.zeros((len(x), len(y)), dtype=np.float32)
    for i in range(len(x)):
        for j in range(len(y)):
            table[i, j] = x[i] @ y[j]
    return table


@pairs.mistake(
    "`row = x[i]` is a second name for a row of the caller's table, no copy, so `row *= ...` writes into x, and the next column starts from the wrong row. What makes a new array instead of *=?"
)
def row_is_no_copy(x, y):
    table = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            row = x[i]
            row *= y[j]
            table[i, j] = row.sum()
    return table


@pairs.also_right
def two_loops(x, y):
    table = []
    for row in x:
        table.append([sum(float(p) * float(q) for p, q in zip(row, other, strict=True)) for other in y])
    return table


@pairs.also_right
def einsum(x, y):
    return np.einsum("nd,md->nm", x, y)


@pairs.also_right
def broadcasting(x, y):
    return (x[:, None, :] * y).sum(axis=-1)


pairs.hints(
    "Take the example by hand first. Which two rows give the 7 in the lower right corner, and what did you do with their numbers?",
    "Two loops are a full answer: one over the rows of x, one over the rows of y. Make a table of zeros of shape (n, m) first, and store each dot product in its place.",
    "In one line: @ between two tables joins the last axis of the left one with the first axis of the right one. The features must stand at both of these places. An attribute with a name of one letter exchanges the two axes of a table.",
)
pairs.errors(
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0",
        "`@` wants the last axis of the left table to be as long as the first axis of the right one. Print both shapes: which axis of y holds the d features?",
    ),
    (
        "ValueError: operands could not be broadcast together with shapes (2,2) (3,2)",
        "`*` works number by number, so it wants equal shapes. x and y may have different numbers of rows: a row of x has to meet one row of y at a time.",
    ),
    (
        "ValueError: setting an array element with a sequence",
        "You put a whole array in the place of one number. Did you multiply two rows with `*` and leave out the sum?",
    ),
)


averages = Exercise("0.2", "Averages with your own weights", reference=weighted_average, minutes=9)


@averages.criterion("each row of weights gives one average of the values", points=2)
def one_average_a_row(rng):
    yield dict(weights=np.array([[3.0, 1.0], [1.0, 1.0], [0.0, 5.0]]), values=np.array([[0.0, 4.0], [8.0, 0.0]]))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(5, 3)), values=rng.normal(size=(3, 4)))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(4, 4)), values=rng.normal(size=(4, 2)))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(3, 5)), values=1e6 * rng.normal(size=(5, 3)))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(7, 13)), values=1e-6 * rng.normal(size=(13, 11)))


@averages.criterion("one row of weights, one value or one feature still gives a table", points=1)
def lengths_of_one(rng):
    yield dict(weights=np.array([[3.0, 1.0]]), values=np.array([[0.0, 4.0], [8.0, 0.0]]))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(4, 1)), values=rng.normal(size=(1, 3)))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(2, 6)), values=rng.normal(size=(6, 1)))
    yield dict(weights=np.array([[0.5]]), values=np.array([[-2.0]]))


@averages.criterion("rows with a total of 10⁻³⁰ or 10³⁰ are averaged like any other", points=1)
def any_total(rng):
    weights = rng.uniform(0.5, 1.5, size=(3, 5))
    yield dict(weights=np.array([[3e-30, 1e-30]]), values=np.array([[0.0, 4.0], [8.0, 0.0]]))
    yield dict(weights=weights * np.array([[1e-6], [1.0], [1e6]]), values=rng.normal(size=(5, 2)))
    yield dict(weights=weights * np.array([[1e-30], [1e-9], [1e30]]), values=rng.normal(size=(5, 4)))


@averages.criterion("whole-number weights and values give averages with a fraction", points=1)
def whole_numbers(rng):
    yield dict(weights=np.array([[1, 1], [1, 3]]), values=np.array([[1, 2, 0], [2, 7, 1]]))
    yield dict(weights=rng.integers(1, 9, size=(4, 3)), values=rng.normal(size=(3, 2)))
    yield dict(weights=rng.uniform(0.2, 3.0, size=(2, 4)), values=rng.integers(-9, 9, size=(4, 5)))


averages.leaves_inputs_alone(points=1)


@averages.mistake(
    "You have the weighted sum, not yet the average: with the weights 3 and 1, what do you still have to divide by?"
)
def sum_not_average(weights, values):
    return weights @ values


@averages.mistake(
    "Your columns of shares sum to 1 where the rows should. A row of weights belongs to one average; along which axis do its entries lie?"
)
def columns_sum_to_one(weights, values):
    return (weights / weights.sum(axis=0)) @ values


@averages.mistake(
    "You divide by the total of the whole table. Each row of weights is an average of its own: which total belongs to it?"
)
def one_total_for_all(weights, values):
    return (weights @ values) / weights.sum()


@averages.mistake(
    "You divide the weights by totals of shape (n,), which NumPy lines up with the columns: column j is divided by the total of row j. It raises no error when n and m happen to agree. Which option of sum keeps the axis?"
)
def totals_lost_their_axis(weights, values):
    return (weights / weights.sum(axis=1)) @ values


@averages.mistake(
    "You divide the sums, (n, d), by totals of shape (n,), which NumPy lines up with the columns. It raises no error when n and d happen to agree. Which option of sum keeps the axis?"
)
def totals_beside_the_columns(weights, values):
    return (weights @ values) / weights.sum(axis=1)


@averages.mistake(
    "You turn the weights on their side. A row of weights and the values have the same length m: are these two axes neighbours as they stand, without .T? Then look once more whether you divide by the totals."
)
def weights_on_their_side(weights, values):
    return weights.T @ values


@averages.mistake(
    "The averages are right, and an axis of length 1 is dropped. One row of weights gives a table of one row, (1, d): which call takes the axis away?"
)
def drops_a_single_row(weights, values):
    return np.squeeze(weights @ values / weights.sum(axis=1, keepdims=True))


@averages.mistake(
    "You put a floor under the totals. The contract rules a total of 0 out, so the floor guards nothing, and a row with a smaller total comes out too small. Try the weights 3e-30 and 1e-30."
)
def a_floor_under_the_totals(weights, values):
    return (weights @ values) / np.maximum(weights.sum(axis=1, keepdims=True), 1e-8)


@averages.mistake(
    "You write the shares into the caller's weights. Who called you needs them unchanged, and whole-number weights cannot hold a fraction at all. What makes a new array instead of /=?"
)
def writes_into_the_weights(weights, values):
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ values


@averages.mistake(
    "You divide by how many weights there are. Weights 3 and 1 are two numbers, and the values count four times in all: which of the two is right?"
)
def divides_by_the_count(weights, values):
    return (weights @ values) / weights.shape[1]


@averages.mistake(
    "You put the weights through softmax. They are shares already up to one factor: with 3 and 1, the first value counts three times as much, not e² times."
)
def softmax_of_the_weights(weights, values):
    return attn_ref.softmax(weights.astype(float)) @ values


@averages.mistake(
    "You take the value with the largest weight and leave the others out. An average hears every value; how much does each one count?"
)
def heaviest_value_only(weights, values):
    return values[weights.argmax(axis=1)] * 1.0


@averages.mistake(
    "Your result lives in an array of whole numbers, which cuts off every fraction. What dtype does np.zeros get from you?"
)
def table_of_whole_numbers(weights, values):
    out = np.zeros((len(weights), values.shape[1]), dtype=weights.dtype)
    for i in range(len(weights)):
        out[i] = weights[i] @ values / weights[i].sum()
    return out


@averages.mistake(
    "You add a small number to each total, against a division by zero that the contract rules out. Next to a total of 10⁻³⁰ it is no longer small."
)
def a_little_extra_in_the_total(weights, values):
    return (weights @ values) / (weights.sum(axis=1, keepdims=True) + 1e-9)


@averages.also_right
def row_by_row(weights, values):
    return [np.average(values, axis=0, weights=row) for row in weights]


@averages.also_right
def loops_over_everything(weights, values):
    out = np.zeros((len(weights), values.shape[1]))
    for i, row in enumerate(weights):
        total = sum(float(w) for w in row)
        for w, value in zip(row, values, strict=True):
            out[i] += float(w) / total * value
    return out


@averages.also_right
def shares_first(weights, values):
    shares = weights / weights.sum(axis=1)[:, None]
    return np.einsum("nm,md->nd", shares, values)


averages.hints(
    "Do the row (3, 1) of the example with pencil and paper. You multiplied, you added, and you divided once: by which number?",
    "First the weighted sums of all rows, shape (n, d); then the total of each row of weights. Divide each row of the first by its own total. A loop over the rows of weights will do.",
    "Print the shape of your totals. (n,) lines up with the columns of (n, d), while (n, 1) lines up with its rows; keepdims=True keeps the summed axis with length 1. And write a / b, which makes a new array, not a /= b.",
)
averages.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (3,2) (3,)",
        "NumPy lines shapes up from the right: 2 meets 3. Your totals need the shape (3, 1), so that each stands beside its row.",
    ),
    (
        "UFuncTypeError: Cannot cast ufunc 'divide' output from dtype('float64') to dtype('int64')",
        "`/=` wants to put fractions into an array of whole numbers, and into the caller's array at that. Let the division make a new array.",
    ),
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0",
        "There are m weights in a row and m values in the table. Print both shapes: is one of the two the wrong way round?",
    ),
)


batches = Exercise("0.3", "One product for each sentence", reference=batched_matmul, minutes=5)


@batches.criterion("matrix i of the answer is a[i] times b[i]", points=2)
def one_product_each(rng):
    yield dict(
        a=np.array([[[1.0, 2.0]], [[3.0, 4.0]]]),
        b=np.array([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]]),
    )
    yield dict(a=rng.normal(size=(2, 3, 5)), b=rng.normal(size=(2, 5, 4)))
    yield dict(a=rng.normal(size=(5, 2, 3)), b=rng.normal(size=(5, 3, 7)))
    yield dict(a=1e6 * rng.normal(size=(3, 12, 2)), b=1e6 * rng.normal(size=(3, 2, 11)))
    yield dict(a=1e-3 * rng.normal(size=(4, 1, 6)), b=1e-3 * rng.normal(size=(4, 6, 1)))
    yield dict(a=rng.normal(size=(3, 5, 1)), b=rng.normal(size=(3, 1, 2)))


@batches.criterion("axes of equal length are not mixed up", points=1)
def equal_lengths(rng):
    yield dict(a=rng.normal(size=(3, 3, 3)), b=rng.normal(size=(3, 3, 3)))
    yield dict(a=rng.normal(size=(2, 4, 4)), b=rng.normal(size=(2, 4, 4)))
    yield dict(a=rng.normal(size=(2, 3, 5)), b=rng.normal(size=(2, 5, 3)))


@batches.criterion("a batch of one sentence keeps its first axis", points=1)
def batch_of_one(rng):
    yield dict(a=rng.normal(size=(1, 4, 3)), b=rng.normal(size=(1, 3, 2)))
    yield dict(a=rng.normal(size=(1, 1, 2)), b=rng.normal(size=(1, 2, 1)))


batches.leaves_inputs_alone(points=1)


@batches.mistake(
    "Every matrix of a met every matrix of b. Sentences should keep to themselves: a[i] meets b[i] only. What does np.dot do with more than two axes?"
)
def every_sentence_with_every_other(a, b):
    return np.dot(a, b)


@batches.mistake(
    "The shape is right and the numbers are not: reshape refills b in reading order where two axes were meant to change places. Compare row 0 of b[0] before and after."
)
def reshape_for_transpose_in_a_batch(a, b):
    rows = b.reshape(b.shape[0], b.shape[2], b.shape[1])
    return np.array([x @ y.T for x, y in zip(a, rows, strict=True)])


@batches.mistake(
    "The sentences are summed into one table. The first axis counts sentences and has to survive: three axes in, three axes out."
)
def sentences_summed(a, b):
    return np.einsum("bnk,bkm->nm", a, b)


@batches.mistake(
    "The products are right, and axes of length 1 are dropped: a batch of one sentence loses its first axis. Which call removes it?"
)
def drops_the_batch_of_one(a, b):
    return np.squeeze(a @ b)


@batches.mistake(
    "You turn each matrix of b on its side before multiplying. The contract has b as (B, k, m): the axis that a and b share is already where it is needed."
)
def turns_b_on_its_side(a, b):
    return a @ b.swapaxes(-1, -2)


@batches.mistake("Every sentence is multiplied by the first matrix of b. Which index of b moves along with i?")
def first_matrix_for_all(a, b):
    return a @ b[0]


@batches.mistake("Your sum runs over n, the rows of a, where it should run over k, the axis that a and b share.")
def sums_over_the_rows(a, b):
    return (a[:, :, :, None] * b[:, None, :, :]).sum(axis=1)


@batches.mistake(
    "All products are there, glued into one long table. They should lie on top of each other along a new first axis: which function stacks instead of joining end to end?"
)
def glued_end_to_end(a, b):
    return np.concatenate([x @ y for x, y in zip(a, b, strict=True)])


@batches.mistake(
    "You stacked the products along the last axis. The sentences come first: (B, n, m). Which axis does np.stack take by default?"
)
def sentences_come_last(a, b):
    return np.stack([x @ y for x, y in zip(a, b, strict=True)], axis=-1)


@batches.mistake(
    "You stacked the products along axis 1, between the rows and the columns. The sentences come first: (B, n, m). Which axis does np.stack take by default?"
)
def sentences_in_the_middle(a, b):
    return np.stack([x @ y for x, y in zip(a, b, strict=True)], axis=1)


@batches.mistake(
    "You store the products in `a`, which belongs to the caller and has room for them only while m equals k. Where else can B results be kept?"
)
def products_written_over_a(a, b):
    for i in range(len(a)):
        a[i] = a[i] @ b[i]
    return a


@batches.mistake("* multiplies number by number. A matrix product takes rows of a with columns of b and sums.")
def number_by_number(a, b):
    return a * b


@batches.also_right
def loop_over_sentences(a, b):
    return [x @ y for x, y in zip(a, b, strict=True)]


@batches.also_right
def einsum_with_three_axes(a, b):
    return np.einsum("bnk,bkm->bnm", a, b)


@batches.also_right
def products_then_sum(a, b):
    return (a[:, :, :, None] * b[:, None, :, :]).sum(axis=2)


batches.hints(
    "Forget the batch: how do you multiply one (n, k) table by one (k, m) table? Now do that B times.",
    "A loop over the first axis is a full answer: collect a[i] times b[i] in a list, then let np.stack or np.array make one array of it.",
    "Try the operator on the two whole arrays and look at the shape that comes back. NumPy treats all axes before the last two as a batch.",
)
batches.errors(
    (
        "ValueError: shapes (1,2) and (3,2) not aligned: 2 (dim 1) != 3 (dim 0)",
        "The two tables do not share an inner axis: one of them has been turned on its side. Print both shapes before the product.",
    ),
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0",
        "Write the shapes side by side, (B, n, k) and (B, k, m): the last axis of the left one must equal the last but one of the right one.",
    ),
    (
        "ValueError: operands could not be broadcast together with shapes (2,1,2) (2,2,3)",
        "`*` wants shapes that line up from the right. A matrix product is written with another operator.",
    ),
)


which_shape = Quiz(
    "0.a",
    "`x` has shape `(5, 3)` and `y` has shape `(4, 3)`. What is the shape of the table of all dot products, with the rows of `x` going down?",
    {
        "a": (
            "(3, 3)",
            "That sums over the rows and keeps the features. A dot product sums over the features, so the 3 goes and the rows stay.",
        ),
        "b": (
            "(5, 4)",
            "Yes: one row for each row of x, one column for each row of y. The 3 features are summed, so the 3 is gone.",
        ),
        "c": ("(4, 5)", "These are the right numbers with rows and columns exchanged. The rows of x are to go down."),
        "d": (
            "(5, 4, 3)",
            "That holds the products before they are summed. A dot product ends with the sum over the 3 features.",
        ),
    },
    right="b",
)

what_share = Quiz(
    "0.b",
    "A row of weights is `[2, 2, 4]`. Which share of the average does the third value get?",
    {
        "a": ("4", "4 is its weight. A share is the weight divided by the total of the row, and shares sum to 1."),
        "b": (
            "1/3",
            "That would be the plain average, in which every value counts the same. The third weighs as much as the other two together.",
        ),
        "c": ("1/2", "Yes: 4 of a total of 8. The weights [20, 20, 40] would give the same share."),
    },
    right="c",
)

same_shape = Quiz(
    "0.c",
    "`t` has shape `(2, 3)`. What do `t.T` and `t.reshape(3, 2)` have in common?",
    {
        "a": (
            "The shape, but not the place of every number.",
            "Yes: both are (3, 2). .T exchanges the axes, reshape refills the numbers in reading order, so a check of the shape alone cannot tell them apart.",
        ),
        "b": (
            "Everything: they are two ways to write one operation.",
            "Look at the two tables side by side once more: four of the six numbers stand elsewhere.",
        ),
        "c": (
            "Nothing: reshape keeps the shape.",
            "reshape is there to change the shape, and here both results are (3, 2).",
        ),
    },
    right="a",
)

written = Written(
    "0.w",
    "The error of a perfect prediction",
    minutes=5,
    rubric=(
        "names both shapes, says what NumPy did with them and why no error was raised, and gives a line that would have caught it",
        "names both shapes and what NumPy did with them, without a line that would have caught it",
        "says that the shapes did not match, without saying what was computed instead",
        "says that the result is wrong, with a cause that has nothing to do with shapes",
    ),
)
