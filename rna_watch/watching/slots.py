"""The parts of a path that may vary from checkpoint to checkpoint: numbers, decimals, dates, hashes, each with what names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache

from rna_watch.watching.steps import VERSION, ending

_HASH = (  # names a content or a run: a UUID, or hexadecimal digits, letters among them; `ba10000` is a step
    r"(?<![A-Za-z0-9])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?!(?:e|ba)?\d+(?![A-Za-z0-9]))(?=[a-f]*\d)[0-9a-f]{7,})(?![A-Za-z0-9])"
)
_FOLDER_ID = r"(?:^|(?<=-))(?=[a-z]*\d+[a-z]+\d+[a-z]|\d+[a-z]+\d+[a-z])[a-z0-9]{8}$"  # Weights & Biases
_DATE = (
    r"(?<!\d)20\d\d(?P<d>[-_.]?)(?:0[1-9]|1[0-2])(?P=d)(?:0[1-9]|[12]\d|3[01])"
    r"(?:(?:[T_ .-]?(?:[01]\d|2[0-3])(?:[0-5]\d){2}|[T_ .-](?:[01]\d|2[0-3])(?P<c>[-_:.h])[0-5]\d(?:(?P=c)[0-5]\d)?)(?:\.\d+)?"
    r"|T?(?:[01]\d|2[0-3])[0-5]\d)?(?!\d)"
    r"|^(?:[01]\d|2[0-3])(?P<t>[-_:.])[0-5]\d(?P=t)[0-5]\d$"
)
# a sign belongs to a number after `=` or `_`, or before decimals; an exponent needs a sign or decimals (`1e-3`, not `2e10`)
_NUMBER = (
    r"(?:(?<=[=_:(\[])[+-](?=\d)|(?<=[-])[+-](?=\d+\.\d))?"
    r"\d+(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]\d+)?(?:[kKM](?![A-Za-z0-9]))?"
)
_SLOT = re.compile(rf"(?P<hash>(?i:{_HASH}))|(?P<date>{_DATE})|(?P<number>{_NUMBER})")
_FOLDER_SLOT = re.compile(rf"(?P<hash>(?i:{_HASH})|{_FOLDER_ID})|(?P<date>{_DATE})|(?P<number>{_NUMBER})")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|[^\W\d_]+")
_THOUSANDS = {"k": 1000, "K": 1000, "M": 1_000_000}
_LONGEST_INT = 18  # digits
_SEPARATORS = "=_-.:@~ ([#"


class Kind(StrEnum):
    """What a slot looks like."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    DATE = "date"
    HASH = "hash"


class Rank(IntEnum):
    """How strongly a name says that a number is the step; those below zero never are."""

    RUN = -3  # fold_3
    METRIC = -2  # acc_93
    SETTING = -1  # lr1e-3
    IN_WORD = 0  # resnet18
    IN_FOLDER = 1  # stage_3/model.pt
    FOLDER = 2  # 020000/model.pt
    NAMED = 3  # foo_7.pt
    BARE = 4  # 7.pt
    COUNTED = 5  # model_7.pt
    COUNTED_TWICE = 6  # checkpoint_1_500.pt: fairseq's epoch and updates
    BATCH = 7  # inside an epoch
    EPOCH = 8
    STEP = 9


RUN_WORDS = "run runs version exp experiment trial trials seed seeds fold folds kfold cv job attempt"
PART_WORDS = "rank ranks worker workers shard shards replica member ensemble"  # of one run, but no steps either
_WORDS_OF = {
    Rank.STEP: """step steps iter iters iteration iterations it itr ba update updates gs globalstep timestep timesteps frames
        tokens samples examples kimg nimg""",
    Rank.EPOCH: "epoch epochs ep e epo",
    Rank.BATCH: "batch batches",
    Rank.COUNTED: """checkpoint checkpoints ckpt ckpts chkpt chkpts model models net nets weight weights snapshot snapshots
        state states save saves""",
    Rank.RUN: f"{RUN_WORDS} {PART_WORDS}",
    Rank.METRIC: """acc accuracy loss score metric f1 auc auroc map miou iou psnr ssim fid dice bleu wer cer ppl perplexity
        reward rew ret return nll mse mae rmse err error prec precision recall top elbo kl rouge""",
    Rank.SETTING: """lr wd bs size dim hidden layer layers head heads dropout width depth res resolution temp alpha beta gamma
        lambda warmup scale factor px bit bits gpu gpus node nodes of""",
}
_WORDS = {word: rank for rank, words in _WORDS_OF.items() for word in words.split()}
_UNITS = {word: rank for word, rank in _WORDS.items() if rank >= Rank.BATCH and word not in ("e", "it", "ba", "gs")}


@dataclass(frozen=True, slots=True)
class Slot:
    """One varying part: where it stands in the path, its text, what it looks like, its value and its rank."""

    start: int
    end: int
    text: str
    kind: Kind
    value: int
    rank: Rank
    in_folder: bool


@lru_cache(maxsize=4096)
def slots(path: str) -> tuple[Slot, ...]:
    """The slots of a path, in their order; the ending and Lightning's `-v1` hold none."""
    found: list[Slot] = []
    start = 0
    *folders, last = path.split("/")
    for part in folders:
        found += _of_part(part, start, folder=True)
        start += len(part) + 1
    found += _of_part(body(last), start, folder=False)
    return tuple(found)


def body(last: str) -> str:
    """The last part of a path without its ending and Lightning's `-v1`."""
    return VERSION.sub("", last.removesuffix(ending(last)))


def _of_part(part: str, offset: int, *, folder: bool) -> list[Slot]:
    found: list[Slot] = []
    matches = list((_FOLDER_SLOT if folder else _SLOT).finditer(part))
    for index, match in enumerate(matches):
        text = match.group()
        kind = _kind(match)
        before = part[matches[index - 1].end() if index else 0 : match.start()]
        after = part[match.end() : matches[index + 1].start() if index + 1 < len(matches) else len(part)]
        rank = _rank(before, after, folder=folder, alone=text == part, more=index + 1 < len(matches))
        if kind is Kind.DATE and rank >= Rank.EPOCH and text.isdecimal():
            kind = Kind.INTEGER  # step_20240131
        if kind is not Kind.INTEGER:
            rank = rank if rank in (Rank.METRIC, Rank.SETTING) else Rank.SETTING if folder else Rank.METRIC
        elif rank is Rank.BARE and found and found[-1].rank is Rank.COUNTED and before == "_":
            rank = Rank.COUNTED_TWICE
        value = _value(text) if kind is Kind.INTEGER else 0
        found.append(Slot(offset + match.start(), offset + match.end(), text, kind, value, rank, folder))
    return found


def _kind(match: re.Match[str]) -> Kind:
    if match.group("hash"):
        return Kind.HASH
    if match.group("date"):
        return Kind.DATE
    text = match.group()
    whole = text.isdecimal() or (text[-1] in _THOUSANDS)
    return Kind.INTEGER if whole and len(text) <= _LONGEST_INT else Kind.DECIMAL


def _value(text: str) -> int:
    factor = _THOUSANDS.get(text[-1], 1)
    return int(text) if factor == 1 else round(float(text[:-1]) * factor)


def _rank(before: str, after: str, *, folder: bool, alone: bool, more: bool) -> Rank:
    """The rank of a whole number by the words around it.

    Args:
        before: the text back to the slot before, or to the beginning.
        after: the text up to the next slot, or to the end.
        folder: whether the number stands in a folder's name.
        alone: whether it is the whole name.
        more: whether another slot follows, which the words after this one name.
    """
    words = [word.lower() for word in _WORD.findall(before)]
    said = before.rstrip(_SEPARATORS)
    if words and said.lower().endswith(words[-1]):
        for word in (words[-1], "".join(words[-2:])):
            if word in _WORDS:
                return _WORDS[word]
    unit = _WORD.match(after.lstrip(_SEPARATORS))
    if unit is not None and not more and unit.group().lower() in _UNITS:
        return _UNITS[unit.group().lower()]
    if before and said == before:
        return Rank.IN_WORD
    if folder:
        return Rank.FOLDER if alone else Rank.IN_FOLDER
    return Rank.NAMED if words else Rank.BARE
