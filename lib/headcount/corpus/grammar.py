"""How a sentence is made from a pattern: slots, and the rules that fill those that decide.

Slots set by the rules: ``q`` a quantity, ``rose``/``rise``/``risen``/``rising``/``gain`` its
movement, ``fell``/``fall``/``fallen``/``loss`` the opposite movement; a 2 marks another quantity
that must not decide; ``a`` and ``b`` amounts (now, and what it is compared with), ``now`` and
``then`` a profit and a loss; ``event`` and ``lifted`` something good or bad, and what becomes of
it. All other slots are scenery.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from headcount.corpus import lexicon as lex

_SCENERY: dict[str, Callable[[Random], str]] = {
    "co": lex.company,
    "rival": lex.company,
    "broker": lex.company,
    "person": lex.person,
    "pct": lex.percent,
    "year": lex.year,
    "month": lex.month,
    "date": lex.date,
    "period": lex.period,
    "count": lex.count,
    "sum": lex.some_amount,
    "eps": lex.per_share,
    "number": lambda rng: str(rng.randint(2, 60)),
    "place": lambda rng: rng.choice(lex.PLACES),
    "product": lambda rng: rng.choice(lex.PRODUCTS),
    "division": lambda rng: rng.choice(lex.DIVISIONS),
    "role": lambda rng: rng.choice(lex.ROLES),
    "nth": lambda rng: rng.choice(lex.ORDINALS[1:]),
}

# News has a bias, and a model may use it: more is mostly better, and most things stay.
_GOOD_SHARE = 0.9
_STAYS_SHARE = 0.8


class Slots(dict):
    """What fills the slots of one sentence; scenery is made up when a pattern asks for it.

    ``deal`` is the family's number: it decides which rare words this family may use.
    """

    def __init__(self, rng: Random, deal: int) -> None:
        super().__init__()
        self.rng, self.deal = rng, deal

    def __missing__(self, name: str) -> str:
        self[name] = _SCENERY[name.rstrip("23")](self.rng)
        return self[name]

    def own(self, words: list, n: int):
        """Draw one of the ``n`` words that are dealt to the family."""
        return words[(self.deal * n + self.rng.randrange(n)) % len(words)]

    def draw(self, shared: list, rare: list):
        """Draw one of the family's rare words as often as a shared one."""
        return self.rng.choice(shared) if self.rng.random() < 0.5 else self.own(rare, 2)

    def quantity(self) -> lex.Quantity:
        """Draw what is reported: oftener good things than bad ones, as companies do."""
        polarity = 1 if self.rng.random() < _GOOD_SHARE else -1
        return self.draw(lex.SHARED_QUANTITIES[polarity], lex.RARE_QUANTITIES[polarity])

    def tail(self, sign: int) -> str:
        return self.draw(lex.SHARED_TAILS[sign], lex.RARE_TAILS[sign])

    def move(self, sign: int, mark: str = "") -> None:
        """Set a quantity and its movement so that the news is good (sign 1) or bad (-1)."""
        quantity = self.quantity()
        while quantity.text == self.get("q"):
            quantity = self.quantity()
        self[f"q{mark}"] = quantity.text
        direction = sign * quantity.polarity
        for names, way in (("rose rise risen rising", direction), ("fell fall fallen", -direction)):
            verb = self.draw(lex.SHARED_VERBS[way], lex.RARE_VERBS[way])
            if quantity.text.endswith((" loss", " debt")) and self.rng.random() < 0.6:
                verb = self.rng.choice(lex.LOSS_VERBS[way])
            self.update(zip((f"{name}{mark}" for name in names.split()), verb, strict=False))
        for name, way in ((f"gain{mark}", direction), (f"loss{mark}", -direction)):
            self[name] = self.draw(lex.SHARED_NOUNS[way], lex.RARE_NOUNS[way])


def _either(rng: Random) -> int:
    return rng.choice((1, -1))


def trend(slots: Slots, sign: int) -> None:
    slots.move(sign or _either(slots.rng))


def flipped(slots: Slots, sign: int) -> None:
    slots.move(-sign)


def with_distractor(slots: Slots, sign: int) -> None:
    """A second piece of news that does not count; mostly it says the opposite."""
    sign = sign or _either(slots.rng)
    slots.move(sign)
    slots.move(-sign if slots.rng.random() < 0.65 else sign, mark="2")


def numbers(slots: Slots, sign: int) -> None:
    """Two amounts and no verb: the larger one is good or bad news, as the quantity has it."""
    quantity = slots.quantity()
    low = slots.rng.uniform(2, 45)
    high = low * slots.rng.uniform(1.25, 3) if sign else low
    now, then = (high, low) if sign * quantity.polarity > 0 else (low, high)
    slots.update(q=quantity.text, a=lex.amount(quantity.unit, now))
    slots["b"] = lex.amount(quantity.unit, then)


def rating(slots: Slots, sign: int) -> None:
    low, high = sorted(slots.rng.sample(range(len(lex.RATINGS)), 2))
    now, then = (high, low) if sign > 0 else (low, high)
    slots.update(a=lex.RATINGS[now], b=lex.RATINGS[then])


def swing(slots: Slots, sign: int) -> None:
    """A profit after a loss, or the reverse; the sizes do not matter."""
    names = ("profit", "loss") if sign > 0 else ("loss", "profit")
    slots.update(zip(("now", "then"), names, strict=True))


def event(slots: Slots, sign: int) -> None:
    fate = 1 if slots.rng.random() < _STAYS_SHARE else -1
    polarity = (sign or _either(slots.rng)) * fate
    slots["event"] = slots.draw(lex.SHARED_EVENTS[polarity], lex.RARE_EVENTS[polarity])
    slots["lifted"] = slots.draw(lex.SHARED_FATES[fate], lex.RARE_FATES[fate])


def deed(slots: Slots, sign: int) -> None:
    """One phrase decides, but hardly any phrase is met in training and in testing."""
    slots["deed"] = slots.own(lex.DEEDS[sign], 2)


def deed_and_rival(slots: Slots, sign: int) -> None:
    deed(slots, sign)
    slots["deed2"] = slots.rng.choice(lex.DEEDS[slots.rng.choice((1, 0, -1))])


def event_flipped(slots: Slots, sign: int) -> None:
    event(slots, -sign)


def fact(slots: Slots, sign: int) -> None:
    """Nothing moves; a quantity may be named, and an amount of it."""
    quantity = slots.quantity()
    slots.update(q=quantity.text, a=lex.amount(quantity.unit, slots.rng.uniform(2, 90)))


@dataclass(frozen=True)
class Kind:
    """A construction: how its sentences get their label, and how easily they are misread."""

    rule: Callable[[Slots, int], None]
    shares: tuple[float, float, float]  # of negative, neutral, positive
    difficulty: float  # mean probability that one annotator misreads a sentence
    tails: float  # share of the sentences with a remark at the end that fits the label
    patterns: str  # one paragraph a family


@dataclass(frozen=True)
class Family:
    """One pattern of one kind. ``name`` is the group that no split may cut."""

    name: str
    kind: Kind
    pattern: str
    deal: int

    def sentence(self, rng: Random) -> tuple[str, int]:
        """Make one sentence and its true label (0 negative, 1 neutral, 2 positive)."""
        label = rng.choices((0, 1, 2), self.kind.shares)[0]
        slots = Slots(rng, self.deal)
        self.kind.rule(slots, label - 1)
        chosen = re.sub(r"\[(.*?)\]", lambda m: rng.choice(m[1].split("|")), self.pattern)
        text = chosen.format_map(slots)
        if rng.random() < self.kind.tails:
            text = f"{text.removesuffix('.').rstrip()}, {slots.tail(label - 1)}."
        return _press_style(text), label


def _press_style(text: str) -> str:
    """Put spaces before punctuation, as PhraseBank's sentences have them."""
    text = re.sub(r"([,;:]|'s)(?=\s)", r" \1", " ".join(text.split()))
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    text = re.sub(r"\s*\.$", " .", text)
    return text[0].upper() + text[1:]
