"""Pictures say in words what they show, draw what they are given, and refuse what they cannot draw."""

import html
import re
import subprocess
import sys

import numpy as np
import pytest

from attn_ref import cost, plots
from attn_ref.masks import causal_mask, sliding_window_mask
from attn_ref.plots import style
from attn_ref.sentence import EMBEDDINGS, TOKENS
from attn_ref.softmax import softmax
from autograder.reports.safe_html import made_safe

SHARES = softmax(np.arange(6.0).reshape(2, 3))
WORDS = ("the", "cat", "sat")
NAN = float("nan")
PICTURES = {
    "weights": lambda: plots.weights(SHARES, WORDS[:2], WORDS),
    "weights of heads": lambda: plots.weights(np.stack([SHARES, SHARES]), allowed=causal_mask(2, 3)),
    "scores": lambda: plots.scores(np.array([[1.0, -np.inf]])),
    "mask": lambda: plots.mask(causal_mask(2, 5)),
    "masks": lambda: plots.masks({"causal": causal_mask(5, 7), "window 2": sliding_window_mask(30, 30, 2)}, "zoo"),
    "batches": lambda: plots.batches({"padded": [[0, 0, 0], [1, -1, -1]], "packed": [[0, 0, 0, 1]]}, "four tokens"),
    "matrix": lambda: plots.matrix(np.eye(2)),
    "matrices": lambda: plots.matrices({"q": np.eye(2), "k": np.ones((3, 2))}),
    "bars": lambda: plots.bars({"a": [0.1, 0.9], "b": [0.5, 0.5]}),
    "lines": lambda: plots.lines([1, 2], {"a": [3, 4], "b": [4, 3]}),
    "histogram": lambda: plots.histogram({"a": np.arange(9.0)}),
    "arrows": lambda: plots.arrows({"cat": (1, 0.5)}),
    "film": lambda: plots.film([plots.tile_walk(6, 6, 2, 3, causal=True, step=step) for step in (1, 2)]),
    "formula": lambda: plots.formula(EMBEDDINGS, TOKENS),
    "head_view": lambda: plots.head_view(np.stack([SHARES] * 5), WORDS[:2], WORDS, "heads", only=1),
    "head_lines": lambda: plots.head_lines(np.stack([SHARES] * 5), WORDS[:2], WORDS, "lines", head=1),
    "roofline": lambda: plots.roofline({"decode": 1.0, "prefill": (400, 3e14)}, 989e12, 3.35e12),
    "programs": lambda: plots.programs({"x": [0, 0, 1, -1], "out": [[0, -2], [1, 1]]}, "who"),
    "slots": lambda: plots.slots({"block 0": [("a", "a0"), ("a", "a1")], "block 1": [("b", "b0"), None]}, "a pool"),
    "tile_walk": lambda: plots.tile_walk(37, 53, 8, 16, causal=True, step=5),
    "time_and_memory": lambda: plots.time_and_memory(
        [512, 1000], {"ours": ([1, 4], [2, 3]), "naive": ([3, NAN], [8, NAN])}
    ),
    "touches": lambda: plots.touches({"out": np.eye(3) * 2, "total": np.array([[2, 1, 0], [2, 1, 0], [0, 1, 2]])}),
}
TOLD = {
    "weights": "Row cat is largest at sat (0.67)",
    "mask": "2 queries by 5 keys",
    "masks": "causal, 5 queries by 7 keys, allows 25 of 35 pairs; window 2, 30 queries by 30 keys, allows 59 of 900",
    "batches": "padded, 2 rows of 3 positions, holds 2 texts and 2 positions of padding; packed, 1 row of 4 positions",
    "bars": "a: 0 0.10, 1 0.90; b: 0 0.50",
    "lines": "a goes from 3 to 4; b goes from 4 to 3",
    "arrows": "cat at (1, 0.5)",
    "film": "The first of 2 pictures. Walk over 3 by 2 tiles",
    "head_view": "5 heads of 2 queries and 3 keys. Head 0: most looked at: cat → sat (0.67).",
    "head_lines": "5 heads of 2 queries and 3 keys. Head 1: the strongest link is the → sat (0.67).",
    "roofline": "peak 989 TFLOP/s, ridge at 295 FLOP/byte. decode: 1 FLOP/byte, ≤ 3.35 TFLOP/s, bound by memory; "
    "prefill: 400 FLOP/byte, 30% of the roof, bound by compute",
    "programs": "x, 4, program 0 has 2, program 1 has 1, 1 touched by nobody; out, 2 by 2, program 0 has 1, ",
    "slots": "Slots of memory “a pool”. block 0: a0, a1; block 1: b0, free",
    "tile_walk": "5 by 4 tiles of 8 queries and 16 keys: 9 computed whole, 5 masked inside, 6 skipped. "
    "Step 5 is at tile row 2, column 0.",
    "time_and_memory": "ours takes 4 ms and 3 MiB at 1000 tokens; naive takes 3 ms and 8 MiB at 512 tokens",
    "touches": "out: 3 iterations, 3 numbers, 0 of them raced for; total: 3 iterations, 3 numbers, 1 of them raced for",
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_alt_text_that_tells_its_numbers(name):
    picture = PICTURES[name]()
    alt = html.unescape(re.search(r'alt="([^"]*)"', picture._repr_html_())[1])
    assert alt == picture.alt and picture.alt in repr(picture)
    assert len(alt) > 30
    assert TOLD.get(name, "") in alt


def test_alt_text_says_nothing_of_hidden_cells():
    told = plots.scores([[0.5, 2.0], [0.1, 0.2]], allowed=causal_mask(2, 2)).alt
    assert "Row 0 is largest at 0 (0.50). Row 1 is largest at 1 (0.20)." in told


def test_every_public_function_is_drawn_here():
    assert {name.split()[0] for name in PICTURES} == set(plots.__all__) - {"Live", "Picture"}


def test_a_picture_can_be_saved(tmp_path):
    for name in ("a.png", "a.svg"):
        plots.mask(causal_mask(2, 3)).save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_the_same_call_gives_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        PICTURES["tile_walk"]().save(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_matplotlib_is_loaded_by_plots_alone():
    code = "import sys, attn_ref, attn_ref.cost; print('matplotlib' in sys.modules); attn_ref.plots; print('matplotlib' in sys.modules)"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == [
        "False",
        "True",
    ]


def test_no_input_is_written_to():
    array, allowed = np.array([[1.0, -np.inf], [2.0, NAN]]), causal_mask(2, 2)
    before = array.copy(), allowed.copy()
    plots.scores(array, allowed=allowed)
    plots.masks({"a": allowed})
    np.testing.assert_array_equal(array, before[0])
    np.testing.assert_array_equal(allowed, before[1])


def test_nan_is_drawn_and_told():
    picture = plots.weights(np.array([[0.5, 0.5], [NAN, 1.0]]))
    written = {text.get_position(): text for text in picture.figure.axes[0].texts}
    assert written[0, 1].get_text() == "nan" and written[0, 1].get_color() == "black"  # on the white of an empty cell
    assert "Row 0 is largest at 0 (0.50). Row 1 holds nan." in picture.alt


def test_tensors_are_drawn_like_arrays():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.tensor(SHARES, requires_grad=True)
    assert plots.weights(tensor).alt == plots.weights(SHARES).alt
    assert plots.head_view(torch.eye(3, dtype=torch.bfloat16)).alt == plots.head_view(np.eye(3)).alt
    assert plots.masks({"a": torch.ones(2, 3, dtype=torch.bool)}).alt == plots.masks({"a": np.ones((2, 3), bool)}).alt


def test_chinese_tokens_get_a_font_where_one_is_installed():
    assert style.families({"SimHei", "DejaVu Sans", "PingFang SC"}) == ["sans-serif", "PingFang SC"]
    assert style.families({"DejaVu Sans"}) == ["sans-serif"]


def patches(axes):
    return [patch for patch in axes.patches if patch.get_visible()]


class TestTileWalk:
    options = {"window": (9, 5)}
    states = cost.tile_map(37, 53, 8, 16, **options)

    def axes(self, **more):
        return plots.tile_walk(37, 53, 8, 16, **self.options, **more).figure.axes[0]

    def test_the_tiles_cover_the_scores_exactly(self):
        assert sum(tile.get_width() * tile.get_height() for tile in patches(self.axes())) == 37 * 53

    def test_a_tile_is_hatched_by_what_happens_in_it(self):
        tiles = patches(self.axes())
        drawn = np.reshape(
            [{"////": 0, "..": 1, None: 2, "": 2}[tile.get_hatch()] for tile in tiles], self.states.shape
        )
        np.testing.assert_array_equal(drawn, self.states)

    def test_numbers_count_the_visited_tiles_row_by_row(self):
        numbers = {(text.get_position()): int(text.get_text()) for text in self.axes().texts}
        in_reading_order = [numbers[place] for place in sorted(numbers, key=lambda place: (place[1], place[0]))]
        assert in_reading_order == list(range(1, cost.tiles_visited(37, 53, 8, 16, **self.options) + 1))

    def test_a_step_outlines_one_tile_and_empties_those_to_come(self):
        last = cost.tiles_visited(37, 53, 8, 16, **self.options)
        tiles = patches(self.axes(step=last - 2))
        outlined = [tile for tile in tiles if not tile.get_fill()]
        assert len(outlined) == 1
        empty = [tile for tile in tiles if tile.get_fill() and tile.get_facecolor()[:3] == (1, 1, 1)]
        assert len(empty) == 2


def test_a_line_of_the_head_view_is_as_thick_as_its_weight():
    weights = np.array([[0.75, 0.25, 0.0], [0.01, 0.0, 0.5]])
    lines = {(line.get_ydata()[0], line.get_ydata()[1]): line for line in plots.head_view(weights).figure.axes[0].lines}
    assert set(lines) == {(0, 0), (0, 1), (1, 2)}  # 0 and 0.01 are too faint
    assert lines[0, 0].get_linewidth() == 3 * lines[0, 1].get_linewidth()
    assert lines[0, 0].get_alpha() > lines[1, 2].get_alpha() > lines[0, 1].get_alpha()
    only = plots.head_view(weights, only=1).figure.axes[0].lines
    assert [tuple(line.get_ydata()) for line in only] == [(1, 2)]


def test_a_point_without_a_measurement_lies_on_the_roof():
    axes = plots.roofline({"decode": 2.0, "prefill": (100, 6e10)}, 90e9, 20e9).figure.axes[0]
    points = {line.get_label().split(":")[0]: line for line in axes.lines if ":" in str(line.get_label())}
    assert (points["decode"].get_xdata()[0], points["decode"].get_ydata()[0]) == (2.0, 40)  # GFLOP/s
    assert points["prefill"].get_ydata()[0] == 60


def test_a_length_that_was_not_measured_ends_the_line():
    figure = PICTURES["time_and_memory"]().figure
    for axes in figure.axes:
        naive = next(line for line in axes.lines if line.get_label() == "naive")
        assert np.isnan(naive.get_ydata()[-1]) and np.isfinite(naive.get_ydata()[0])
        assert [text.get_text() for text in axes.get_xticklabels()] == ["512", "1000"]


def test_a_film_shows_every_picture_where_no_script_runs():
    steps = [plots.tile_walk(6, 6, 2, 3, causal=True, step=step) for step in (1, 2, 3)]
    left = made_safe(plots.film(steps)._repr_html_())
    assert left.count("<img ") == 3 and "script" not in left
    assert html.escape(steps[2].alt, quote=True) in left


def test_series_differ_in_more_than_colour():
    figure = plots.lines(range(5), {str(i): np.arange(5.0) + i for i in range(7)}).figure
    looks = [(line.get_marker(), str(line.get_linestyle())) for line in figure.axes[0].lines]
    assert len(set(looks)) == 7
    bars = plots.bars({str(i): [1.0, 2.0] for i in range(4)}).figure.axes[0].containers
    assert len({bar.patches[0].get_hatch() for bar in bars}) == 4
    assert len(set(style.OKABE_ITO)) == 7


HEADS = np.ones((2, 3, 3)) / 3
MAPS = {
    "a batch": ((np.ones((2, 2, 2, 2)),), {}, "index the batch first"),
    "text": ((["ab"],), {}, "array must hold real numbers"),
    "complex": ((np.ones((2, 2)) * 1j,), {}, "array must hold real numbers"),
    "nothing": ((None,), {}, "array must be an array, got None"),
    "empty": ((np.ones((0, 3)),), {}, r"array is empty, shape \(0, 3\)"),
    "a label short": ((SHARES, ["the"]), {}, "queries must hold 2 labels, one for each, got 1"),
    "labels for the other axis": ((SHARES, WORDS), {}, "queries must hold 2 labels"),
    "a word for labels": ((SHARES, None, "cat"), {}, "keys must be a list of labels, got str 'cat'"),
    "a mask of another shape": ((SHARES,), {"allowed": np.ones((3, 2), bool)}, "does not broadcast to the map's"),
    "an additive mask": ((SHARES,), {"allowed": SHARES}, "allowed must be boolean.* pass it as bias"),
}
TABLE = {
    "text": ((["ab"],), {}, "array must hold real numbers"),
    "complex": ((np.ones((2, 2)) * 1j,), {}, "array must hold real numbers"),
    "nothing": ((None,), {}, "array must be an array, got None"),
    "empty": ((np.ones((0, 3)),), {}, "array is empty"),
    "three axes": ((np.ones((2, 2, 2)),), {}, r"array needs a shape \(n, m\)"),
    "a row short": ((SHARES, ["the"]), {}, "rows must hold 2 labels"),
    "a column too many": ((SHARES, None, range(4)), {}, "columns must hold 3 labels"),
    "a word for labels": ((SHARES, "ab"), {}, "rows must be a list of labels"),
}
OF_ARRAYS = {
    "a bare array": ((np.ones((2, 2)),), {}, "must be a dictionary such as"),
    "a list": (([np.ones((2, 2))],), {}, "must be a dictionary such as"),
    "nothing": ((None,), {}, "must be a dictionary such as"),
    "no entry": (({},), {}, "is empty; it must be a dictionary"),
    "text": (({"a": "ab"},), {}, "a must "),
    "an object": (({"a": None},), {}, "a must "),
    "an empty one": (({"a": np.ones((0, 3), bool)},), {}, "a is empty"),
    "complex": (({"a": np.ones((2, 2)) * 1j},), {}, "a must "),
    "one axis too many": (({"a": np.ones((2, 2, 2), bool)},), {}, r"'?a'? (must be|needs a shape) \(n"),
}
WRONG = {
    "weights": MAPS,
    "scores": MAPS,
    "mask": {
        "an additive mask": ((SHARES,), {}, "allowed must be boolean.* pass it as bias"),
        "text": ((["ab"],), {}, "allowed must be boolean"),
        "nothing": ((None,), {}, "allowed must be boolean"),
        "counts": (([[0, 2]],), {}, "allowed must be boolean"),
        "empty": ((np.ones((3, 0), bool),), {}, "allowed is empty"),
        "a batch": ((np.ones((2, 2, 2, 2), bool),), {}, "index the batch first"),
        "a label short": ((causal_mask(2, 3), ["the"]), {}, "queries must hold 2 labels"),
        "a key's label too many": ((causal_mask(2, 3), None, range(4)), {}, "keys must hold 3 labels"),
    },
    "masks": OF_ARRAYS,
    "batches": {
        "a bare array": (([[0, 1]],), {}, "named_batches must be a dictionary such as"),
        "nothing": ((None,), {}, "must be a dictionary such as"),
        "no entry": (({},), {}, "is empty; it must be a dictionary"),
        "text": (({"a": ["ab"]},), {}, "a must hold whole numbers"),
        "halves": (({"a": [[0.5]]},), {}, "a must hold whole numbers"),
        "a mask": (({"a": np.ones((2, 2), bool)},), {}, "a must hold whole numbers"),
        "one row without its axis": (({"a": [0, 0, 1]},), {}, r"a must have 2 axes, got shape \(3,\)"),
        "rows of unequal length": (({"a": [[0], [1, 1]]},), {}, "its rows differ in length"),
        "an empty one": (({"a": np.ones((0, 3), int)},), {}, "a is empty"),
    },
    "matrix": TABLE,
    "matrices": OF_ARRAYS,
    "bars": {
        "text": (("ab",), {}, "heights must hold real numbers"),
        "nothing": ((None,), {}, "heights must be an array, got None"),
        "no bar": (([],), {}, "heights is empty"),
        "no series": (({},), {}, "heights is empty"),
        "a table": ((SHARES,), {}, r"heights needs a shape \(n,\), got \(2, 3\)"),
        "unequal series": (({"a": [1, 2], "b": [1]},), {}, "b holds 1 numbers but bars has 2"),
        "a label short": (([1, 2], ["a"]), {}, "labels must hold 2 labels"),
        "a word for labels": (([1, 2], "ab"), {}, "labels must be a list of labels"),
        "a limit of nothing": (([1, 2],), {"limit": 0}, "limit must be greater than 0"),
        "a limit in words": (([1, 2],), {"limit": "high"}, "limit must be a number"),
    },
    "lines": {
        "x in words": ((["a"], {"a": [1]}), {}, "x must hold real numbers"),
        "x as a table": ((SHARES, {"a": [1]}), {}, r"x needs a shape \(n,\)"),
        "no x": (([], {"a": []}), {}, "x is empty"),
        "a bare line": (([1, 2], [3, 4]), {}, "series must be a dictionary"),
        "no line": (([1, 2], {}), {}, "series is empty"),
        "a short line": (([1, 2], {"a": [3]}), {}, "a holds 1 numbers but x has 2"),
        "a line in words": (([1], {"a": ["b"]}), {}, "a must hold real numbers"),
        "a table for a line": (([1, 2], {"a": SHARES}), {}, r"a needs a shape \(n,\)"),
    },
    "histogram": {
        "a bare array": ((SHARES,), {}, "series must be a dictionary"),
        "nothing": ((None,), {}, "series must be a dictionary"),
        "no series": (({},), {}, "series is empty"),
        "text": (({"a": "b"},), {}, "a must hold real numbers"),
        "no numbers": (({"a": []},), {}, "a is empty"),
        "inf": (({"a": [1, np.inf]},), {}, "a must be finite to be sorted into bins"),
        "no bins": (({"a": [1, 2]},), {"bins": 0}, "bins must be at least 1"),
        "half a bin": (({"a": [1, 2]},), {"bins": 2.5}, "bins must be a whole number"),
    },
    "arrows": {
        "bare points": (([(1, 2)],), {}, "points must be a dictionary"),
        "nothing": ((None,), {}, "points must be a dictionary"),
        "no point": (({},), {}, "points is empty"),
        "in space": (({"a": (1, 2, 3)},), {}, r"a must be two finite numbers, x and y, got \[1.0, 2.0, 3.0\]"),
        "on a line": (({"a": 1},), {}, r"a needs a shape \(2,\)"),
        "at infinity": (({"a": (1, np.inf)},), {}, "a must be two finite numbers"),
        "text": (({"a": "b"},), {}, "a must hold real numbers"),
        "stress on another": (({"a": (1, 2)},), {"shown": ["b"]}, r"shown must name some of \['a'\], got \['b'\]"),
    },
    "formula": {
        "text": (("ab", TOKENS), {}, "x must hold real numbers"),
        "nothing": ((None, TOKENS), {}, "x must be an array, got None"),
        "a vector": ((np.ones(3), WORDS), {}, r"x needs a shape \(n, d\)"),
        "a batch": ((np.ones((1, 3, 3)), WORDS), {}, r"x needs a shape \(n, d\)"),
        "empty": ((np.ones((0, 3)), ()), {}, "x is empty"),
        "a token short": ((np.ones((4, 3)), WORDS), {}, "tokens must hold 4 labels"),
        "a sentence": ((np.ones((3, 3)), "a b"), {}, "tokens must be a list of labels"),
        "a number of tokens": ((np.ones((3, 3)), 3), {}, "tokens must be a list of labels"),
    },
    "head_view": {
        "a batch": ((np.ones((1, 2, 3, 3)),), {}, r"weights needs a shape \(n_q, n_k\) or"),
        "text": ((["ab"],), {}, "weights must hold real numbers"),
        "empty": ((np.ones((0, 2, 2)),), {}, "weights is empty"),
        "scores": ((SHARES * 9,), {}, r"weights must lie in 0\.\.1, got .* are these scores"),
        "NaN": ((SHARES * NAN,), {}, r"weights must lie in 0\.\.1"),
        "a query short": ((SHARES, ["the"]), {}, "queries must hold 2 labels"),
        "a word for keys": ((SHARES, None, "cat"), {}, "keys must be a list of labels"),
        "a query beyond": ((SHARES,), {"only": 2}, r"only must be one of the queries 0\.\.1, got 2"),
        "a query by name": ((SHARES,), {"only": "cat"}, "only must be a whole number"),
    },
    "head_lines": {
        "one map": ((HEADS[0], WORDS), {}, r"weights needs a shape .*one head is weights\[None\].* got \(3, 3\)"),
        "a batch": ((HEADS[None, None], WORDS), {}, "a batch is indexed first"),
        "text": ((["ab"], WORDS), {}, "weights must hold real numbers"),
        "nothing": ((None, WORDS), {}, "weights must be an array, got None"),
        "empty": ((np.ones((0, 3, 3)), WORDS), {}, "weights is empty"),
        "scores": ((HEADS * 9, WORDS), {}, r"weights must lie in 0\.\.1, got 3\.\.3; are these scores"),
        "below nothing": ((-HEADS, WORDS), {}, r"weights must lie in 0\.\.1"),
        "NaN": ((HEADS * NAN, WORDS), {}, r"weights must lie in 0\.\.1"),
        "a query short": ((HEADS, WORDS[:2]), {}, "queries must hold 3 labels, one for each, got 2"),
        "a key too many": ((HEADS, WORDS, TOKENS), {}, "keys must hold 3 labels, one for each, got 6"),
        "a sentence": ((HEADS, "the cat sat"), {}, "queries must be a list of labels"),
        "no keys": ((HEADS[:, :2], WORDS[:2]), {}, "keys must be given, for weights has 3 keys but 2 queries"),
        "a head beyond": ((HEADS, WORDS), {"head": 2}, r"head must be one of 0\.\.1, for weights has 2 of them, got 2"),
        "a layer beyond": ((HEADS, WORDS), {"layer": 1}, r"layer must be one of 0\.\.0"),
        "the last head": ((HEADS, WORDS), {"head": -1}, "head must be at least 0, got -1"),
        "half a layer": ((HEADS, WORDS), {"layer": 0.5}, "layer must be a whole number"),
    },
    "roofline": {
        "bare points": (([1.0], 1e12, 1e11), {}, "points must be a dictionary"),
        "no points": (({}, 1e12, 1e11), {}, "points is empty"),
        "no intensity": (({"a": 0}, 1e12, 1e11), {}, "point 'a' must be greater than 0"),
        "an intensity in words": (({"a": "high"}, 1e12, 1e11), {}, "point 'a' must hold real numbers"),
        "three numbers": (({"a": (1, 2, 3)}, 1e12, 1e11), {}, "point 'a' must be intensity or .*got 3 numbers"),
        "endless speed": (({"a": (1, np.inf)}, 1e12, 1e11), {}, "point 'a' must be finite"),
        "no peak": (({"a": 1}, 0, 1e11), {}, "peak_flops_per_s must be greater than 0"),
        "a bandwidth in words": (({"a": 1}, 1e12, "3 TB/s"), {}, "bytes_per_s must be a number"),
    },
    "programs": {
        "a bare map": (([0, 1],), {}, "named_maps must be a dictionary such as"),
        "nothing": (({},), {}, "named_maps is empty"),
        "fractions": (({"x": [0.5]},), {}, "x must hold whole numbers, got dtype float64"),
        "truth values": (({"x": [True]},), {}, "x must hold whole numbers, got dtype bool"),
        "text": (({"x": "01"},), {}, "x must"),
        "nothing at all": (({"x": None},), {}, "x must"),
        "three axes": (({"x": np.zeros((2, 2, 2), int)},), {}, "x needs a shape .* got .2, 2, 2."),
        "an empty map": (({"x": np.zeros((0, 2), int)},), {}, "x needs a shape"),
    },
    "slots": {
        "bare rows": (([[None]],), {}, "rows must be a dictionary"),
        "nothing": ((None,), {}, "rows must be a dictionary"),
        "no row": (({},), {}, "rows is empty"),
        "a row without slots": (({"a": []},), {}, "row 'a' must be a list of slots, not empty"),
        "a row in words": (({"a": "a0 a1"},), {}, "row 'a' must be a list of slots.* got str"),
        "a row of nothing": (({"a": None},), {}, "row 'a' must be a list of slots.* got NoneType"),
        "a bare number": (({"a": [None, 3]},), {}, r"row 'a' must be None or a pair \(owner, text\), got 3"),
        "a bare text": (({"a": ["a0"]},), {}, r"must be None or a pair \(owner, text\), got 'a0'"),
        "three things": (({"a": [("a", 0, 1)]},), {}, r"must be None or a pair \(owner, text\)"),
    },
    "film": {
        "nothing": ((None,), {}, "pictures must be a list such as .* got NoneType"),
        "one picture": ((plots.matrix(np.eye(2)),), {}, "pictures must be a list .* got Picture"),
        "by name": (({"a": plots.matrix(np.eye(2))},), {}, "pictures must be a list .* got dict"),
        "text": (("ab",), {}, "pictures must be a list .* got str"),
        "no picture": (([],), {}, "pictures is empty"),
        "an array": (([np.eye(2)],), {}, r"pictures\[0\] must be a Picture .* got ndarray"),
        "a gap": (([plots.matrix(np.eye(2)), None],), {}, r"pictures\[1\] must be a Picture .* got NoneType"),
        "a film": (([plots.film([plots.matrix(np.eye(2))])],), {}, r"pictures\[0\] must be a Picture .* got Film"),
    },
    "tile_walk": {
        "less than no query": ((-1, 8, 4, 4), {}, "n_q must be at least 0"),
        "no key": ((8, 0, 4, 4), {}, "nothing to draw: n_q=8 and n_k=0"),
        "tiles of nothing": ((8, 8, 0, 4), {}, "tile_q must be at least 1"),
        "half a tile": ((8, 8, 4, 2.5), {}, "tile_k must be a whole number"),
        "causal by number": ((8, 8, 4, 4), {"causal": 1}, "causal must be True or False"),
        "a window of nothing": ((8, 8, 4, 4), {"window": 0}, "window must be at least 1"),
        "an offset by halves": ((8, 8, 4, 4), {"q_offset": 0.5}, "q_offset must be a whole number"),
        "a step too far": ((8, 8, 4, 4), {"causal": True, "step": 4}, r"step must be 1\.\.3, the tiles visited, got 4"),
        "a step before the first": ((8, 8, 4, 4), {"step": 0}, r"step must be 1\.\.4"),
    },
    "time_and_memory": {
        "lengths in words": ((["a"], {"a": ([1], [1])}), {}, "lengths must hold real numbers"),
        "no lengths": (([], {"a": ([], [])}), {}, "lengths is empty"),
        "a bare pair": (([1], ([1], [1])), {}, "series must be a dictionary"),
        "no series": (([1], {}), {}, "series is empty"),
        "time alone": (([1], {"a": [1]}), {}, "'a' must be a pair"),
        "time in words": (([1], {"a": (["b"], [1])}), {}, r"a's time \(ms\) must hold real numbers"),
        "memory short": (([1, 2], {"a": ([1, 2], [1])}), {}, r"a's extra memory \(MiB\) holds 1 numbers"),
        "no memory at all": (([1], {"a": ([1], [0])}), {}, "must be above 0, for the axes are logarithmic"),
        "a length of nothing": (([0], {"a": ([1], [1])}), {}, "must be above 0"),
    },
    "touches": {
        "a bare table": ((np.eye(2),), {}, "tables must be a dictionary"),
        "nothing": ((None,), {}, "tables must be a dictionary"),
        "no table": (({},), {}, "tables is empty"),
        "a row": (({"out": [0, 1, 2]},), {}, r"out needs a shape \(iterations, numbers\), got \(3,\)"),
        "an empty table": (({"out": np.zeros((0, 3))},), {}, "out is empty"),
        "text": (({"out": [["r", "w"]]},), {}, "out must hold real numbers"),
        "other numbers": (({"out": [[0, 3]]},), {}, "out must hold 0 .nothing., 1 .reads. and 2 .writes. alone"),
        "a name short": (({"out": np.eye(2)},), {"iterations": ["a"]}, "iterations must hold 2 labels"),
    },
}
CASES = [(name, kind) for name, table in WRONG.items() for kind in table]


@pytest.mark.parametrize("name, kind", CASES, ids=[f"{name}-{kind}" for name, kind in CASES])
def test_an_error_names_the_argument_and_the_cause(name, kind):
    arguments, options, message = WRONG[name][kind]
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(plots, name)(*arguments, **options)


def test_every_public_function_has_eight_wrong_calls():
    assert set(WRONG) == set(plots.__all__) - {"Live", "Picture"}
    assert {name: len(table) for name, table in WRONG.items() if len(table) < 8} == {}


@pytest.mark.parametrize(
    ("array", "lowest"),
    [(np.eye(3), 0), (np.eye(3) - 0.5, -0.5), (np.where(np.eye(3, dtype=bool), 2.0, -np.inf), 0)],
    ids=["nothing below 0", "numbers below 0", "only -inf below 0"],
)
def test_a_colour_bar_shows_the_half_in_use(monkeypatch, array, lowest):
    monkeypatch.setattr("attn_ref.plots.maps.Picture", lambda figure, alt: figure)
    assert plots.scores(array).axes[-1].get_ylim()[0] == lowest


@pytest.mark.parametrize(("x", "whole"), [(range(5), True), ([0, 0.5, 1, 1.5, 2], False)])
def test_whole_numbers_get_whole_ticks(monkeypatch, x, whole):
    monkeypatch.setattr("attn_ref.plots.charts.Picture", lambda figure, alt: figure)
    ticks = plots.lines(x, {"a": np.arange(5.0)}).axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks) == whole
