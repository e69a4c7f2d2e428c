"""Chapter 03, gradients: measured and by hand, a lookup that learns, and two ways to teach a choice."""

import numpy as np

import attn_ref
from autograder.exercise import Exercise, Quiz, Written

# --- 3.1 -------------------------------------------------------------------------------------------------------------

numerical = Exercise(
    "3.1",
    "A slope for every number",
    reference=attn_ref.numerical_gradient,
    minutes=15,
    forbids=(
        "scipy.optimize.approx_fprime",
        "scipy.optimize.check_grad",
        "scipy.differentiate.derivative",
        "scipy.differentiate.jacobian",
    ),
)

# Every step is so large that central differences are far from the derivative, and from every other way to take them.
FUNCTIONS = {
    "x[0] * x[1]": lambda x: lambda y: y[0] * y[1],
    "sum of i · x_i³, i = 1, 2, ...": lambda x: lambda y: float((np.arange(1, y.size + 1) * y.ravel() ** 3).sum()),
    "sum of x_i² x_j, each with the next": lambda x: lambda y: (y.ravel()[:-1] ** 2 * y.ravel()[1:]).sum(),
    "sum of |x_i|": lambda x: lambda y: np.abs(y).sum(),
    "sum of exp(x @ c), c = 0.1, 0.2, ...": lambda x: lambda y: np.exp(y @ np.arange(1, y.shape[-1] + 1) / 10).sum(),
    # These hold the very array that is measured at, and read it at every call.
    "y -> sum of y · y · x": lambda x: lambda y: (y * y * x).sum(),
    "y -> sum of attention(q=y, k=x, v=x)²": lambda x: lambda y: float((attn_ref.attention(y, x, x) ** 2).sum()),
}
CUBES, NEIGHBOURS, SIZES, EXPONENTIALS = list(FUNCTIONS)[1:5]
HOLDS_X, ATTENDS_X = list(FUNCTIONS)[5:]


@numerical.probe
def drive_numerical(answer, f, x, eps):
    return answer(FUNCTIONS[f](x), x, eps)


@numerical.criterion("each entry is what f gains between eps below and eps above, over the way between", points=2)
def slopes(rng):
    yield dict(f="x[0] * x[1]", x=np.array([2.0, 5.0]), eps=0.5)
    yield dict(f=CUBES, x=np.array([2.0, -1.0, 0.5]), eps=0.5)
    yield dict(f=CUBES, x=rng.normal(size=5), eps=0.25)
    yield dict(f=SIZES, x=np.array([0.0, 3.0, -2.0, 0.125]), eps=0.25)


@numerical.criterion("any shape, and every number is nudged alone", points=1)
def any_shape(rng):
    yield dict(f=NEIGHBOURS, x=rng.normal(size=(3, 2)), eps=0.5)
    yield dict(f=NEIGHBOURS, x=rng.normal(size=(3, 3)), eps=0.125)
    yield dict(f=EXPONENTIALS, x=rng.normal(size=(5, 3)), eps=0.5)
    yield dict(f=CUBES, x=rng.normal(size=(2, 3, 4)), eps=0.25)
    yield dict(f=CUBES, x=rng.normal(size=(1, 1, 2)), eps=0.25)
    yield dict(f=NEIGHBOURS, x=rng.normal(size=(4, 1)), eps=0.5)
    yield dict(f=NEIGHBOURS, x=rng.normal(size=(2, 3)).T, eps=0.25)  # its numbers lie in memory in another order
    yield dict(f=EXPONENTIALS, x=rng.normal(size=(4, 6))[::2, 1::2], eps=0.25)
    yield dict(f=CUBES, x=np.array(2.0), eps=0.5)


@numerical.criterion("whole numbers and large ones too, with the eps that is given", points=1)
def whole_and_large(rng):
    yield dict(f=CUBES, x=np.array([3, -2, 0, 7]), eps=0.25)
    yield dict(f=NEIGHBOURS, x=np.array([[1, -4], [2, 3]]), eps=2)
    yield dict(f=CUBES, x=1000.0 * rng.normal(size=(2, 2)), eps=8.0)
    yield dict(f=CUBES, x=0.001 * rng.normal(size=3), eps=2.0**-10)


@numerical.criterion("f may read x itself, so x does not change even for a moment", points=1)
def f_holds_x(rng):
    yield dict(f=HOLDS_X, x=np.array([2.0, -3.0]), eps=0.5)
    yield dict(f=ATTENDS_X, x=rng.normal(size=(4, 3)), eps=0.25)
    yield dict(f=HOLDS_X, x=rng.normal(size=(2, 1, 3)), eps=0.25)


numerical.leaves_inputs_alone(points=1, sentence="x is afterwards as it was before")


@numerical.mistake(
    "You compare f(x + eps) with f(x). For a curve that bends, such as a cube, one side is off by about eps. Which second point makes the error of the first cancel?"
)
def one_sided(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above = x.astype(float)
        above[place] += eps
        gradient[place] = (f(above) - f(x.astype(float))) / eps
    return gradient


@numerical.mistake(
    "You compare f(x) with f(x - eps), which is one side too, the other one. Which two points lie evenly around x?"
)
def one_sided_from_below(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        below = x.astype(float)
        below[place] -= eps
        gradient[place] = (f(x.astype(float)) - f(below)) / eps
    return gradient


@numerical.mistake(
    "Every slope is twice what it should be. How far apart are the two points at which you call f: eps, or more?"
)
def divided_by_eps(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.astype(float), x.astype(float)
        above[place] += eps
        below[place] -= eps
        gradient[place] = (f(above) - f(below)) / eps
    return gradient


@numerical.mistake(
    "You multiply by eps where you should divide: `/ 2 * eps` is read from the left. What do brackets around the denominator change?"
)
def brackets_forgotten(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.astype(float), x.astype(float)
        above[place] += eps
        below[place] -= eps
        gradient[place] = (f(above) - f(below)) / 2 * eps
    return gradient


@numerical.mistake(
    "Your slopes have the wrong sign: you take f above away from f below. If f grows with x, should its slope be negative?"
)
def below_minus_above(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.astype(float), x.astype(float)
        above[place] += eps
        below[place] -= eps
        gradient[place] = (f(below) - f(above)) / (2 * eps)
    return gradient


@numerical.mistake(
    "Your points lie half an eps above and below, so you measure with another step than the one you were given. By how much does the text nudge?"
)
def half_the_step(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.astype(float), x.astype(float)
        above[place] += eps / 2
        below[place] -= eps / 2
        gradient[place] = (f(above) - f(below)) / eps
    return gradient


@numerical.mistake(
    "All numbers are nudged at once, so every entry holds the same sum of slopes. Whose slope do you want, and which other numbers should stay still meanwhile?"
)
def all_nudged_together(f, x, eps):
    slope = (f(x + eps) - f(x - eps)) / (2 * eps)
    return np.full(x.shape, float(slope))


@numerical.mistake(
    "The nudges pile up: when the second number is measured, the first still stands eps above or below. Where does your working copy go back to x?"
)
def nudges_pile_up(f, x, eps):
    y = x.astype(float)
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        y[place] += eps
        above = f(y)
        y[place] -= 2 * eps
        gradient[place] = (above - f(y)) / (2 * eps)
    return gradient


@numerical.mistake(
    "Your loop runs over the first axis alone: a whole row is nudged at once. What gives every place of an array of any shape?"
)
def rows_nudged_together(f, x, eps):
    gradient = np.zeros(x.shape)
    for i in range(len(x)):
        above, below = x.astype(float), x.astype(float)
        above[i] += eps
        below[i] -= eps
        gradient[i] = (f(above) - f(below)) / (2 * eps)
    return gradient


@numerical.mistake(
    "The slopes are right and stand in one long row. Which shape should the gradient have, so that each slope stands where its number stands?"
)
def flattened(f, x, eps):
    return attn_ref.numerical_gradient(f, x, eps).ravel()


@numerical.mistake(
    "For whole numbers every nudge is cut off: 3 + 0.25, written into an array of whole numbers, is 3 again. Which dtype should the nudged copy have?"
)
def nudge_cut_off(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[place] += eps
        below[place] -= eps
        gradient[place] = (f(above) - f(below)) / (2 * eps)
    return gradient


@numerical.mistake(
    "For whole numbers your slopes are cut off to whole numbers: `zeros_like(x)` copies the dtype too. Which dtype should the gradient have?"
)
def slopes_cut_off(f, x, eps):
    gradient = np.zeros_like(x)
    gradient[...] = attn_ref.numerical_gradient(f, x, eps)
    return gradient


@numerical.mistake(
    "Your step grows with the number: eps · |x|. The caller chose eps, and meant the same one for every entry. Where does your code change it?"
)
def step_grows_with_x(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = eps * max(1.0, abs(x[place]))
        above, below = x.astype(float), x.astype(float)
        above[place] += step
        below[place] -= step
        gradient[place] = (f(above) - f(below)) / (2 * step)
    return gradient


@numerical.mistake(
    "You always take the same step. With a step of your own nobody can try out which one is best; where does your code read `eps`?"
)
def step_of_its_own(f, x, eps):
    return attn_ref.numerical_gradient(f, x, 1e-5)


@numerical.mistake(
    "You measure the derivative itself, to more digits than two points give: with four points the bend of a cube is gone. Which two points does the text ask for?"
)
def four_points(f, x, eps):
    one, two = (attn_ref.numerical_gradient(f, x, step) for step in (eps, 2 * eps))
    return (4 * one - two) / 3


@numerical.mistake(
    "You nudge x itself and put it back. If f reads that very array, as attention(q=y, k=x, v=x) does, its keys move with the query and the slope is another one. What could you nudge instead of x?"
)
def nudged_in_place(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        kept = x[place]
        x[place] = kept + eps
        above = f(x)
        x[place] = kept - eps
        gradient[place] = (above - f(x)) / (2 * eps)
        x[place] = kept
    return gradient


@numerical.mistake(
    "x is left with its nudge in it: every entry ends eps lower than it began, and the next entries are measured there. What should x hold when you return?"
)
def x_left_nudged(f, x, eps):
    gradient = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        x[place] += eps
        above = f(x)
        x[place] -= 2 * eps
        gradient[place] = (above - f(x)) / (2 * eps)
    return gradient


@numerical.mistake(
    "`np.asarray(x, dtype=float)` makes no copy of what is an array of floats already, so your nudges land in the caller's x. Which call always copies?"
)
def asarray_is_no_copy(f, x, eps):
    y = np.asarray(x, dtype=float)
    gradient = np.zeros(y.shape)
    for place in np.ndindex(y.shape):
        kept = y[place]
        y[place] = kept + eps
        above = f(y)
        y[place] = kept - eps
        gradient[place] = (above - f(y)) / (2 * eps)
        y[place] = kept
    return gradient


@numerical.mistake(
    "For x.T, whose numbers lie in memory in another order, your slopes are 0: `reshape(-1)` of such an array is a copy, so your nudges never reach what f is given. Where could you nudge the array itself?"
)
def nudged_a_flat_copy(f, x, eps):
    y, gradient = x.astype(float), np.zeros(x.shape)
    flat, slopes = y.reshape(-1), gradient.reshape(-1)
    for i in range(x.size):
        kept = flat[i]
        flat[i] = kept + eps
        above = f(y)
        flat[i] = kept - eps
        slopes[i] = (above - f(y)) / (2 * eps)
        flat[i] = kept
    return gradient


@numerical.also_right
def one_copy_put_back(f, x, eps):
    y = np.array(x, dtype=float)
    out = np.empty_like(y)
    for place, kept in list(np.ndenumerate(y)):
        y[place] = kept + eps
        above = f(y)
        y[place] = kept - eps
        out[place] = (above - f(y)) / eps / 2
        y[place] = kept
    return out


@numerical.also_right
def with_unit_vectors(f, x, eps):
    units = np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(f(x + eps * unit) - f(x - eps * unit)) / (2 * eps) for unit in units]).reshape(x.shape).tolist()


@numerical.also_right
def mean_of_both_sides(f, x, eps):
    here, slopes = f(1.0 * x), []
    for i in range(x.size):
        sides = []
        for step in (eps, -eps):
            flat = x.astype(float).flatten()
            flat[i] += step
            sides.append((f(flat.reshape(x.shape)) - here) / step)
        slopes.append(sum(sides) / 2)
    return np.reshape(slopes, x.shape)


numerical.hints(
    "`np.ndindex(x.shape)` walks over every place of an array of any shape; what it gives can be used as an index.",
    "For each place: two fresh copies of x as floats, one with eps added there, one with eps taken away. Call f on both; "
    "the difference over twice eps is the slope.",
)
numerical.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (6,) (3,2)",
        "f expects the shape of x; only the walk over the entries may be flat.",
    ),
)

# --- 3.2 -------------------------------------------------------------------------------------------------------------

error = Exercise("3.2", "Do two gradients agree?", reference=attn_ref.gradient_error, minutes=10)


@error.probe
def drive_error(answer, analytic, numeric):
    """The error as a float: 0 and 0.0 are one answer."""
    found = answer(analytic, numeric)
    return float(found) if isinstance(found, (int, np.integer)) and not isinstance(found, bool) else found


@error.criterion("it is the largest difference over the largest entry of either, by size", points=2)
def relative(rng):
    yield dict(analytic=np.array([1.0, 0.0]), numeric=np.array([0.5, 0.0]))
    yield dict(analytic=np.array([1.0, -8.0, 2.0]), numeric=np.array([1.0, -4.0, 3.0]))
    yield dict(analytic=np.array([[0.5, 0.25], [2.0, 1.0]]), numeric=np.array([[0.5, 0.75], [1.5, 5.0]]))
    first = rng.normal(size=(2, 3, 4))
    yield dict(analytic=first, numeric=first + 1e-7 * rng.normal(size=(2, 3, 4)))
    yield dict(analytic=rng.normal(size=(4, 1)), numeric=rng.normal(size=(4, 1)))
    yield dict(analytic=np.array([3, -4]), numeric=np.array([3, 4]))
    yield dict(analytic=np.array([0.5]), numeric=np.array([-0.75]))
    yield dict(analytic=np.array([1.0, -1.0]), numeric=np.array([2.0, -2.0]))  # sums of 0
    yield dict(analytic=np.array([0.5, -1.0, 0.5]), numeric=np.array([-0.5, 1.0, -0.5]))
    yield dict(analytic=np.array([-2.0, 0.0]), numeric=np.array([-1.0, 0.0]))


@error.criterion("tiny gradients count like large ones, and two that are 0 throughout agree", points=1)
def tiny(rng):
    yield dict(analytic=np.zeros((2, 3)), numeric=np.zeros((2, 3)))
    yield dict(analytic=np.zeros(3), numeric=np.array([0.0, 1e-12, 0.0]))
    yield dict(analytic=np.array([2e-12, 0.0]), numeric=np.array([0.0, 0.0]))
    yield dict(analytic=1e-11 * rng.normal(size=5), numeric=1e-11 * rng.normal(size=5))
    yield dict(analytic=np.array([1e-14, 0.0]), numeric=np.array([2e-14, 0.0]))
    yield dict(analytic=np.array([3e-200]), numeric=np.array([4e-200]))
    yield dict(analytic=1e9 * rng.normal(size=5), numeric=1e9 * rng.normal(size=5))


@error.criterion("a NaN in either gives NaN, which is no small number", points=1)
def not_a_number(rng):
    yield dict(analytic=np.array([np.nan, 1.0, 2.0]), numeric=np.array([0.5, 1.0, 2.0]))
    yield dict(analytic=np.array([0.5, 1.0]), numeric=np.array([2.0, np.nan]))
    yield dict(analytic=np.array([np.nan, 0.0]), numeric=np.array([np.nan, 0.0]))
    yield dict(analytic=np.array([0.0, 0.0]), numeric=np.array([np.nan, 0.0]))
    yield dict(analytic=np.array([np.nan, 0.0]), numeric=np.array([0.0, 0.0]))
    yield dict(analytic=np.array([[0.0, 1.0], [3.0, np.nan]]), numeric=np.array([[0.0, 1.0], [3.0, 2.0]]))
    yield dict(analytic=np.array([0.5, 1.0]), numeric=np.array([0.25, 1.0]))


error.leaves_inputs_alone(points=1)


@error.mistake(
    "This is the difference itself. 0.001 is little beside 100 and much beside 0.002; what should it be divided by?"
)
def absolute_difference(analytic, numeric):
    return float(np.abs(analytic - numeric).max())


@error.mistake(
    "You divide entry by entry. Where a slope is 0 that gives NaN or infinity, and where it is nearly 0 a harmless rounding looks like a bug. By which one number could the largest difference be divided?"
)
def entry_by_entry(analytic, numeric):
    return float(np.max(np.abs(analytic - numeric) / np.maximum(np.abs(analytic), np.abs(numeric))))


@error.mistake(
    "You divide by the largest entry of the first gradient alone. If that one is 0 throughout, and wrong, what happens? Which of the two should count?"
)
def over_the_first_alone(analytic, numeric):
    largest = np.abs(analytic).max()
    return float(np.abs(analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "You divide by the largest entry of the second gradient alone. If that one is 0 throughout, what happens? Which of the two should count?"
)
def over_the_second_alone(analytic, numeric):
    largest = np.abs(numeric).max()
    return float(np.abs(analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "You divide by the two largest entries together. In the example that is 1 + 0.5; which of them is larger?"
)
def over_the_sum(analytic, numeric):
    total = np.abs(analytic).max() + np.abs(numeric).max()
    return float(np.abs(analytic - numeric).max() / total) if total != 0 else 0.0


@error.mistake(
    "You average the differences. One wrong entry among a thousand right ones would hardly show; which number of the differences cannot hide it?"
)
def mean_difference(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return float(np.abs(analytic - numeric).mean() / largest) if largest != 0 else 0.0


@error.mistake(
    "You compare lengths of vectors, which spreads one wrong entry over all. A good measure in its own right, and not the one asked for: the largest difference, over the largest entry."
)
def by_norms(analytic, numeric):
    largest = np.max([np.linalg.norm(analytic), np.linalg.norm(numeric)])
    return float(np.linalg.norm(analytic - numeric) / largest) if largest != 0 else 0.0


@error.mistake(
    "Signs get in the way: you look for the largest difference or entry without taking sizes first, so that -8 counts as small. Where is `np.abs` missing?"
)
def without_sizes(analytic, numeric):
    largest = np.max([analytic.max(), numeric.max()])
    return float((analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "The sizes of the entries are compared and their signs forgotten: 3 and -3 would agree. Before or after the subtraction do the signs have to go?"
)
def signs_lost_first(analytic, numeric):
    a, n = np.abs(analytic), np.abs(numeric)
    largest = np.max([a.max(), n.max()])
    return float(np.abs(a - n).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "The small number in the denominator is large beside a tiny gradient: with slopes near 1e-12 everything agrees. When alone does the division need help?"
)
def epsilon_below(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return float(np.abs(analytic - numeric).max() / (largest + 1e-8))


@error.mistake(
    "A floor below the denominator, such as 1e-12, is large beside a gradient of 1e-14: there everything agrees. In which one case may the denominator not be used as it is?"
)
def floor_below(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return float(np.abs(analytic - numeric).max() / np.maximum(largest, 1e-12))


@error.mistake(
    "Your guard asks for sums of 0, and (1, -1) has one too: it would agree with (2, -2). What is 0 only if every entry is?"
)
def sums_that_cancel(analytic, numeric):
    if np.sum(analytic) == 0 and np.sum(numeric) == 0:
        return 0.0
    return float(np.abs(analytic - numeric).max() / np.max([np.abs(analytic).max(), np.abs(numeric).max()]))


@error.mistake(
    "A NaN beside zeros passes with an error of 0. Python's own `max(0.0, nan)` is 0.0, because it asks whether nan is larger, and no comparison with NaN is true. Which `max` keeps a NaN wherever it stands?"
)
def nan_lost_by_max(analytic, numeric):
    largest = max(np.abs(analytic).max(), np.abs(numeric).max())
    return float(np.abs(analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "A NaN passes with an error of 0 where the other gradient is 0: Python's own `max(0.0, nan)` is 0.0, because it asks whether nan is larger, and no comparison with NaN is true. Which `max` keeps a NaN wherever it stands?"
)
def nan_lost_by_max_the_other_way(analytic, numeric):
    largest = max(np.abs(numeric).max(), np.abs(analytic).max())
    return float(np.abs(analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "Your guard takes whatever is below some small number for 0, so that gradients near 1e-14 agree whatever they are. For which number alone does the division fail?"
)
def nearly_zero_agrees(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return 0.0 if largest < 1e-10 else float(np.abs(analytic - numeric).max() / largest)


@error.mistake(
    "The entries are taken by size and the differences are not: where the first gradient is far below the second, -4 counts as small. Which of your two `max` still needs `np.abs`?"
)
def differences_without_size(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return float((analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "The differences are taken by size and the entries are not: -8 counts as less than 1. Which of your two `max` still needs `np.abs`?"
)
def entries_without_size(analytic, numeric):
    largest = np.max([analytic.max(), numeric.max()])
    return float(np.abs(analytic - numeric).max() / largest) if largest != 0 else 0.0


@error.mistake(
    "Two gradients of 0 agree perfectly, and 0/0 says NaN. What should come back there, and how do you ask for it?"
)
def nan_where_both_are_zero(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return float(np.abs(analytic - numeric).max() / largest)


@error.mistake(
    "A gradient with a NaN in it passes with an error of 0: what you have put there for two zeros catches NaN as well. NaN > 0 is False, as every comparison with NaN is, and `nan_to_num` makes a 0 of it. Which question says yes to 0 alone?"
)
def guard_lets_nan_pass(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    return float(np.abs(analytic - numeric).max() / largest) if largest > 0 else 0.0


@error.mistake(
    "You leave the NaNs out of the comparison. The worst thing a gradient can hold is then what nobody is told about; what does plain `max` make of a NaN?"
)
def nan_left_out(analytic, numeric):
    largest = np.nanmax([np.nanmax(np.abs(analytic)), np.nanmax(np.abs(numeric))])
    return float(np.nanmax(np.abs(analytic - numeric)) / largest) if largest != 0 else 0.0


@error.mistake(
    "This says whether they agree. How far they disagree is asked: 1e-9 and 1e-3 are both small, and mean different things."
)
def yes_or_no(analytic, numeric):
    return bool(np.allclose(analytic, numeric))


@error.mistake(
    "The error is right, and the caller's gradient holds differences now: `-=` writes into it. Which form makes a new array?"
)
def written_into_the_first(analytic, numeric):
    largest = np.max([np.abs(analytic).max(), np.abs(numeric).max()])
    analytic -= numeric
    return float(np.abs(analytic).max() / largest) if largest != 0 else 0.0


@error.also_right
def with_python_loops(analytic, numeric):
    pairs = list(zip(np.ravel(analytic).tolist(), np.ravel(numeric).tolist(), strict=True))
    if any(a != a or n != n for a, n in pairs):
        return float("nan")
    largest = max(max(abs(a), abs(n)) for a, n in pairs)
    return max(abs(a - n) for a, n in pairs) / largest if largest else 0.0


@error.also_right
def by_infinity_norms(analytic, numeric):
    both = np.stack([np.ravel(analytic), np.ravel(numeric)]).astype(float)
    above, below = np.linalg.norm(both[0] - both[1], np.inf), np.abs(both).max()
    return np.where(below == 0, 0.0, above / np.where(below == 0, 1, below))


@error.also_right
def identical_first(analytic, numeric):
    if np.array_equal(analytic, numeric):
        return 0
    return np.max(np.abs(analytic - numeric)) / np.max(np.abs(np.array([analytic, numeric])))


error.hints(
    "When is the denominator 0? And what does each comparison (`>`, `==`, `!=`) say of NaN?",
    "Divide the largest size of the differences by the largest size of all entries; give 0 where that is exactly 0. Python's `max` of two numbers can lose a NaN, `np.max` and `np.maximum` keep it.",
)
error.errors(
    (
        "RuntimeWarning: invalid value encountered in scalar divide",
        "0/0: both gradients are 0 throughout. They agree, so the error is 0; give that back before you divide.",
    ),
)

# --- 3.3 -------------------------------------------------------------------------------------------------------------

softmax_vjp = Exercise(
    "3.3",
    "Back through softmax",
    reference=attn_ref.softmax_vjp,
    minutes=18,
    forbids=("attn_ref.attention_backward", "attn_ref.tiled_backward", "attn_ref.backward.dense_backward"),
)


@softmax_vjp.criterion("each score gets its column of the Jacobian times the gradient of the weights", points=2)
def one_row(rng):
    yield dict(weights=np.array([0.5, 0.5]), grad=np.array([1.0, 0.0]))
    yield dict(weights=np.array([0.25, 0.75]), grad=np.array([2.0, 4.0]))
    yield dict(weights=rng.dirichlet(np.ones(3), size=5), grad=rng.normal(size=(5, 3)))
    yield dict(weights=rng.dirichlet(np.ones(6), size=2), grad=rng.normal(size=(2, 6)))


@softmax_vjp.criterion("each row is a budget of its own, whatever axes stand before it", points=1)
def rows_apart(rng):
    yield dict(weights=rng.dirichlet(np.ones(4), size=4), grad=rng.normal(size=(4, 4)))
    yield dict(weights=rng.dirichlet(np.ones(4), size=(2, 3)), grad=20 * rng.normal(size=(2, 3, 4)))
    yield dict(weights=rng.dirichlet(np.ones(5), size=(2, 3, 4)), grad=rng.normal(size=(2, 3, 4, 5)))
    yield dict(weights=rng.dirichlet(np.ones(5), size=(3, 3)), grad=rng.normal(size=(3, 3, 5)))
    yield dict(weights=rng.dirichlet(np.ones(5), size=1), grad=rng.normal(size=(1, 5)))
    yield dict(weights=rng.dirichlet(np.ones(3), size=(1, 4)), grad=rng.normal(size=(1, 4, 3)))


@softmax_vjp.criterion("rows that are certain, rows of nothing but 0, tiny numbers and whole ones", points=1)
def unusual_rows(rng):
    yield dict(weights=np.array([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), grad=rng.normal(size=(3, 3)))
    yield dict(weights=np.array([[0.999, 0.001], [0.5, 0.5]]), grad=np.array([[3000.0, -2000.0], [1000.0, 1001.0]]))
    yield dict(weights=np.array([[0.25, 0.75, 0.0]]), grad=np.array([[1, 2, -4]]))
    yield dict(weights=np.array([[0, 1, 0], [0, 0, 1]]), grad=np.array([[1, 2, -4], [0, 3, 5]]))
    yield dict(weights=np.ones((4, 1)), grad=rng.normal(size=(4, 1)))
    yield dict(weights=rng.dirichlet(np.ones(3), size=2), grad=1e-10 * rng.normal(size=(2, 3)))
    yield dict(weights=np.array([[1 - 2.0**-30, 2.0**-30]]), grad=np.array([[1.0, 2.0**30]]))


softmax_vjp.leaves_inputs_alone(points=1)


@softmax_vjp.mistake(
    "You add the row's average where it should be taken away. Equal gradients (3, 3) should become 0: do yours?"
)
def average_added(weights, grad):
    return weights * (grad + (weights * grad).sum(axis=-1, keepdims=True))


@softmax_vjp.mistake(
    "You use the diagonal of the Jacobian alone, w(1 - w). A higher score of one key also lowers the weight of every other; where do those slopes, -w_i w_j, come in?"
)
def diagonal_only(weights, grad):
    return weights * (1 - weights) * grad


@softmax_vjp.mistake(
    "You multiply by the weights and stop. If every weight had the same gradient, no score could improve anything, because the shares sum to 1; yours would still move. What has to be taken away?"
)
def nothing_taken_away(weights, grad):
    return weights * grad


@softmax_vjp.mistake(
    "You take the plain sum of the row's gradients away. Each share counts as much as it is large: by what is a gradient to be multiplied before it enters the sum?"
)
def plain_sum(weights, grad):
    return weights * (grad - grad.sum(axis=-1, keepdims=True))


@softmax_vjp.mistake(
    "You take the plain mean of the row's gradients away. The row's shares are not equal; which average do they suggest?"
)
def plain_mean(weights, grad):
    return weights * (grad - grad.mean(axis=-1, keepdims=True))


@softmax_vjp.mistake(
    "You take the mean of weight times gradient away, where the sum is meant: the shares have been divided by their total already. What would a second division do?"
)
def mean_of_the_products(weights, grad):
    return weights * (grad - (weights * grad).mean(axis=-1, keepdims=True))


@softmax_vjp.mistake(
    "The comparison with the row's average is there, and the factor in front is missing: a key whose weight is 0 cannot lose anything. With which share does each score take part?"
)
def no_factor_in_front(weights, grad):
    return grad - (weights * grad).sum(axis=-1, keepdims=True)


@softmax_vjp.mistake(
    "You take the row's average away after multiplying by the weight. It has to be shared out too: which factor is common to both terms of row i of the Jacobian?"
)
def average_not_shared_out(weights, grad):
    return weights * grad - (weights * grad).sum(axis=-1, keepdims=True)


@softmax_vjp.mistake(
    "Your rows sum to 0, and every score pays the same for it, however small its share. Which score can lose the most when another one rises?"
)
def paid_in_equal_parts(weights, grad):
    passed = weights * grad
    return passed - passed.mean(axis=-1, keepdims=True)


@softmax_vjp.mistake(
    "You lift weights of 0 to a small number, as one does before a logarithm or a division. Neither occurs here: what should the score of a key with weight 0 hear?"
)
def lifted_from_zero(weights, grad):
    return attn_ref.softmax_vjp(np.clip(weights, 1e-6, 1), grad)


@softmax_vjp.mistake(
    "This is the part off the diagonal, -w wᵀ, alone. What does a score do for the weight of its own key?"
)
def off_diagonal_only(weights, grad):
    return -weights * (weights * grad).sum(axis=-1, keepdims=True)


@softmax_vjp.mistake(
    "All your signs are turned round. A key whose weight has the largest gradient of the row: should its score's gradient be positive or negative?"
)
def sign_turned(weights, grad):
    return weights * ((weights * grad).sum(axis=-1, keepdims=True) - grad)


@softmax_vjp.mistake(
    "Your sum runs over the whole array, so that the rows pay for each other. Each query has a budget of its own: along which axis does it lie?"
)
def one_sum_for_all(weights, grad):
    return weights * (grad - (weights * grad).sum())


@softmax_vjp.mistake("Your sum runs down the columns, over the queries. Along which axis do the shares sum to 1?")
def summed_over_queries(weights, grad):
    return weights * (grad - (weights * grad).sum(axis=0, keepdims=True))


@softmax_vjp.mistake(
    "The sum has lost its axis: (5, 3) minus (5,) does not line up, and (4, 4) minus (4,) lines up the wrong way. Which argument keeps the axis, with length 1?"
)
def lost_its_axis(weights, grad):
    return weights * (grad - (weights * grad).sum(axis=-1))


@softmax_vjp.mistake(
    "You sum along axis 1, which is the last axis of a matrix and of nothing else. How do you name the last axis of any array?"
)
def axis_one(weights, grad):
    axis = 1 if weights.ndim > 1 else 0
    return weights * (grad - (weights * grad).sum(axis=axis, keepdims=True))


@softmax_vjp.mistake(
    "You send the weights through softmax once more. What arrives here has been through it; which array does the Jacobian want, the scores or the shares?"
)
def softmax_once_more(weights, grad):
    return attn_ref.softmax_vjp(attn_ref.softmax(weights), grad)


@softmax_vjp.mistake(
    "The two arguments have changed roles: you treat the gradient as the weights. Which of the two comes first in the contract?"
)
def arguments_swapped(weights, grad):
    return attn_ref.softmax_vjp(grad, weights)


@softmax_vjp.mistake(
    "This is the Jacobian itself, a table for every row. What is left to do with `grad`, so that one number for each score remains?"
)
def jacobian_returned(weights, grad):
    return np.eye(weights.shape[-1]) * weights[..., None] - weights[..., :, None] * weights[..., None, :]


@softmax_vjp.mistake(
    "The values are right, and the caller's gradient has been written to: `grad -= ...` changes it in place. Which form makes a new array?"
)
def gradient_overwritten(weights, grad):
    if grad.dtype.kind == "f":
        grad -= (weights * grad).sum(axis=-1, keepdims=True)
        return weights * grad
    return attn_ref.softmax_vjp(weights, grad)


@softmax_vjp.mistake(
    "For whole numbers your answer is cut off to whole numbers: an array made like `grad` holds nothing else. Which dtype should the result have?"
)
def cut_to_whole_numbers(weights, grad):
    out = np.zeros_like(grad)
    out[...] = attn_ref.softmax_vjp(weights, grad)
    return out


@softmax_vjp.also_right
def with_the_jacobian(weights, grad):
    jacobian = np.eye(weights.shape[-1]) * weights[..., None] - weights[..., :, None] * weights[..., None, :]
    return np.einsum("...ij,...j->...i", jacobian, grad)


@softmax_vjp.also_right
def with_loops_over_pairs(weights, grad):
    out = np.zeros(weights.shape)
    n = weights.shape[-1]
    for *row, i in np.ndindex(weights.shape):
        for j in range(n):
            slope = weights[(*row, i)] * ((i == j) - weights[(*row, j)])
            out[(*row, i)] += slope * grad[(*row, j)]
    return out.tolist()


@softmax_vjp.also_right
def share_of_what_is_left(weights, grad):
    passed = weights * grad
    return passed - weights * np.add.reduce(passed, axis=-1)[..., np.newaxis]


softmax_vjp.hints(
    "Write the three terms of a row of three keys on paper: Σ_j g_j ∂w_j/∂s_i, once for i = 0.",
    "Every term has the factor w_i. Take it out: what stays in the bracket is g_i and one sum, the same for every i of the row.",
    "The sum is that of weight times gradient along the last axis, with the axis kept. Take it away from the gradient, then multiply by the weights.",
)
softmax_vjp.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (5,3) (5,)",
        "A sum along an axis removes that axis. With <code>keepdims=True</code> it stays, with length 1.",
    ),
)

# --- 3.4 -------------------------------------------------------------------------------------------------------------


def attention_backward(q, k, v, weights, grad_out):
    """The gradients of softmax(q kᵀ / √d) v, given that of its output.  -> dq, dk, dv, shaped like q, k, v

    attn_ref's own function computes the weights anew; here they are those of the forward pass, masked or not.
    """
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dq = grad_scores @ k * scale
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return dq, dk, np.swapaxes(weights, -1, -2) @ grad_out


backward = Exercise(
    "3.4",
    "Back through attention",
    reference=attention_backward,
    minutes=25,
    forbids=(
        "attn_ref.attention_backward",
        "attn_ref.tiled_backward",
        "attn_ref.flash_backward",
        "attn_ref.backward.dense_backward",
        "attn_ref.numerical_gradient",
    ),
)


@backward.probe
def drive_backward(answer, q, k, v, weights, grad_out, want):
    """One of the three gradients, so that each earns points by itself, or all. What is not three lacks the one."""
    found = answer(q, k, v, weights, grad_out)
    if want == "all":
        return found
    try:
        gradients = dict(zip(("dq", "dk", "dv"), found, strict=True))
    except (TypeError, ValueError):
        return {want: None} if found is None else {}
    return {want: gradients[want]}


def backward_case(rng, n_q, n_k, d, d_v, *lead, want, size=1.0):
    q, k = size * rng.normal(size=(*lead, n_q, d)), rng.normal(size=(*lead, n_k, d))
    weights = attn_ref.softmax(attn_ref.attention_scores(q, k))
    v, grad_out = rng.normal(size=(*lead, n_k, d_v)), rng.normal(size=(*lead, n_q, d_v))
    return dict(q=q, k=k, v=v, weights=weights, grad_out=grad_out, want=want)


SMALL = dict(
    q=np.array([[2.0, 0.0, 0.0, 0.0]]),
    k=np.array([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]]),
    v=np.array([[4.0], [8.0]]),
    weights=np.array([[0.5, 0.5]]),
    grad_out=np.array([[1.0]]),
)


@backward.criterion("dv: each value hears from the queries that read it, in their shares", points=1)
def only_dv(rng):
    yield dict(SMALL, want="dv")
    yield backward_case(rng, 5, 3, 7, 4, want="dv")
    yield backward_case(rng, 4, 4, 4, 4, want="dv")
    yield backward_case(rng, 1, 6, 2, 3, want="dv")


@backward.criterion("dq: through softmax and the scale to the queries", points=2)
def only_dq(rng):
    yield dict(SMALL, want="dq")
    yield backward_case(rng, 5, 3, 7, 4, want="dq")
    yield backward_case(rng, 4, 4, 4, 4, want="dq")
    yield backward_case(rng, 3, 6, 2, 1, want="dq")


@backward.criterion("dk: through softmax and the scale to the keys", points=1)
def only_dk(rng):
    yield dict(SMALL, want="dk")
    yield backward_case(rng, 5, 3, 7, 4, want="dk")
    yield backward_case(rng, 4, 4, 4, 4, want="dk")
    yield backward_case(rng, 3, 6, 2, 1, want="dk")


@backward.criterion("leading axes are batches, each with its own queries, keys and values", points=1)
def backward_batches(rng):
    yield backward_case(rng, 5, 3, 7, 4, 2, want="all")
    yield backward_case(rng, 5, 4, 7, 6, 2, 3, want="all")
    yield backward_case(rng, 3, 3, 3, 3, 3, want="all")
    yield backward_case(rng, 2, 1, 3, 1, 1, 1, want="all")
    case = backward_case(rng, 4, 2, 3, 5, 3, want="all", size=20.0)
    yield case | dict(grad_out=100 * case["grad_out"])


@backward.criterion("the weights count as they are given, with zeros and empty rows; whole numbers too", points=1)
def given_weights(rng):
    case = backward_case(rng, 4, 4, 3, 5, want="all")
    scores = np.where(np.tril(np.ones((4, 4), bool)), attn_ref.attention_scores(case["q"], case["k"]), -np.inf)
    yield case | dict(weights=attn_ref.softmax(scores))
    case = backward_case(rng, 3, 5, 2, 4, want="all")
    weights = case["weights"].copy()
    weights[1] = 0.0
    yield case | dict(weights=weights)
    case = backward_case(rng, 2, 3, 4, 2, want="all")
    whole = {name: rng.integers(-4, 5, size=case[name].shape) for name in ("q", "k", "v", "grad_out")}
    yield case | whole | dict(weights=np.array([[0.25, 0.5, 0.25], [0.75, 0.0, 0.25]]))
    yield case | dict(grad_out=whole["grad_out"])  # the values are not whole
    case = backward_case(rng, 3, 4, 2, 5, want="all")
    weights = case["weights"] * [1, 0, 1, 1]  # a key that nobody reads
    yield case | dict(weights=weights / weights.sum(axis=-1, keepdims=True), grad_out=1e-9 * case["grad_out"])


backward.leaves_inputs_alone(points=1)


@backward.mistake(
    "dq and dk are too large by √d. The scores were made by q kᵀ / √d; what does a nudge of q move a score by?"
)
def scale_missing(q, k, v, weights, grad_out):
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q
    return grad_scores @ k, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "dq carries the scale and dk does not. q and k take part in a score in the same way; where did the factor go?"
)
def scale_missing_for_keys(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "You divide by d where √d is meant: the scale has been applied twice. Once on the way from the scores is enough; where is the second time?"
)
def scaled_twice_back(q, k, v, weights, grad_out):
    scale = 1 / q.shape[-1]
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "You multiply by √d on the way back. The chain rule uses the same factor as the forward pass: which was it?"
)
def scale_inverted_back(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** 0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "The root is taken of the length of the values. Whose length stood under the root on the way forward?"
)
def root_of_d_v_back(q, k, v, weights, grad_out):
    scale = v.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "dv carries the scale 1/√d. Values meet the weights after the scores are made; does the scale lie on their way back?"
)
def scale_on_the_values(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out * scale


@backward.mistake(
    "In dv the weights are not turned round. Row j of dv collects from all queries; which axis of the weights holds them? (With as many queries as keys no error tells.)"
)
def weights_not_turned(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, weights @ grad_out


@backward.mistake(
    "In dk the gradient of the scores is not turned round. Row j of dk collects from all queries; which axis of the scores holds them? (With as many queries as keys no error tells.)"
)
def scores_not_turned(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    return grad_scores @ k * scale, grad_scores @ q * scale, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "dv is made from the scores. A value was multiplied by its weight on the way forward: which of the two arrays says how much of it was read?"
)
def values_from_scores(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    scores = q @ np.swapaxes(k, -1, -2) * scale
    return grad_scores @ k * scale, dk, np.swapaxes(scores, -1, -2) @ grad_out


@backward.mistake(
    "dv is made from the gradient of the scores. The values never passed through softmax; what multiplied them on the way forward?"
)
def values_from_grad_scores(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    turned = np.swapaxes(grad_scores, -1, -2)
    return grad_scores @ k * scale, turned @ q * scale, turned @ grad_out


@backward.mistake(
    "Softmax is skipped: what reaches the weights is handed to the scores as it is. Where does your 3.3 come in?"
)
def softmax_skipped(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = grad_out @ np.swapaxes(v, -1, -2)
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "Only the diagonal of softmax's Jacobian is used, w(1 - w). A score also moves the weights of the other keys; how much does each of them lose?"
)
def diagonal_of_softmax(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = weights * (1 - weights) * (grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "Your scores' gradient is weights times what reaches them, with nothing taken away. What did 3.3 subtract, so that each row sums to 0?"
)
def average_forgotten(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = weights * (grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "What you take from each row on the way through softmax is the plain mean of what reaches the weights. The shares are not equal: by what does 3.3 weigh that average?"
)
def plain_mean_of_the_row(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_weights = grad_out @ np.swapaxes(v, -1, -2)
    grad_scores = weights * (grad_weights - grad_weights.mean(axis=-1, keepdims=True))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "The weights are computed anew from q and k. If a mask has set some of them to 0 they are other weights; which array already holds those of the forward pass?"
)
def weights_computed_anew(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    weights = attn_ref.softmax(q @ np.swapaxes(k, -1, -2) * scale)
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "`.T` reverses all axes, batches included. Right for two axes, an error or a mixture for more: which two axes should change places?"
)
def all_axes_turned(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ v.T)
    return grad_scores @ k * scale, grad_scores.T @ q * scale, weights.T @ grad_out


@backward.mistake("dq and dk have changed places in your return line. In which order does the contract name the three?")
def queries_and_keys_exchanged(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return dk, grad_scores @ k * scale, np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "The gradients come in the order in which you found them, dv first. The contract asks for dq, dk, dv: which does your return line name first?"
)
def values_first(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return np.swapaxes(weights, -1, -2) @ grad_out, grad_scores @ k * scale, dk


@backward.mistake(
    "dq is made of queries and dk of keys. A score is a product of the two: when q is nudged, which of them says how much the score moves?"
)
def own_array_instead_of_the_other(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    return (
        grad_scores @ q * scale,
        np.swapaxes(grad_scores, -1, -2) @ k * scale,
        np.swapaxes(weights, -1, -2) @ grad_out,
    )


@backward.mistake(
    "All gradients have the wrong sign. A gradient points where the loss grows; walking against it is the trainer's business, not the backward pass's. Where does your minus come from?"
)
def sign_of_a_step(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return -grad_scores @ k * scale, -dk, -np.swapaxes(weights, -1, -2) @ grad_out


@backward.mistake(
    "The gradients are right, and the caller's grad_out has been scaled for good: `*=` writes into it. Which form makes a new array?"
)
def grad_out_scaled_in_place(q, k, v, weights, grad_out):
    dv = np.swapaxes(weights, -1, -2) @ grad_out
    if grad_out.dtype.kind == "f":
        grad_out *= q.shape[-1] ** -0.5
    else:
        grad_out = grad_out * q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    return grad_scores @ k, np.swapaxes(grad_scores, -1, -2) @ q, dv


@backward.mistake(
    "Where an array holds whole numbers, its gradient is cut off to whole numbers: `zeros_like(q)` copies the dtype too. Which dtype does a gradient need?"
)
def gradients_cut_to_whole_numbers(q, k, v, weights, grad_out):
    scale = q.shape[-1] ** -0.5
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    dq[...] = grad_scores @ k * scale
    dk[...] = np.swapaxes(grad_scores, -1, -2) @ q * scale
    dv[...] = np.swapaxes(weights, -1, -2) @ grad_out
    return dq, dk, dv


@backward.mistake(
    "dk and dv are means over the queries. Each query that reads a key has its say: are their wishes added up or averaged?"
)
def averaged_over_the_queries(q, k, v, weights, grad_out):
    scale, n_q = q.shape[-1] ** -0.5, q.shape[-2]
    grad_scores = attn_ref.softmax_vjp(weights, grad_out @ np.swapaxes(v, -1, -2))
    dk = np.swapaxes(grad_scores, -1, -2) @ q * scale
    return grad_scores @ k * scale, dk / n_q, np.swapaxes(weights, -1, -2) @ grad_out / n_q


@backward.also_right
def back_with_einsum(q, k, v, weights, grad_out):
    grad_weights = np.einsum("...qe,...ke->...qk", grad_out, v)
    delta = np.einsum("...qk,...qk->...q", weights, grad_weights)
    grad_scores = weights * (grad_weights - delta[..., None]) / np.sqrt(q.shape[-1])
    dq, dk = np.einsum("...qk,...kd->...qd", grad_scores, k), np.einsum("...qk,...qd->...kd", grad_scores, q)
    return [dq, dk, np.einsum("...qk,...qe->...ke", weights, grad_out)]


@backward.also_right
def back_one_query_at_a_time(q, k, v, weights, grad_out):
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for *batch, i in np.ndindex(*q.shape[:-1]):
        b, row = tuple(batch), (*batch, i)
        dv[b] += weights[row][:, None] * grad_out[row]
        heard = v[b] @ grad_out[row]
        jacobian = np.diag(weights[row]) - np.outer(weights[row], weights[row])
        moved = jacobian @ heard / q.shape[-1] ** 0.5
        dq[row] = moved @ k[b]
        dk[b] += np.outer(moved, q[row])
    return dq, dk, dv


@backward.also_right
def delta_from_the_output(q, k, v, weights, grad_out):
    scaled = q * q.shape[-1] ** -0.5
    delta = (grad_out * (weights @ v)).sum(axis=-1, keepdims=True)
    grad_scores = weights * (grad_out @ np.moveaxis(v, -1, -2) - delta)
    dq = grad_scores @ (k * q.shape[-1] ** -0.5)
    return dq.tolist(), np.moveaxis(grad_scores, -2, -1) @ scaled, np.moveaxis(weights, -2, -1) @ grad_out


backward.hints(
    "Walk backwards through out = weights @ v, weights = softmax(scores), scores = q kᵀ / √d. Each gradient has the shape of its array.",
    "For C = A B: dA = dC Bᵀ and dB = Aᵀ dC. Here out = weights @ v gives two of them, and the scores two more.",
    "dv from the turned weights and grad_out; d_weights from grad_out and the turned v; through 3.3 to the scores, times 1/√d; from there to q by k and, turned, to k by q.",
)
backward.errors(
    (
        "ValueError: matmul: Input operand 1 has a mismatch in its core dimension 0",
        "Print the two shapes on that line. Which must be turned so that the gradient gets the shape of its array?",
    ),
)

# --- 3.5 -------------------------------------------------------------------------------------------------------------

training = Exercise(
    "3.5",
    "Queries that learn what to ask",
    reference=attn_ref.train_lookup,
    minutes=18,
    forbids=("attn_ref.straight_through", "attn_ref.numerical_gradient"),
)


@training.probe
def drive_training(answer, keys, values, targets, queries, steps, lr, want):
    """The queries or the losses of a first call, or both of a second one, which must not know of the first."""
    calls = [answer(keys, values, targets, queries, steps, lr) for _ in range(2)]
    found = calls[1] if want == "again" else calls[0]
    if want in ("again", "both"):
        return found
    try:
        parts = dict(zip(("queries", "losses"), found, strict=True))
    except (TypeError, ValueError):
        return {want: None} if found is None else {}
    return {want: parts[want]}


def training_case(rng, n, m, d, d_v, steps, lr, want):
    keys, values = rng.normal(size=(m, d)), rng.normal(size=(m, d_v))
    targets, queries = rng.normal(size=(n, d_v)), rng.normal(size=(n, d))
    return dict(keys=keys, values=values, targets=targets, queries=queries, steps=steps, lr=lr, want=want)


BY_HAND = dict(
    keys=np.array([[2.0], [0.0]]),
    values=np.array([[4.0], [0.0]]),
    targets=np.array([[4.0]]),
    queries=np.array([[0.0]]),
    lr=0.25,
)


@training.criterion("the losses are the mean squared errors before each step", points=2)
def the_losses(rng):
    yield BY_HAND | dict(steps=1, want="losses")
    yield training_case(rng, 5, 3, 4, 2, steps=4, lr=1.5, want="losses")
    yield training_case(rng, 2, 6, 3, 5, steps=3, lr=4.0, want="losses")


@training.criterion("every step goes downhill, by lr times the gradient of that loss", points=2)
def the_queries(rng):
    yield BY_HAND | dict(steps=1, want="queries")
    yield training_case(rng, 5, 3, 4, 2, steps=1, lr=1.5, want="queries")
    yield training_case(rng, 2, 6, 3, 5, steps=5, lr=2.0, want="queries")
    yield training_case(rng, 4, 4, 4, 4, steps=2, lr=0.75, want="queries")
    yield BY_HAND | dict(targets=np.array([[2.5]]), steps=3, lr=2.0, want="queries")  # too far: the loss grows


@training.criterion("any sizes and large scores; as many losses as steps, none for none, even if all are 0", points=1)
def training_sizes(rng):
    yield training_case(rng, 6, 2, 3, 1, steps=3, lr=1.0, want="both")
    yield training_case(rng, 1, 5, 1, 3, steps=2, lr=1.0, want="both")
    yield training_case(rng, 5, 3, 4, 2, steps=0, lr=1.0, want="both")
    yield training_case(rng, 3, 4, 9, 3, steps=6, lr=20.0, want="both")
    case = training_case(rng, 4, 3, 2, 3, steps=3, lr=1e-5, want="both")  # slopes of many thousands
    yield case | dict(values=1000 * case["values"], targets=1000 * case["targets"])
    case = training_case(rng, 3, 4, 2, 2, steps=3, lr=1, want="both")
    yield case | {name: rng.integers(-3, 4, size=case[name].shape) for name in ("keys", "values", "targets", "queries")}
    case = training_case(rng, 2, 1, 3, 2, steps=3, lr=1.0, want="both")  # one key: nothing to learn
    yield case
    yield case | dict(targets=np.repeat(case["values"], 2, axis=0))
    yield dict(
        keys=np.array([[40.0, 0.0], [0.0, 40.0], [-30.0, -30.0]]),
        values=np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]),
        targets=np.array([[1.0, 0.0]]),
        queries=np.array([[30.0, 30.0]]),  # two scores of 849
        steps=2,
        lr=0.25,
        want="both",
    )


@training.criterion("a second call begins anew, from the queries it is given", points=1)
def a_second_call(rng):
    yield training_case(rng, 5, 3, 4, 2, steps=3, lr=1.5, want="again")
    yield training_case(rng, 2, 4, 3, 2, steps=2, lr=1.0, want="again")


training.leaves_inputs_alone(points=1)


@training.mistake(
    "The loss grows: you walk in the direction of the gradient, which is uphill. Which sign takes you down?"
)
def uphill(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, queries, steps, -lr)


@training.mistake(
    "Your steps are half as long as they should be. What is the derivative of (out - target)² with respect to out?"
)
def two_forgotten(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, queries, steps, lr / 2)


@training.mistake(
    "The losses are means, and the steps follow the sum: they are n · d_v times as long. Which division does the gradient of a mean share with the mean?"
)
def gradient_of_the_sum(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, queries, steps, lr * np.size(targets))


@training.mistake(
    "You divide the gradient by the number of queries alone, and the mean runs over all n · d_v entries. How many squares are averaged?"
)
def gradient_over_the_queries_alone(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, queries, steps, lr * targets.shape[-1])


@training.mistake(
    "You divide the gradient by the length of a value alone, and the mean runs over all n · d_v entries. Which part of the count is missing?"
)
def gradient_over_the_features_alone(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, queries, steps, lr * len(targets))


@training.mistake("Your losses are sums. How many squares go into one loss, and what is their mean?")
def losses_summed(keys, values, targets, queries, steps, lr):
    queries, losses = attn_ref.train_lookup(keys, values, targets, queries, steps, lr)
    return queries, [loss * np.size(targets) for loss in losses]


@training.mistake("Your losses are halved: ½(out - target)² is another convention. What does the text call the loss?")
def losses_halved(keys, values, targets, queries, steps, lr):
    queries, losses = attn_ref.train_lookup(keys, values, targets, queries, steps, lr / 2)
    return queries, [loss / 2 for loss in losses]


@training.mistake(
    "Your lookup has no 1/√d in it, so it is another lookup with other losses. Which scale does the text name?"
)
def lookup_without_scale(keys, values, targets, queries, steps, lr):
    queries, losses = queries.astype(float), []
    for _ in range(steps):
        weights = attn_ref.softmax(queries @ keys.T)
        gap = weights @ values - targets
        losses.append(np.mean(gap**2))
        queries = queries - lr * attn_ref.softmax_vjp(weights, 2 * gap / gap.size @ values.T) @ keys
    return queries, losses


@training.mistake(
    "The lookup is scaled by 1/√d and its gradient is not, so your steps are √d times too long. Where does the scale come back in on the way to the queries?"
)
def gradient_without_scale(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, queries, steps, lr * keys.shape[-1] ** 0.5)


@training.mistake(
    "Your way back leaves softmax out: what reaches the weights is handed to the scores. The loss may fall all the same; which exercise knows the slopes in between?"
)
def training_without_softmax(keys, values, targets, queries, steps, lr):
    queries, losses = queries.astype(float), []
    for _ in range(steps):
        gap = attn_ref.attention(queries, keys, values) - targets
        losses.append(np.mean(gap**2))
        queries = queries - lr * (2 * gap / gap.size @ values.T) @ keys * keys.shape[-1] ** -0.5
    return queries, losses


@training.mistake(
    "The diagonal of softmax's Jacobian stands in for the whole. The loss falls with it, too, by another way; check your gradient against differences: what is missing off the diagonal?"
)
def training_by_the_diagonal(keys, values, targets, queries, steps, lr):
    queries, losses = queries.astype(float), []
    for _ in range(steps):
        out, weights = attn_ref.attention(queries, keys, values, return_weights=True)
        gap = out - targets
        losses.append(np.mean(gap**2))
        grad_scores = weights * (1 - weights) * (2 * gap / gap.size @ values.T)
        queries = queries - lr * grad_scores @ keys * keys.shape[-1] ** -0.5
    return queries, losses


@training.mistake(
    "Your losses are those after each step. The first one should be the loss of the queries that came in: what has to happen before the update?"
)
def losses_after_the_step(keys, values, targets, queries, steps, lr):
    losses, now = [], queries.astype(float)
    for _ in range(steps):
        now, _ = attn_ref.train_lookup(keys, values, targets, now, 1, lr)
        losses.append(np.mean((attn_ref.attention(now, keys, values) - targets) ** 2))
    return now, losses


@training.mistake(
    "You return one loss more than there are steps, that of the end. One loss before each step: how many are there for no steps?"
)
def one_loss_more(keys, values, targets, queries, steps, lr):
    trained, losses = attn_ref.train_lookup(keys, values, targets, queries, steps, lr)
    return trained, [*losses, float(np.mean((attn_ref.attention(trained, keys, values) - targets) ** 2))]


@training.mistake(
    "Only the last loss comes back. A list with one for each step is asked for: what happens to the others in your loop?"
)
def last_loss_alone(keys, values, targets, queries, steps, lr):
    queries, losses = attn_ref.train_lookup(keys, values, targets, queries, steps, lr)
    return queries, losses[-1:]


@training.mistake("The two results stand in the wrong order. Which of them does the contract name first?")
def losses_first(keys, values, targets, queries, steps, lr):
    queries, losses = attn_ref.train_lookup(keys, values, targets, queries, steps, lr)
    return losses, queries


@training.mistake(
    "You begin with queries of zeros. The caller says where to begin; where does your code read `queries`?"
)
def begins_at_zero(keys, values, targets, queries, steps, lr):
    return attn_ref.train_lookup(keys, values, targets, np.zeros(queries.shape), steps, lr)


@training.mistake(
    "All queries take the same step, that of their mean. Each one has a target of its own; over which axis did you average its gradient away?"
)
def one_step_for_all_queries(keys, values, targets, queries, steps, lr):
    queries, losses = queries.astype(float), []
    for _ in range(steps):
        gap = attn_ref.attention(queries, keys, values) - targets
        losses.append(np.mean(gap**2))
        dq, _, _ = attn_ref.attention_backward(queries, keys, values, 2 * gap / gap.size)
        queries = queries - lr * dq.mean(axis=0, keepdims=True)
    return queries, losses


@training.mistake(
    "The gradient is computed once and used at every step. After the first step the queries have moved: what belongs inside the loop?"
)
def gradient_of_the_beginning(keys, values, targets, queries, steps, lr):
    first, _ = attn_ref.train_lookup(keys, values, targets, queries, 1, 1.0)
    losses, now = [], queries.astype(float)
    for _ in range(steps):
        losses.append(np.mean((attn_ref.attention(now, keys, values) - targets) ** 2))
        now = now - lr * (queries - first)
    return now, losses


@training.mistake(
    "The keys learn along with the queries. They are given; which of the three gradients does the update need?"
)
def keys_learn_too(keys, values, targets, queries, steps, lr):
    queries, losses = queries.astype(float), []
    for _ in range(steps):
        gap = attn_ref.attention(queries, keys, values) - targets
        losses.append(np.mean(gap**2))
        dq, dk, _ = attn_ref.attention_backward(queries, keys, values, 2 * gap / gap.size)
        queries, keys = queries - lr * dq, keys - lr * dk
    return queries, losses


@training.mistake(
    "`queries -= ...` writes into the caller's array: the next call begins where this one stopped. Which form of the update makes a new array?"
)
def start_overwritten(keys, values, targets, queries, steps, lr):
    losses = []
    for _ in range(steps):
        gap = attn_ref.attention(queries, keys, values) - targets
        losses.append(np.mean(gap**2))
        queries[...] = queries - lr * attn_ref.attention_backward(queries, keys, values, 2 * gap / gap.size)[0]
    return queries, losses


@training.mistake(
    "The second call goes on where the first one stopped: something outlives the function, such as a default argument that is a list, or a variable outside. What should a call know, other than its arguments?"
)
def goes_on_where_it_stopped(keys, values, targets, queries, steps, lr, kept=[]):  # noqa: B006 that is the mistake
    going_on = bool(kept) and kept[-1].shape == queries.shape
    start = kept.pop() if going_on else queries
    trained, losses = attn_ref.train_lookup(keys, values, targets, start, steps, lr)
    if not going_on:
        kept.append(trained)
    return trained, losses


@training.mistake(
    "Your loop stops early, once the loss or the gradient is next to nothing. One loss for each step is asked for: how many come back after three steps at a loss of 0?"
)
def stops_when_it_is_good_enough(keys, values, targets, queries, steps, lr):
    queries, losses = queries.astype(float), []
    for _ in range(steps):
        gap = attn_ref.attention(queries, keys, values) - targets
        losses.append(np.mean(gap**2))
        dq = attn_ref.attention_backward(queries, keys, values, 2 * gap / gap.size)[0]
        if np.abs(dq).max() < 1e-12:
            break
        queries = queries - lr * dq
    return queries, losses


@training.mistake(
    "Your softmax takes exp of the scores as they are, and that of 800 is infinite. What did chapter 02 take from every score of a row first?"
)
def training_with_an_exp_that_overflows(keys, values, targets, queries, steps, lr):
    queries, losses, scale = queries.astype(float), [], keys.shape[-1] ** -0.5
    for _ in range(steps):
        weights = np.exp(queries @ keys.T * scale)
        weights = weights / weights.sum(axis=-1, keepdims=True)
        gap = weights @ values - targets
        losses.append(np.mean(gap**2))
        queries = queries - lr * scale * attn_ref.softmax_vjp(weights, 2 * gap / gap.size @ values.T) @ keys
    return queries, losses


@training.mistake(
    "Your losses are sums over the features, averaged over the queries alone. Over how many squares does the text's mean run?"
)
def losses_summed_over_the_features(keys, values, targets, queries, steps, lr):
    queries, losses = attn_ref.train_lookup(keys, values, targets, queries, steps, lr)
    return queries, [loss * targets.shape[-1] for loss in losses]


@training.also_right
def training_spelled_out(keys, values, targets, queries, steps, lr):
    scale, losses = 1 / np.sqrt(keys.shape[1]), np.zeros(steps)
    for step in range(steps):
        scores = np.einsum("nd,md->nm", queries, keys) * scale
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        w = e / e.sum(axis=1, keepdims=True)
        gap = w @ values - targets
        losses[step] = (gap * gap).sum() / gap.size
        heard = gap @ values.T
        queries = queries - lr * scale * 2 / gap.size * (w * (heard - (w * heard).sum(1, keepdims=True))) @ keys
    return [queries, losses]


@training.also_right
def one_query_after_the_other(keys, values, targets, queries, steps, lr):
    trained, losses = [], [0.0] * steps
    for query, target in zip(queries, targets, strict=True):
        for step in range(steps):
            w = attn_ref.softmax(keys @ query / len(query) ** 0.5)
            gap = w @ values - target
            losses[step] += float(gap @ gap) / targets.size
            slopes = (np.diag(w) - np.outer(w, w)) @ (values @ gap) * 2 / targets.size
            query = query - lr * (slopes @ keys) / len(query) ** 0.5
        trained.append(query)
    return np.array(trained), losses


@training.also_right
def on_a_copy(keys, values, targets, queries, steps, lr):
    moving, losses = np.array(queries, dtype=float), []
    for _ in range(steps):
        gap = attn_ref.attention(moving, keys, values) - targets
        losses += [np.square(gap).mean()]
        moving -= lr * attn_ref.attention_backward(moving, keys, values, gap * (2 / gap.size))[0]
    return moving.tolist(), tuple(losses)


training.hints(
    "The loss is a mean of n · d_v squares. Its gradient by one entry of the output is 2 · (out - target) / (n · d_v).",
    "In the loop: look up; take the gap to the targets; append the mean of its squares; dq of the backward pass for 2 · gap / gap.size; new queries = queries minus lr times dq.",
)
training.errors(
    (
        "numpy._core._exceptions._UFuncOutputCastingError: Cannot cast ufunc 'subtract' output from dtype('float64') to dtype('int64')",
        "`queries -= ...` on whole numbers. A new array, <code>queries = queries - ...</code>, may hold fractions, and leaves the caller's alone.",
    ),
    (
        "TypeError: attention_backward() missing 1 required positional argument: 'grad_out'",
        "Your own takes the weights too: (q, k, v, weights, grad_out). That of attn_ref does not.",
    ),
)

# --- 3.6 -------------------------------------------------------------------------------------------------------------

straight = Exercise(
    "3.6",
    "Choose hard, learn soft",
    reference=attn_ref.straight_through,
    minutes=15,
    forbids=("attn_ref.train_lookup", "attn_ref.numerical_gradient"),
)


@straight.probe
def drive_straight(answer, keys, values, targets, queries, want):
    """The output, the gradient, or both, so that each earns points by itself.

    Whole values may come out whole or as floats: both are right, and a mistake is the same mistake with either.
    """
    found = answer(keys, values, targets, queries)
    if isinstance(found, (tuple, list)):
        found = [part * 1.0 if isinstance(part, np.ndarray) and part.dtype.kind == "i" else part for part in found]
    if want == "both":
        return found
    try:
        parts = dict(zip(("output", "dqueries"), found, strict=True))
    except (TypeError, ValueError):
        return {want: None} if found is None else {}
    return {want: parts[want]}


def straight_case(rng, n, m, d, d_v, want):
    case = training_case(rng, n, m, d, d_v, 0, 0.0, want)
    return {name: case[name] for name in ("keys", "values", "targets", "queries", "want")}


EVEN = dict(  # scores 0.5 and 0 for d = 4
    keys=np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]),
    values=np.array([[4.0], [0.0]]),
    targets=np.array([[1.0]]),
    queries=np.array([[1.0, 0.0, 0.0, 0.0]]),
)


@straight.criterion("forward: each query gets the value of its best key, and of no other", points=1)
def hard_forward(rng):
    yield EVEN | dict(want="output")
    yield straight_case(rng, 6, 4, 3, 2, want="output")
    yield straight_case(rng, 4, 4, 4, 4, want="output")


@straight.criterion("backward: the gradient of a soft lookup, for the loss of the hard output", points=2)
def soft_backward(rng):
    yield EVEN | dict(want="dqueries")
    yield straight_case(rng, 6, 4, 3, 2, want="dqueries")
    yield straight_case(rng, 4, 4, 4, 4, want="dqueries")
    yield straight_case(rng, 3, 7, 9, 5, want="dqueries")


@straight.criterion("any sizes, large scores, small leads and whole numbers", points=1)
def straight_sizes(rng):
    yield straight_case(rng, 1, 5, 3, 2, want="both")
    yield straight_case(rng, 5, 3, 1, 1, want="both")
    yield straight_case(rng, 2, 1, 3, 4, want="both")
    case = straight_case(rng, 5, 3, 4, 2, want="both")
    yield case | dict(queries=3000 * case["queries"])
    close = (
        np.array([[1.0], [1 + 1e-10], [-1.0]]) * case["queries"][0]
    )  # so small a lead that two soft weights look equal
    yield case | dict(keys=close)
    yield case | dict(queries=6 * case["queries"], values=20 * case["values"])
    whole = dict(keys=np.array([[1, 0], [0, 2], [-1, 1]]), queries=np.array([[3, 1], [-2, 0], [1, 2]]), want="both")
    yield whole | dict(values=np.array([[5], [-12], [3]]), targets=np.array([[1], [2], [4]]))
    yield whole | dict(values=np.array([[5], [-12], [3]]), targets=np.array([[0.75], [2.5], [4.25]]))
    yield whole | dict(values=np.array([[0.75], [2.5], [4.25]]), targets=np.array([[1], [2], [4]]))
    small = dict(queries=np.array([[1e-20, 0.0]]), keys=np.array([[1.0, 0.0], [2.0, 0.0], [0.0, -1.0]]))
    yield small | dict(values=np.array([[5.0], [-12.0], [3.0]]), targets=np.array([[1.0]]), want="both")


straight.leaves_inputs_alone(points=1)


@straight.mistake(
    "Your output is the soft average. Forward, this lookup has to choose: which single row of the values does each query get?"
)
def soft_forward(keys, values, targets, queries):
    _, dq = attn_ref.straight_through(keys, values, targets, queries)
    return attn_ref.attention(queries, keys, values), dq


@straight.mistake(
    "Output and gradient are those of a soft lookup through and through: nothing is chosen anywhere. Which of the two passes should be hard?"
)
def soft_both_ways(keys, values, targets, queries):
    out = attn_ref.attention(queries, keys, values)
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size)[0]


@straight.mistake(
    "The output is hard, and the gradient answers for another one: it starts from what a soft output would have got wrong. Whose error does the loss measure here?"
)
def error_of_the_soft_output(keys, values, targets, queries):
    out = values[(queries @ keys.T).argmax(axis=-1)]
    gap = attn_ref.attention(queries, keys, values) - targets
    return out, attn_ref.attention_backward(queries, keys, values, 2 * gap / gap.size)[0]


@straight.mistake(
    "You pass the gradient back through the one-hot choice, with weights of 0 and 1, and w_i(g_i - Σ w g) is then 0 everywhere. Which weights should the way back use?"
)
def one_hot_both_ways(keys, values, targets, queries):
    weights = np.eye(len(keys))[(queries @ keys.T).argmax(axis=-1)]
    out = weights @ values
    grad_scores = attn_ref.softmax_vjp(weights, 2 * (out - targets) / out.size @ values.T)
    return out, grad_scores @ keys * keys.shape[-1] ** -0.5


@straight.mistake(
    "You hand the gradient of the weights straight to the scores, as if there were no softmax. That has been tried, and works too; here the way back is to be that of a soft lookup. Which slopes lie between weights and scores?"
)
def straight_past_softmax(keys, values, targets, queries):
    out = values[(queries @ keys.T).argmax(axis=-1)]
    return out, (2 * (out - targets) / out.size @ values.T) @ keys * keys.shape[-1] ** -0.5


@straight.mistake("Your gradient is √d times too large. Which factor turned dot products into scores on the soft way?")
def straight_without_scale(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return out, dq * keys.shape[-1] ** 0.5


@straight.mistake(
    "The soft weights on your way back are those of unscaled dot products, so they are sharper than the contract's. Where does 1/√d belong?"
)
def unscaled_soft_weights(keys, values, targets, queries):
    out = values[(queries @ keys.T).argmax(axis=-1)]
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size, scale=1.0)[0]


@straight.mistake("Your gradient is half of what it should be. What is the derivative of a square?")
def straight_two_forgotten(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return out, dq / 2


@straight.mistake(
    "You divide by the number of queries alone, and the mean runs over all n · d_v entries. How many squares are averaged?"
)
def straight_over_the_queries_alone(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return out, dq * out.shape[-1]


@straight.mistake(
    "For whole numbers your gradient is cut off to whole numbers on the way: an array made like `targets` holds nothing else. Which dtype should the gradient of the output have?"
)
def gradient_cut_to_whole_numbers(keys, values, targets, queries):
    out = values[(queries @ keys.T).argmax(axis=-1)]
    grad_out = np.zeros_like(targets)
    grad_out[...] = 2 * (out - targets) / out.size
    return out, attn_ref.attention_backward(queries, keys, values, grad_out)[0]


@straight.mistake(
    "Your gradient is that of the sum of squares. The loss is their mean, over all n · d_v entries; what does that divide?"
)
def straight_of_the_sum(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return out, dq * out.size


@straight.mistake(
    "Your gradient has the wrong sign: it starts from target minus output. The loss grows where the output moves away from its target; which difference says so?"
)
def straight_sign_turned(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return out, -dq


@straight.mistake(
    "The choice runs along the wrong axis: each key picks a query. Who is asking, and along which axis do the keys lie in the scores?"
)
def keys_choose_queries(keys, values, targets, queries):
    best = (queries @ keys.T).argmax(axis=0)
    out = values[np.resize(best % len(values), len(queries))]
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size)[0]


@straight.mistake(
    "One winner is chosen for all queries. `argmax` without an axis looks at the whole table; along which axis should each query choose?"
)
def one_winner_for_all(keys, values, targets, queries):
    best = (queries @ keys.T).argmax() % len(keys)
    out = np.repeat(values[best][None], len(queries), axis=0)
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size)[0]


@straight.mistake(
    "Your soft weights come from an exp of their own that overflows: inf over inf is NaN. What did chapter 02 take from every score of a row first?"
)
def exp_that_overflows(keys, values, targets, queries):
    scale = keys.shape[-1] ** -0.5
    weights = np.exp(queries @ keys.T * scale)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    out = values[(queries @ keys.T).argmax(axis=-1)]
    return out, attn_ref.softmax_vjp(weights, 2 * (out - targets) / out.size @ values.T) @ keys * scale


@straight.mistake(
    "Your choice is a very sharp softmax: where the lead is small it still mixes two values. Which function makes a choice that is never a mixture?"
)
def nearly_hard(keys, values, targets, queries):
    out = attn_ref.attention(queries, keys, values, scale=1000.0)
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size)[0]


@straight.mistake(
    "You choose by the soft weights. Scores of 1e-20 and 2e-20 differ, and their weights round to the same number, of which `argmax` takes the first. What could be compared before softmax?"
)
def chosen_by_the_weights(keys, values, targets, queries):
    weights = attn_ref.attention(queries, keys, values, return_weights=True)[1]
    out = values[weights.argmax(axis=-1)]
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size)[0]


@straight.mistake(
    "Your output is cut off to whole numbers: an array made like whole `targets` holds nothing else, and the values are not whole. Which dtype should the output have?"
)
def output_cut_to_whole_numbers(keys, values, targets, queries):
    out = np.zeros_like(targets)
    out[...] = values[(queries @ keys.T).argmax(axis=-1)]
    return out, attn_ref.attention_backward(queries, keys, values, 2 * (out - targets) / out.size)[0]


@straight.mistake(
    "Whole values make your difference to the targets whole, too: an array made like the output holds nothing else. Which dtype has 5 - 0.75?"
)
def difference_cut_to_whole_numbers(keys, values, targets, queries):
    out = values[(queries @ keys.T).argmax(axis=-1)]
    gap = np.zeros_like(out)
    gap[...] = out - targets
    return out, attn_ref.attention_backward(queries, keys, values, 2 * gap / gap.size)[0]


@straight.mistake(
    "The way back uses the diagonal of softmax's Jacobian alone. The other keys hear of a score as well; what did exercise 3.3 take from each row?"
)
def straight_by_the_diagonal(keys, values, targets, queries):
    out = values[(queries @ keys.T).argmax(axis=-1)]
    weights = attn_ref.attention(queries, keys, values, return_weights=True)[1]
    grad_scores = weights * (1 - weights) * (2 * (out - targets) / out.size @ values.T)
    return out, grad_scores @ keys * keys.shape[-1] ** -0.5


@straight.mistake("You return the position of the best key. What does a lookup bring, once it has found the position?")
def positions_returned(keys, values, targets, queries):
    _, dq = attn_ref.straight_through(keys, values, targets, queries)
    return (queries @ keys.T).argmax(axis=-1), dq


@straight.mistake(
    "Gradient and output have changed places in your return line. Which of them does the contract name first?"
)
def gradient_first(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return dq, out


@straight.mistake(
    "You return new queries. The gradient alone is asked for; whoever calls this takes the step, with a rate of their own."
)
def step_taken(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    return out, queries - dq


@straight.mistake(
    "Everything is right, and the caller's targets or queries have been written to. Which of your lines has `-=`, `+=` or `*=` in it?"
)
def targets_overwritten(keys, values, targets, queries):
    out, dq = attn_ref.straight_through(keys, values, targets, queries)
    targets -= out.astype(targets.dtype)
    return out, dq


@straight.also_right
def straight_one_by_one(keys, values, targets, queries):
    outs, dqs = [], []
    for query, target in zip(queries, targets, strict=True):
        scores = keys @ query / np.sqrt(len(query))
        w = np.exp(scores - max(scores)) / sum(np.exp(scores - max(scores)))
        out = values[int(np.argmax(scores))]
        heard = values @ ((out - target) * 2 / targets.size)
        outs.append(out)
        dqs.append((np.diag(w) - np.outer(w, w)) @ heard @ keys / np.sqrt(len(query)))
    return outs, np.array(dqs)


@straight.also_right
def straight_by_one_hot(keys, values, targets, queries):
    scores = np.einsum("nd,md->nm", queries, keys) * keys.shape[1] ** -0.5
    soft = attn_ref.softmax(scores)
    hard = (np.arange(len(keys)) == scores.argmax(axis=1)[:, None]).astype(float)
    out = hard @ values
    heard = np.einsum("ne,me->nm", out - targets, values) / (0.5 * out.size)
    moved = soft * heard - soft * np.sum(soft * heard, axis=1, keepdims=True)
    return [out.tolist(), moved @ (keys * keys.shape[1] ** -0.5)]


@straight.also_right
def straight_by_take(keys, values, targets, queries):
    out = np.take(values, np.argmax(keys @ queries.T, axis=0), axis=0)
    return out, attn_ref.attention_backward(queries, keys, values, (out - targets) / (out.size / 2))[0]


straight.hints(
    "Two separate halves. The output: chapter 01's hard lookup. The gradient: that of the lookup in 3.5, which starts from an error. Which error?",
    "Scores; argmax along the keys; those rows of values. Then dq of the soft backward pass for the gradient of the hard output, 2 · (output - target) / (n · d_v).",
)
straight.errors(
    (
        "TypeError: attention_backward() missing 1 required positional argument: 'grad_out'",
        "Your own takes the weights too: (q, k, v, weights, grad_out). That of attn_ref does not.",
    ),
)

# --- 3.7 -------------------------------------------------------------------------------------------------------------

sampled = Exercise("3.7", "Learn from tries alone", reference=attn_ref.sampled_gradient, minutes=15)


@sampled.criterion("each try pulls at its own score and pushes at all of them; the tries are averaged", points=2)
def tries(rng):
    yield dict(weights=np.array([0.5, 0.5]), picks=np.array([0, 1]), losses=np.array([1.0, 0.0]))
    yield dict(weights=np.array([0.25, 0.75]), picks=np.array([1]), losses=np.array([40.0]))
    yield dict(weights=rng.dirichlet(np.ones(4)), picks=np.array([2, 0, 3]), losses=rng.normal(size=3))
    yield dict(weights=rng.dirichlet(np.ones(3)), picks=np.array([2, 0, 1]), losses=rng.normal(size=3))


@sampled.criterion("a key that was tried several times counts each time", points=1)
def repeated(rng):
    yield dict(weights=np.array([0.5, 0.5]), picks=np.array([0, 0, 1]), losses=np.array([1.0, 1.0, 0.0]))
    yield dict(weights=rng.dirichlet(np.ones(3)), picks=rng.integers(3, size=50), losses=rng.normal(size=50))
    yield dict(weights=rng.dirichlet(np.ones(6)), picks=np.array([4, 4, 4, 1]), losses=rng.normal(size=4))


@sampled.criterion("the baseline is taken from every loss first", points=1)
def with_a_baseline(rng):
    yield dict(weights=np.array([0.5, 0.5]), picks=np.array([0, 0]), losses=np.array([3.0, 1.0]), baseline=1.0)
    yield dict(weights=rng.dirichlet(np.ones(4)), picks=rng.integers(4, size=9), losses=rng.normal(size=9), baseline=2)
    losses = 50.0 + rng.normal(size=7)
    yield dict(weights=rng.dirichlet(np.ones(3)), picks=rng.integers(3, size=7), losses=losses, baseline=-1.5)
    losses = np.array([0.0, 2.0, 0.0, 3.0])
    yield dict(weights=rng.dirichlet(np.ones(3)), picks=np.array([0, 2, 1, 1]), losses=losses, baseline=1.25)


@sampled.criterion("one key, weights of 0, more keys than tries, whole numbers", points=1)
def unusual_tries(rng):
    yield dict(weights=np.array([0.0, 0.75, 0.25]), picks=np.array([1, 2, 1]), losses=np.array([3, -1, 4]))
    yield dict(weights=np.array([0, 1, 0]), picks=np.array([1, 1]), losses=np.array([3, 5]))
    yield dict(weights=np.array([1.0]), picks=np.array([0, 0, 0]), losses=rng.normal(size=3))
    yield dict(weights=rng.dirichlet(np.ones(7)), picks=np.array([6]), losses=np.array([-2.0]), baseline=1.5)
    yield dict(weights=rng.dirichlet(np.ones(3)), picks=np.array([2, 0]), losses=np.array([4, 1]), baseline=1.5)


sampled.leaves_inputs_alone(points=1)


@sampled.mistake(
    "You pull at the chosen score and never push at the others. Raising one score lowers all other weights; which vector has to be taken from the one-hot choice?"
)
def weights_not_taken_away(weights, picks, losses, baseline=0.0):
    return ((losses - baseline)[:, None] * np.eye(len(weights))[picks]).mean(axis=0)


@sampled.mistake(
    "Your signs are turned round. A try with a large loss should give its score a positive gradient, so that a step downhill lowers it. Which of the two is taken from which?"
)
def choice_taken_from_weights(weights, picks, losses, baseline=0.0):
    return -attn_ref.sampled_gradient(weights, picks, losses, baseline)


@sampled.mistake(
    "You add the tries up. With twice as many tries the estimate would be twice as long; what should more tries change?"
)
def tries_added_up(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, losses, baseline) * len(picks)


@sampled.mistake("You divide by the number of keys. What is averaged here, keys or tries?")
def over_the_keys(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, losses, baseline) * len(picks) / len(weights)


@sampled.mistake(
    "A key that was tried twice counts once: `out[picks] += ...` writes each place a single time, whatever comes twice. Which way of adding counts repeats?"
)
def repeats_lost(weights, picks, losses, baseline=0.0):
    pull, gain = np.zeros(len(weights)), losses - baseline
    pull[picks] += gain
    return (pull - gain.sum() * weights) / len(picks)


@sampled.mistake(
    "You average over the tries of each key and then over the keys, so that a rare key counts as much as a frequent one. How often a key is tried is part of the estimate; what is the plain mean over all tries?"
)
def each_key_once(weights, picks, losses, baseline=0.0):
    out, tried = np.zeros(len(weights)), sorted({int(j) for j in picks})
    for j in tried:
        out += (losses[picks == j].mean() - baseline) * (np.eye(len(weights))[j] - weights)
    return out / len(tried)


@sampled.mistake(
    "You read `losses` by key: losses[pick]. It holds one loss for each try, in the order of the tries. Which entry belongs to try i?"
)
def losses_read_by_key(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, np.resize(losses, len(weights))[picks], baseline)


@sampled.mistake("`baseline` changes nothing in your answer. From what should it be taken?")
def baseline_ignored(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, losses)


@sampled.mistake(
    "You add the baseline to the losses. If all losses are 3 and the baseline is 3, how good was each try?"
)
def baseline_added(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, losses, -baseline)


@sampled.mistake(
    "You take the baseline from the finished estimate, from every entry alike. It belongs to the losses: a try is better or worse than usual by how much?"
)
def baseline_at_the_end(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, losses) - baseline


@sampled.mistake(
    "You take a baseline of your own, the mean of these losses. The caller passes one, 0 included; and with a single try yours would leave nothing to learn from."
)
def mean_as_the_baseline(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, losses, np.mean(losses))


@sampled.mistake(
    "You divide by the weight of the chosen key, which is the slope of log w by the weight. The slope by the scores is asked for; what does softmax make of 1/w?"
)
def slopes_of_the_weights(weights, picks, losses, baseline=0.0):
    share = np.where(weights > 0, weights, 1)
    return ((losses - baseline)[:, None] * np.eye(len(weights))[picks] / share).mean(axis=0)


@sampled.mistake(
    "Each try's vector is multiplied by the weight of its key. The tries were drawn by the weights, so a likely key comes up often already; how often does the weight count now?"
)
def weighted_twice(weights, picks, losses, baseline=0.0):
    return attn_ref.sampled_gradient(weights, picks, (losses - baseline) * weights[picks])


@sampled.mistake(
    "You divide by the weights: one-hot/w - 1 is how log w follows the weights, each moved alone. Softmax lies between them and the scores; what does it make of 1/w?"
)
def slopes_of_the_weights_less_one(weights, picks, losses, baseline=0.0):
    return ((losses - baseline)[:, None] * (np.eye(len(weights))[picks] / weights - 1)).mean(axis=0)


@sampled.mistake(
    "Tries with a loss of 0 are skipped. Beside a baseline of 1 they are the best of all: what is loss - baseline for them?"
)
def zero_losses_skipped(weights, picks, losses, baseline=0.0):
    total = np.zeros(len(weights))
    for pick, loss in zip(picks, losses, strict=True):
        if loss != 0:
            total += (loss - baseline) * (np.eye(len(weights))[pick] - weights)
    return total / len(picks)


@sampled.mistake(
    "For whole losses the baseline's fraction is cut off: an array made like `losses` holds whole numbers alone. Which dtype should the gains have?"
)
def gains_cut_to_whole_numbers(weights, picks, losses, baseline=0.0):
    gains = np.zeros_like(losses)
    gains[...] = losses - baseline
    return attn_ref.sampled_gradient(weights, picks, gains)


@sampled.mistake(
    "You leave the losses out. This says in which direction each choice becomes likelier; what makes a choice worth it or not?"
)
def losses_left_out(weights, picks, losses, baseline=0.0):
    return (np.eye(len(weights))[picks] - weights).mean(axis=0)


@sampled.mistake(
    "One row for each try comes back. They are to be averaged into one gradient, as long as there are keys: along which axis?"
)
def one_row_a_try(weights, picks, losses, baseline=0.0):
    return (losses - baseline)[:, None] * (np.eye(len(weights))[picks] - weights)


@sampled.mistake(
    "The estimate is right, and the caller's losses have lost the baseline for good: `-=` writes into them. Which form makes a new array?"
)
def losses_overwritten(weights, picks, losses, baseline=0.0):
    found = attn_ref.sampled_gradient(weights, picks, losses, baseline)
    losses -= np.asarray(baseline).astype(losses.dtype)
    return found


@sampled.also_right
def try_by_try(weights, picks, losses, baseline=0.0):
    total = [0.0] * len(weights)
    for pick, loss in zip(picks, losses, strict=True):
        for j, w in enumerate(weights):
            total[j] += (loss - baseline) * ((1 if j == pick else 0) - w)
    return [one / len(picks) for one in total]


@sampled.also_right
def by_counting(weights, picks, losses, baseline=0.0):
    gains = np.asarray(losses, dtype=float) - baseline
    return (np.bincount(picks, weights=gains, minlength=len(weights)) - gains.sum() * weights) / len(gains)


@sampled.also_right
def as_a_product(weights, picks, losses, baseline=0.0):
    pulled = np.equal.outer(picks, np.arange(weights.size)) * 1.0
    return (losses - baseline) @ (pulled - weights[None]) / picks.size


sampled.hints(
    "One try first: a vector as long as there are keys, 1 at the pick and 0 elsewhere, minus the weights, times one number.",
    "`np.eye(m)[picks]` gives a one-hot row for each try. Take the weights away, multiply each row by its gain, loss - baseline, and average over the tries.",
)
sampled.errors(
    (
        "ValueError: operands could not be broadcast together with shapes (9,) (9,4)",
        "A number for each try should multiply a row for each try. <code>[:, None]</code> turns the numbers into a column.",
    ),
)

# --- questions -------------------------------------------------------------------------------------------------------

equal_gradients = Quiz(
    "3.a",
    "A row of weights is (½, ½), and the loss has the gradient 3 for both weights. What reaches the two scores?",
    {
        "a": ("(1.5, 1.5)", "This is weight times gradient. It would raise or lower both scores together, which changes no share; the row's average, 3, has to be taken away first."),
        "b": ("(0, 0)", "Yes: neither key is better than the row's average of 3, and moving the budget from one to the other gains nothing."),
        "c": ("(0.75, 0.75)", "This is the diagonal of the Jacobian alone, ½ · ½ · 3. The entry beside it, -½ · ½ · 3, cancels it."),
        "d": ("(3, 3)", "That would be softmax left out. A score moves its weight by w(1 - w) at most, and the others the other way."),
    },
    right="b",
)  # fmt: skip

who_learns = Quiz(
    "3.b",
    "A lookup takes the value of the best key, and nothing else. Which gradients of its loss can differ from 0?",
    {
        "a": ("None: a choice stops every gradient.", "It stops those of the choice. The value that was read passes through unchanged, and its gradient with it."),
        "b": ("That of the queries alone.", "A small nudge of a query leaves the best key the best, and the output as it was."),
        "c": ("That of the values that were read.", "Yes: what is read can still become better. Which one is read cannot, because queries and keys hear nothing."),
        "d": ("All three, once a framework takes care of it.", "A framework differentiates the program that it is given, and that of argmax is flat: 0 for queries and keys."),
    },
    right="c",
)  # fmt: skip

smaller_step = Quiz(
    "3.c",
    "You measure a slope near 1 by central differences of a loss near 1 with eps = 10⁻¹² in place of 10⁻⁵. What becomes of the error?",
    {
        "a": ("It shrinks by a factor of 10¹⁴, as eps² does.", "The part that comes from the bend of the curve does. The other part, from rounding, is already in charge at 10⁻⁵."),
        "b": ("It stays as it is: both are small enough.", "There is no small enough. Of the 16 digits of a loss, a nudge of 10⁻¹² changes the last four or so."),
        "c": ("It grows, to about 10⁻⁴.", "Yes: rounding leaves about 10⁻¹⁶ in each loss, and the division by 2 · 10⁻¹² makes about 10⁻⁴ of it."),
        "d": ("The result becomes exactly 0.", "That happens once eps is lost in x itself, near 10⁻¹⁶. At 10⁻¹² a few digits are left."),
    },
    right="c",
)  # fmt: skip

baseline_does = Quiz(
    "3.d",
    "Queries learn from sampled tries. What does a baseline, the same number taken from every loss, change?",
    {
        "a": ("The direction that the estimate has on average.", "Not on average: the mean of one-hot minus weights is 0, so a constant factor adds 0."),
        "b": ("How much the estimates scatter.", "Yes: were all losses near 50, every try would pull hard at its own score, good or bad. Around 0 the good ones pull one way and the bad ones the other."),
        "c": ("Nothing: it cancels in every single estimate.", "It cancels in the mean over all possible tries, and not in a handful of them."),
        "d": ("It keeps the losses positive, which the logarithm needs.", "The logarithm is that of the weight, log w_j. The losses enter as factors and may have any sign."),
    },
    right="b",
)  # fmt: skip

framework = Written(
    "3.w",
    "“The framework will see to it”",
    minutes=10,
    rubric=(
        "Says which arrays still get a gradient and which get exactly 0, and why; explains how the loss could fall all the same; names an experiment that shows it, and a way to train the choice with its price.",
        "Queries and keys get 0 and values do not, with the reason; one of the falling loss, the experiment or the way out is missing.",
        "One right statement, such as that argmax is flat, without what follows for which array; or says that nothing at all learns.",
        "Says that hard routing is bad or that soft is better, without a reason that concerns gradients.",
    ),
)
