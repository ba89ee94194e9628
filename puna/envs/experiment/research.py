"""A research task's own data: which functions are missing, and the workspace that an agent gets.

`Research(source, ("stats.py:mean",), gold).given` are the files without what they must not hold:
the bodies, copies of them, recorded results, and result numbers in texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from puna.envs.experiment import masking, numbers
from puna.envs.experiment.copies import twins
from puna.envs.experiment.masking import decoded
from puna.envs.experiment.numbers import Number, Numbers
from puna.envs.experiment.source import TEXTS, Source, read_source
from puna.sandbox import limited

SHOWN = 8_000  # characters of the repository's own text in a prompt
RECORD_DIGITS = 5  # a number of so many digits that is a result as well is a recorded result
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[,_]\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w|\.\d)")
_HIDDEN = "[result]"


@dataclass(frozen=True)
class Research:
    """Functions (`path:name`) whose bodies are missing, and the right numbers of the command.

    `read`: the files that the command reads, which stay as they are. `gold` serves to find result
    numbers in texts; what is judged by is measured again, on the machine that judges.
    """

    source: Source
    masked: tuple[str, ...]
    gold: Numbers = field(default_factory=dict, repr=False)
    read: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def paths(self) -> list[str]:
        """The files that hold a missing function."""
        return list(dict.fromkeys(name.partition(":")[0] for name in self.masked))

    def names_in(self, path: str) -> list[str]:
        """The missing functions of a file."""
        split = (name.partition(":") for name in self.masked)
        return [name for where, _, name in split if where == path]

    @cached_property
    def given(self) -> dict[str, bytes]:
        """The workspace. Raises ValueError where a body cannot be taken out."""
        hollowed: dict[str, list[str]] = {}
        for name in self.masked:
            for each in (name, *twins(self.source, name)):
                path, _, inner = each.partition(":")
                if inner not in hollowed.setdefault(path, []):
                    hollowed[path].append(inner)
        files = {}
        for path, data in self.source.files.items():
            if path in hollowed:
                text, encoding = decoded(data)
                files[path] = masking.masked(text, hollowed[path]).encode(encoding)
            elif path.endswith(".py") or path in self.read:
                files[path] = data
            elif _is_text(path):
                files[path] = redacted(data.decode(errors="replace"), self.gold).encode()
            elif path != self.source.results and not self._records(data):
                files[path] = data
        return files

    def _records(self, data: bytes) -> bool:
        """Whether a file holds a result to many digits: it is what an earlier run left."""
        text = data.decode(errors="replace")
        known = [g for g in _values(self.gold) if len(_digits(repr(g))) >= RECORD_DIGITS]
        if not known:
            return False
        return any(
            len(_digits(word)) >= RECORD_DIGITS
            and any(math.isclose(value, g, rel_tol=10.0 ** -(RECORD_DIGITS - 1)) for g in known)
            for word, value in _found(text)
        )

    @property
    def about(self) -> str:
        """What the repository says of itself, without its results; "" where it has no such text."""
        readable = [p for p in self.given if _is_text(p)]
        named = [p for p in readable if re.match(r"(?i)(readme|paper)\b", p.rpartition("/")[2])]
        best = min(named, key=lambda p: (p.count("/"), p), default="")
        return f"{best}:\n\n{self.given[best].decode()[:SHOWN]}" if best else ""

    def source_of(self, name: str) -> str:
        """A missing function as it was, from `def` on: the reference."""
        function = self.source.functions[name]
        path = name.partition(":")[0]
        return self.source.texts[path][function.span[0] : function.span[1]]

    def stub_of(self, name: str) -> str:
        """The same function as the workspace has it."""
        path, _, inner = name.partition(":")
        text = decoded(self.given[path])[0]
        function = masking.functions(text)[inner]
        return text[function.span[0] : function.span[1]]

    def to_json(self) -> dict[str, Any]:
        """What a file of tasks keeps."""
        return {
            "source": self.source.to_json(),
            "masked": list(self.masked),
            "gold": numbers.to_json(self.gold),
            "read": list(self.read),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], read: Mapping[Source, Source]) -> Research:
        """The inverse; `read` has the source with its files. Raises KeyError, TypeError."""
        gold: dict[str, Number] = {
            str(k): tuple(v) if isinstance(v, list) else float(v) for k, v in data["gold"].items()
        }
        source = read[Source(**data["source"])]
        return cls(source, tuple(data["masked"]), gold, tuple(data["read"]))


def _is_text(path: str) -> bool:
    return path.endswith(TEXTS) or path.rpartition("/")[2].isupper()


def redacted(text: str, gold: Numbers) -> str:
    """`text` with every number that may be a result replaced, as far as it has digits to tell.

    A number with a fraction, or of three digits and more, is one where it lies within the
    tolerance of a right number, or does so as a percentage.
    """
    known = [g for g in _values(gold) if math.isfinite(g) and g]

    def shown(match: re.Match[str]) -> str:
        word = match[0]
        value = _value(word)
        telling = "." in word or "e" in word.lower() or len(_digits(word)) >= 3
        near = any(
            numbers.loss(g, v) <= numbers.TOLERANCE for g in known for v in (value, value / 100)
        )
        return _HIDDEN if telling and near else word

    return _NUMBER.sub(shown, text)


def _values(gold: Numbers) -> Iterator[float]:
    for value in gold.values():
        yield from value if isinstance(value, tuple) else (value,)


def _found(text: str) -> Iterator[tuple[str, float]]:
    for match in _NUMBER.finditer(text):
        yield match[0], _value(match[0])


def _value(word: str) -> float:
    return float(word.replace(",", "").replace("_", ""))


def _digits(word: str) -> str:
    """The digits that tell: those of the mantissa from the first that is not 0."""
    return re.sub(r"\D", "", re.split("[eE]", word)[0]).lstrip("0")


def read_all(records: Sequence[Mapping[str, Any]], base: Any) -> list[Research]:
    """The tasks of records, each source read once.

    Raises UserError where a folder is missing or has changed; KeyError, TypeError or ValueError
    for a record that is none.
    """
    sources: dict[Source, Source] = {}
    for record in records:
        kept = Source(**record["source"])
        if kept not in sources:
            sources[kept] = read_source(kept, base)
    return [Research.from_json(record, sources) for record in records]


def with_bodies(research: Research, submitted: Mapping[str, bytes]) -> dict[str, bytes]:
    """The workspace with the bodies of `submitted` and nothing else of it.

    Raises ValueError (or LimitError, CallError) where they cannot be put into it.
    """
    files = dict(research.given)
    for path in research.paths:
        if path not in submitted:
            raise ValueError(f"{path} is gone")
        given, encoding = decoded(files[path])
        text = submitted[path].decode(encoding, errors="replace")
        names = research.names_in(path)
        files[path] = limited(masking.spliced, given, text, names, seconds=5.0).encode(encoding)
    return files
