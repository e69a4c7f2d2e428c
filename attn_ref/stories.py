"""Little stories in two languages whose pronoun has a known antecedent, for a small model to learn what it points at.

    today Tom gave Ben the book because he was generous . [ he Tom ]
    今天 小王 把 书 给了 小李 ， 因为 他 很 着急 。 [ 他 小王 ]

Derived in course/07_transformer. A cue decides whom the pronoun means: some words speak of the giver, some of the
receiver. In real text both readings may be possible; here a word always means the same one, which makes an answer right
or wrong. The note in brackets repeats the pronoun and names its antecedent; that name is what a model must predict.
Some pairs of names are held out: a model that answers for them has learned a rule and not a list.
"""

from dataclasses import dataclass

import numpy as np

from attn_ref.shapes import choice, whole_number

PAD = 0  # fills short rows of a batch


def _words(text):
    return text.split()


NAMES = {
    "en": _words("Tom Ben Sam Max Leo Jack Bob Dan Eric Fred Hugo Ivan Karl Luke Nick Paul"),
    "zh": _words("小王 小李 小张 小陈 小赵 小刘 小周 小吴 小孙 小马 小胡 小郭 小何 小高 小林 小罗"),
}
THINGS = {"en": _words("book letter map key lamp coat"), "zh": _words("书 信 地图 钥匙 灯 大衣")}
DAYS = {"en": _words("today yesterday"), "zh": _words("今天 昨天")}
CUES = {
    "en": {"giver": _words("generous hurried leaving done"), "receiver": _words("curious bored waiting asking")},
    "zh": {"giver": _words("大方 着急 忙 慷慨"), "receiver": _words("好奇 无聊 需要 想要")},
}
PRONOUN = {"en": "he", "zh": "他"}
ORDERS = {  # two ways to say the same
    "en": ("{giver} gave {receiver} the {thing}", "{giver} gave the {thing} to {receiver}"),
    "zh": ("{giver} 把 {thing} 给了 {receiver}", "{giver} 给了 {receiver} {thing}"),
}
FRAME = {
    "en": "{day} {gift} because he was {cue} . [ he {antecedent} ]",
    "zh": "{day} {gift} ， 因为 他 很 {cue} 。 [ 他 {antecedent} ]",
}


@dataclass(frozen=True)
class Story:
    """The tokens of a story with its note, and where in them to look."""

    language: str
    tokens: tuple[str, ...]
    candidates: tuple[int, int]  # positions of the giver and the receiver
    means_giver: bool

    @property
    def pronoun(self):
        """Where the note's pronoun stands: the token whose successor is the answer."""
        return len(self.tokens) - 3

    @property
    def first_pronoun(self):
        """Where the story's own pronoun stands, before the cue."""
        return self.tokens.index(PRONOUN[self.language])

    @property
    def antecedent(self):
        """The name that the pronoun stands for."""
        return self.tokens[-2]

    def __str__(self):
        return " ".join(self.tokens)


def tell(language, giver, receiver, thing, cue, order=0, day=0):
    """One story.

    >>> print(tell("zh", "小王", "小李", "书", "着急"))
    今天 小王 把 书 给了 小李 ， 因为 他 很 着急 。 [ 他 小王 ]
    """
    choice(language, "language", tuple(NAMES))
    for name, value, known in (
        ("giver", giver, NAMES[language]), ("receiver", receiver, NAMES[language]), ("thing", thing, THINGS[language]),
        ("cue", cue, CUES[language]["giver"] + CUES[language]["receiver"]),
    ):  # fmt: skip
        choice(value, name, tuple(known))
    if giver == receiver:
        raise ValueError(f"giver and receiver must be two people, got {giver} twice")
    means_giver = cue in CUES[language]["giver"]
    gift = ORDERS[language][order].format(giver=giver, receiver=receiver, thing=thing)
    text = FRAME[language].format(
        day=DAYS[language][day], gift=gift, cue=cue, antecedent=giver if means_giver else receiver
    )
    tokens = tuple(text.split())
    return Story(language, tokens, (tokens.index(giver), tokens.index(receiver)), means_giver)


def pairs(language, held_out=False):
    """Ordered pairs (giver, receiver): the four in five to train on, or the fifth that is held out.

    >>> len(pairs("en")), len(pairs("en", held_out=True))
    (192, 48)
    """
    names = NAMES[choice(language, "language", tuple(NAMES))]
    every = [(one, other) for one in names for other in names if one != other]
    first = every.index(("小王", "小李")) if language == "zh" else None
    order = np.random.default_rng(7).permutation(len(every))
    if first is not None:  # the sentence of the chapter is one that no model is trained on
        order = np.concatenate([[first], order[order != first]])
    held = set(order[: len(every) // 5].tolist())
    return [pair for i, pair in enumerate(every) if (i in held) == held_out]


def draw(n, rng, held_out=False):
    """n random stories, half of them in either language.  -> list of Story"""
    n, told = whole_number(n, "n", least=0), []
    known = {language: pairs(language, held_out) for language in NAMES}
    for i in range(n):
        language = ("en", "zh")[i % 2]
        giver, receiver = known[language][rng.integers(len(known[language]))]
        cues = CUES[language][("giver", "receiver")[rng.integers(2)]]
        told.append(
            tell(language, giver, receiver, THINGS[language][rng.integers(6)], cues[rng.integers(4)],
                 order=int(rng.integers(2)), day=int(rng.integers(2)))
        )  # fmt: skip
    return told


def _every_word():
    words = []
    for language in NAMES:
        words += NAMES[language] + THINGS[language] + DAYS[language]
        words += CUES[language]["giver"] + CUES[language]["receiver"]
        words += [word for order in ORDERS[language] for word in order.split() if "{" not in word]
        words += [word for word in FRAME[language].split() if "{" not in word]
    return list(dict.fromkeys(words))


VOCABULARY = ("<pad>", *_every_word())  # a token's id is its place here
IDS = {token: i for i, token in enumerate(VOCABULARY)}


def tokenize(text):
    """Text -> known tokens, the longest that fits each time, since Chinese leaves no space between words.

    >>> tokenize("昨天小王把地图给了小李")
    ['昨天', '小王', '把', '地图', '给了', '小李']
    """
    tokens, place = [], 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        fits = [word for word in VOCABULARY[1:] if text.startswith(word, place)]
        if not fits:
            raise ValueError(f"no known token begins at {text[place : place + 12]!r}; see stories.VOCABULARY")
        tokens.append(max(fits, key=len))
        place += len(tokens[-1])
    return tokens


def encode(stories):
    """Ids of stories (or of lists of tokens), short rows filled with PAD.  -> torch tensor (B, n) int64"""
    import torch

    rows = [[IDS[token] for token in getattr(story, "tokens", story)] for story in stories]
    ids = torch.full((len(rows), max(map(len, rows), default=0)), PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def answers_only(ids):
    """The same ids with all but each note's name filled with PAD, which a loss leaves out.  (B, n) -> (B, n)"""
    after = ids == IDS["]"]  # the name stands before it
    keep = after.roll(-1, 1)
    return ids.where(keep, PAD)
