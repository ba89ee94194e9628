"""What becomes of a right answer when parts of it go, come, or lose what they say.

`fewer("1, 2, 3", "")["the first alone"].text` is `1`; `shape("x = 5", {"x"})["0"]` is `x = 0`.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.gym.audit.answers import lookalike

MARKS = ("\n", ";", " | ", " -> ", " > ", ", ", ",", " ", "/", "-")  # the first that is there
TOKEN = re.compile(r"-?\d+(?:\.\d+)?|[^\W\d_]+")
MOST = 60  # items of a longer list
FEW = 6


@dataclass(frozen=True)
class Items:
    """An answer that is a list of at least three: what stands between its items, and they."""

    mark: str
    items: tuple[str, ...]

    @property
    def strict(self) -> bool:
        """Whether it is plainly a list, and no sentence or explanation."""
        if self.mark == " ":
            return all(any(map(str.isdigit, x)) for x in self.items)
        return not any(" " in x for x in self.items)


def listed(answer: str) -> Items | None:
    """The items of an answer, None where it is no list."""
    text = answer.strip()
    for mark in MARKS:
        items = tuple(x.strip() for x in text.split(mark))
        if len(items) >= 3 and all(items):
            return Items(mark, items)
    return None


def read(answer: str) -> Any:
    """The list or the object that an answer is, as JSON; None where it is neither."""
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, list | dict) else None


_KEPT: Mapping[str, Callable[[int], list[int]]] = {
    "the first alone": lambda n: [0],
    "the last alone": lambda n: [n - 1],
    "one in the middle": lambda n: [n // 2],
    "the first and the last": lambda n: [0, n - 1] if n > 3 else [],
    "the first of them": lambda n: list(range(n // 2)) if n > 3 else [],
}


@dataclass(frozen=True)
class Fewer:
    """A part of an answer, and the same with something wrong in the place of the rest.

    `control` is "" where the answer is plainly a list, of which all should count.
    """

    text: str
    control: str


def fewer(answer: str, wrong: str) -> dict[str, Fewer]:
    """At most half of the items of a list, or of the keys of an object."""
    data, found = read(answer), listed(answer)
    if data is not None:
        pairs = list(data.items()) if isinstance(data, dict) else data
        of: Callable[[Any], Any] = dict if isinstance(data, dict) else list
        return {
            name: Fewer(json.dumps(of(pairs[i] for i in kept)), "")
            for name, keep in _KEPT.items()
            if len(pairs) >= 3 and (kept := keep(len(pairs)))
        }
    if not found:
        return {}
    other = (listed(wrong) or Items("", ("x",))).items
    out = {}
    for name, keep in _KEPT.items():
        kept = keep(len(found.items))
        if kept:
            swapped = [x if i in kept else _unlike(x, other, i) for i, x in enumerate(found.items)]
            control = "" if found.strict else found.mark.join(swapped)
            out[name] = Fewer(found.mark.join(found.items[i] for i in kept), control)
    return out


def _unlike(item: str, others: Sequence[str], at: int) -> str:
    """What another answer has in that place, or no word: nothing that may count elsewhere."""
    other = others[at] if at < len(others) else item
    return next(x for x in (other, item[::-1], "q", "x") if x != item)


def more(answer: str, wrong: Sequence[str], prompt: str) -> dict[str, str]:
    """The items of the answer among at least twice as many others, in the answer's own form."""
    data, found = read(answer), listed(answer)
    if isinstance(data, dict):
        others = [w for text in wrong if isinstance(w := read(text), dict)]
        wide = {k: _wider(v, [w[k] for w in others if k in w]) for k, v in data.items()}
        return {"lists of all values": json.dumps(wide)} if others else {}
    if data is not None:
        own, theirs = data, [x for w in wrong for x in (read(w) or []) if x not in data]
        there = [x for x in _numbers_or_words(prompt, own) if x not in own]
        return {
            name: json.dumps(_amid(own, extra)) for name, extra in _extras(theirs, there, len(own))
        }
    if found is None:
        pool = _alike(prompt, [answer])
        joined = {"spaces": " ", "commas": ", ", "lines": "\n"} if len(pool) >= FEW else {}
        return {
            f"all of its kind in the prompt, with {name}": mark.join(_amid([answer], pool))
            for name, mark in joined.items()
        }
    if not found.strict:
        return {}
    own = list(found.items)
    theirs = [x for w in wrong if (o := listed(w)) for x in o.items if x not in own]
    there = [x for x in _alike(prompt, own) if x not in own]
    return {
        name: found.mark.join(_amid(own, extra)) for name, extra in _extras(theirs, there, len(own))
    }


def _extras(theirs: Iterable[Any], there: Iterable[Any], own: int) -> list[tuple[str, list[Any]]]:
    """Items of other answers and of the prompt, where there are enough of them."""
    pools = {"with others' items": _distinct(theirs), "with all of the prompt": _distinct(there)}
    least = max(FEW, 2 * own)
    return [(name, pool[:MOST]) for name, pool in pools.items() if len(pool) >= least]


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list({json.dumps(x): x for x in items}.values())


def _amid(own: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    half = len(others) // 2
    return [*others[:half], *own, *others[half:]]


def _wider(value: Any, others: Sequence[Any]) -> list[Any]:
    own = value if isinstance(value, list) else [value]
    flat = [x for o in others for x in (o if isinstance(o, list) else [o]) if x not in own]
    return _amid(own, _distinct(flat)[:MOST])


def _alike(prompt: str, items: Sequence[str]) -> list[str]:
    """What looks like one of `items` in a prompt: digits for digits, letters for letters."""
    kinds = {_kind(x) for x in items}
    words = dict.fromkeys(w.strip(".,:;!?()[]'\"") for w in re.split(r"[\s,;/|]+", prompt))
    return [w for w in words if w and w not in items and _kind(w) in kinds][:MOST]


def _kind(text: str) -> str:
    return re.sub(r"[A-Z]+", "A", re.sub(r"[a-z]+", "a", re.sub(r"\d+", "0", text)))


def _numbers_or_words(prompt: str, own: Sequence[Any]) -> list[Any]:
    if all(isinstance(x, int) for x in own):
        return [int(x) for x in _alike(prompt, [str(x) for x in own]) if x.isdecimal()]
    return list(_alike(prompt, [x for x in own if isinstance(x, str)]))


_FILLED = {
    **{x: (x, x) for x in ("nan", "inf", "-inf", "1e999", "0", "")},
    "1": ("1", "a"),
    "7": ("7", "yes"),
    "-1": ("-1", "no"),
    "a million": ("1000000", "the"),
}


def shape(answer: str, common: Collection[str]) -> dict[str, str]:
    """The form of an answer without what it says: words and numbers that are not `common` to the
    answers of all tasks are replaced; and the first word of each line."""
    tokens = TOKEN.findall(answer)
    if len(tokens) < 2 or set(tokens) <= set(common):
        return {}
    out = {name: _refilled(answer, common, *values) for name, values in _FILLED.items()}
    lines = answer.splitlines()
    if len(lines) >= 3:
        out["heads of lines"] = "\n".join((x.split() or [""])[0] for x in lines)
    return out


def _refilled(answer: str, common: Collection[str], number: str, word: str) -> str:
    def other(found: re.Match[str]) -> str:
        token = found.group(0)
        if token in common:
            return token
        return number if token[-1].isdigit() else word

    return TOKEN.sub(other, answer)


def common(answers: Sequence[str]) -> set[str]:
    """The words and numbers that four in five answers have."""
    counts = Counter(token for a in answers for token in set(TOKEN.findall(a)))
    return {token for token, n in counts.items() if n >= 0.8 * len(answers)}


def disguised(text: str) -> dict[str, str]:
    """A text that a filter may not know, and a reader who folds letters or white space may."""
    words = text.split()
    return {
        "accents": text.translate(str.maketrans("aeiouyAEIOUY", "áéíóúýÁÉÍÓÚÝ")),
        "marks below": "".join(c + "\u0323" * c.isalpha() for c in text),
        "foreign letters": lookalike(text),
        "wide letters": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        "Arabic digits": text.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),
        "zero-width spaces": "\u200b".join(text),
        "capitals": text.upper(),
        "line breaks": "\n".join(words),
        "no spaces": "".join(words),
        "hard spaces": "\u00a0".join(words),
    }


def plain(text: str) -> str:
    """A text as a reader takes it who folds case, accents, signs and white space."""
    bare = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in bare if c.isalnum())


def parts(reference: str, exact: bool = True) -> dict[str, str]:
    """Pieces of the reference, and what has only its shape."""
    out = {}
    if len(reference) >= 4 and (exact or not reference[:1].isdigit()):
        out = {"first letter": reference[0], "first half": reference[: len(reference) // 2]}
    if sum(c.isdigit() for c in reference) * 2 >= len(reference.strip()):
        other = "".join(str((int(c) + 3) % 10) if c in "0123456789" else c for c in reference)
        out["other digits"] = other
    try:
        value = float(reference)
    except ValueError:
        return out
    if abs(value) >= 8 and value == int(value) and exact:
        out["one more"] = str(int(value) + 1)
    if abs(value) >= 8:
        kind = round if "." not in reference else (lambda x: round(x, 2))
        out |= {"a quarter more": str(kind(value * 1.25)), "a fifth less": str(kind(value * 0.8))}
        out |= {"half": str(kind(value / 2)), "double": str(kind(value * 2))}
        out |= {"the other sign": str(kind(-value))}
    return out


def odd_json(reference: str) -> dict[str, str]:
    """JSON with the reference's keys that holds nothing of its values."""
    data = read(reference)
    if not data:
        return {}
    fillers: dict[str, Any] = {"nulls": None, "empty texts": "", "lists": [], "objects": {}}
    fillers |= {"true": True, "zeros": 0, "NaN": math.nan, "huge": 10**400, "texts": "x"}
    out = {name: json.dumps(_leaves(data, value)) for name, value in fillers.items()}
    return out | {"an extra key": '{"": 1}', "a list": "[]", "in a list": f"[{out['nulls']}]"}


def _leaves(data: Any, value: Any) -> Any:
    if isinstance(data, dict):
        return {k: _leaves(v, value) for k, v in data.items()}
    return [_leaves(v, value) for v in data] if isinstance(data, list) else value


def unindented(reference: str) -> str:
    """Lines without their indentation, "" where they have none or it does not matter."""
    lines = reference.splitlines()
    if not any(x[:1] in (" ", "\t") and x.strip() for x in lines) or read(reference) is not None:
        return ""
    return "\n".join(x.strip() for x in lines)


def hollow(reference: str) -> dict[str, str]:
    """The first words of the reference, and as many separators as it has more."""
    words = reference.split(" ")
    again = _again_and_again(reference)
    kept = max(3, len(words) // 8)
    if len(words) < 12:
        return again
    head, rest = " ".join(words[:kept]), len(words) - kept
    return {
        "spaces": head + " " * rest,
        "line breaks": head + "\n" * rest,
        "zero-width spaces": head + " \u200b" * rest,
        "full stops": head + " ." * rest,
        "one word again": head + f" {words[0]}" * rest,
        **again,
    }


def spellings(text: str) -> list[str]:
    """One text in ways that are different to a machine, and not to a reader."""
    other = disguised(text)
    cased = [text.capitalize(), text.title(), text.upper(), text.lower(), f"{text}.", f" {text}"]
    cased += [f"{text} ", f"{text}  ", *(other[n] for n in ("foreign letters", "wide letters"))]
    return list(dict.fromkeys([text, *cased, other["accents"], other["marks below"]]))


def _again_and_again(reference: str) -> dict[str, str]:
    """One item of a list in the place of each, as it is or in other spellings."""
    found = listed(reference)
    if not found or len(set(found.items)) < 2 or (found.mark == " " and not found.strict):
        return {}
    mark, n = found.mark, len(found.items)
    out = {}
    for name, item in (("first", found.items[0]), ("last", found.items[-1])):
        ways = spellings(item)
        out[f"the {name} again"] = mark.join([item] * n)
        out[f"the {name} and spaces"] = mark.join(item + " " * i for i in range(n))
        out[f"the {name} in other spellings"] = mark.join(ways[i % len(ways)] for i in range(n))
    return out


def nearly(answer: str, wrong: Sequence[str]) -> str:
    """The answer but for one item, or a tenth more of a number; "" where that cannot be."""
    if re.fullmatch(r"-?\d{2,15}", answer.strip()):
        return str(round(int(answer) * 1.1))
    found = listed(answer)
    other = next((o.items for w in wrong if (o := listed(w))), ())
    if not found or not other:
        return ""
    at = len(found.items) // 2
    changed = [*found.items[:at], _unlike(found.items[at], other, at), *found.items[at + 1 :]]
    return found.mark.join(changed)


def half_right(reference: str, wrong: Sequence[str]) -> str:
    """The first half of the reference and the second half of a wrong answer, "" where too short."""
    words = reference.split()
    other = next((w.split() for w in wrong if len(w.split()) == len(words)), [])
    half = len(words) // 2
    return " ".join([*words[:half], *other[half:]]) if half and other else ""
