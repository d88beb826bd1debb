"""What lies in a run directory, by names alone: sequences of checkpoints, the trainer that names so, one run or several.

Two folders are two runs if they hold checkpoints of the same naming pattern and differ in what tells runs apart: a
number, a date, an id (`version_0`, `version_1`). Folders whose names are different words (`best`, `last`) are one run,
unless their models differ and no role explains it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.journal.command_line import command
from rna_watch.journal.quantities import printable
from rna_watch.watching import steps
from rna_watch.watching.reading import Reading
from rna_watch.watching.slots import RUN_WORDS, Kind, slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_VERSION = re.compile(r"-v\d+(?=\.[A-Za-z]|$)")  # Lightning's, for a name that was taken
# a folder for a step: `step-100`, `epoch_3`, `checkpoint-500`; not `lr1e-3`, `batch64` or `lr0.1_epochs100`
_STEP_FOLDER = re.compile(
    r"(?:(?:^|[^A-Za-z0-9.])(?:global[_-]?step|step|iter(?:ation)?|epoch|ep|update|checkpoint|ckpt|chkpt|snapshot)"
    r"|^(?:steps|iters|epochs))[=_\-.]?\d",
    re.IGNORECASE,
)
_RUN = re.compile(  # Ultralytics calls a run `train`
    rf"^(?:.*[^A-Za-z])?(?:{'|'.join(RUN_WORDS.split())}|train)(?:[=_\-.]?\d+(?![A-Za-z0-9]).*)?$", re.IGNORECASE
)
# folders of one run, named after the model that they hold or after a part of one
_ROLE = re.compile(
    r"^(?:best|last|latest|final|top|ema|swa|raw|avg|averaged?|main|g|d|gen|disc|generator|discriminator|actor|critic|policy"
    r"|value|encoder|decoder|teacher|student|target|online|(?:.*_)?(?:rank|shard|node|worker|gpu|part)[=_\-.]?\d+)$",
    re.IGNORECASE,
)
# trainer; pattern of its paths; what the number counts, if the name does not say; names that must lie in the same folder
_TRAINERS = (
    ("Lightning", r"(^|/)lightning_logs/.*\.ckpt$|(^|[/-])epoch=\*[^/]*\.ckpt$|(^|[/-])step=\*\.ckpt$", "", ()),
    ("the Hugging Face Trainer", r"(^|/)checkpoint-\*$", "step", ()),
    ("Accelerate", r"(^|/)checkpoint_\*(/|$)", "", ()),
    ("timm", r"(^|/)checkpoint-\*\.pth\.tar$", "epoch", ()),
    ("torchvision's references", r"(^|/)model_\*\.pth$", "epoch", ("checkpoint.pth",)),
    ("Ultralytics", r"(^|/)weights/(epoch\*|last|best)\.pt$", "", ("last.pt", "best.pt")),
    ("Composer", r"(^|/)ep\*-ba\*(-rank\*)?(\.pt)?$", "", ()),
    ("torchtitan", r"(^|/)checkpoint/step-\*(/|$)", "", ()),
    ("Megatron", r"(^|/)iter_\*(/|$)", "", ()),
    ("DeepSpeed", r"(^|/)global_step\*(/|$)", "", ()),
    ("nanoGPT", r"(^|/)ckpt\.pt$", "", ()),
)
_SEQUENCE = 2
_BLOT = "\0"  # no name holds it
MOST_BESIDE = 3  # so many of several runs, groups or links are named


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedNames:
    """The checkpoints of a series, in one folder or in a folder for each step.

    `folder` is relative to the run directory ("" is that itself). `pattern` is relative to `folder`, with `*` for what
    varies; in `series` every number is replaced, those that all names share too. `kind` is step, epoch or number, and
    `first` and `last` are its values, `values` how many there are; they are "", None and 0 where the names tell none.
    `told` says what tells the step. `newest` is the name last changed, at `changed_ns`.
    """

    folder: str
    pattern: str
    series: str
    trainer: str
    count: int
    kind: str
    first: int | None
    last: int | None
    values: int
    told: str
    newest: str
    changed_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One of several runs: its folder below the run directory, and what lies in it."""

    folder: str
    groups: tuple[NumberedNames, ...]

    @property
    def changed_ns(self) -> int:
        """When one of its checkpoints last changed."""
        return max(group.changed_ns for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """All groups, the longest sequence first; the runs to choose from if there are several, else none."""

    groups: tuple[NumberedNames, ...]
    runs: tuple[Run, ...]


def discover(
    names: Mapping[str, int], architectures: Mapping[str, str] | None = None, reading: Reading | None = None
) -> Discovery:
    """The sequences and runs that these names form.

    Args:
        names: paths of checkpoints relative to the run directory, and when each last changed (ns).
        architectures: what tells the models of a folder from others, by folder, as far as known.
        reading: how these names are read, if not by themselves.
    """
    groups = _groups(names, reading or Reading(names))
    roots = _forks(groups) or _different(groups, architectures or {})
    if roots:  # any other sequence may be meant too
        others = {group.folder for group in unexplained(groups)}
        roots |= {each for each in others if not any(_inside(each, root) or _below(root, each) for root in roots)}
    runs = tuple(
        Run(folder=root, groups=tuple(group for group in groups if _inside(group.folder, root)))
        for root in sorted(roots, key=steps.natural_key)
    )
    return Discovery(groups=groups, runs=runs)


def unexplained(groups: Iterable[NumberedNames]) -> list[NumberedNames]:
    """Sequences in different folders, the longest of each, that are one run only if their models are of one kind."""
    first: dict[str, NumberedNames] = {}
    for group in groups:
        if is_sequence(group):
            first.setdefault(group.folder, group)
    outer = [group for folder, group in first.items() if not any(_below(folder, other) for other in first)]
    return [group for group in outer if not any(is_role(part) for part in group.folder.split("/"))]


def is_sequence(group: NumberedNames) -> bool:
    """Whether checkpoints of several steps lie there."""
    return group.first is not None and group.count >= _SEQUENCE


def is_role(part: str) -> bool:
    """Whether a folder is named after a part of a run, or after which of its models it holds."""
    return bool(_ROLE.match(part))


def _groups(names: Mapping[str, int], reading: Reading) -> tuple[NumberedNames, ...]:
    members: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: (steps.natural_key(name), name)):
        folder, rest = _split(name, reading)
        series = reading.of(name).series.replace("-v#", "")
        members[folder, _NUMBER.sub(_BLOT, _VERSION.sub("", rest)), series].append(name)
    beside: dict[str, set[str]] = defaultdict(set)
    for folder, blotted, _ in members:
        beside[folder].add(blotted)
    found = []
    for (folder, blotted, _), same in members.items():
        trainer, unit = _trainer(f"{folder}/{blotted}".lstrip("/").replace(_BLOT, "*"), beside[folder])
        told = reading.of(same[0])
        values = {step for name in same if (step := reading.of(name).step) is not None}
        newest = max(same, key=lambda name: (names[name], steps.natural_key(name)))
        found.append(
            NumberedNames(
                folder=folder,
                pattern=_varying([_VERSION.sub("", _below_folder(name, folder)) for name in same]),
                series=blotted,
                trainer=trainer,
                count=len(same),
                kind="" if not values else unit if told.kind == "number" and unit else told.kind,
                first=min(values, default=None),
                last=max(values, default=None),
                values=len(values),
                told=told.told,
                newest=newest,
                changed_ns=names[newest],
            )
        )
    found.sort(key=lambda each: (each.first is None, -each.count, steps.natural_key(f"{each.folder}/{each.pattern}")))
    return tuple(found)


def _split(name: str, reading: Reading) -> tuple[str, str]:
    """A path as the folder of its sequence and the rest; a folder for a step is part of a checkpoint's name."""
    *folders, _ = name.split("/")
    cut = next((index for index, part in enumerate(folders) if _STEP_FOLDER.search(part)), len(folders))
    if cut == len(folders) and reading.step_in_folder(name):
        counted = [index for index, part in enumerate(folders) if _NUMBER.search(part) and not names_a_run(part)]
        cut = counted[-1] if counted else cut
    rest = name.split("/")[cut:]
    return "/".join(folders[:cut]), "/".join(rest)


def _below_folder(name: str, folder: str) -> str:
    return name[len(folder) + 1 :] if folder else name


def _varying(names: list[str]) -> str:
    """Their pattern; numbers that all of them share are kept (`resnet18_e*.pt`)."""
    numbers = list(zip(*(_NUMBER.findall(name) for name in names), strict=True))
    shown = iter("*" if len(set(column)) > 1 else column[0] for column in numbers)
    return _NUMBER.sub(lambda _: next(shown), names[0])


def _trainer(path: str, beside: set[str]) -> tuple[str, str]:
    for trainer, pattern, unit, companions in _TRAINERS:
        if re.search(pattern, path) and (not companions or beside.intersection(companions)):
            return trainer, unit
    return "", ""


def _forks(groups: tuple[NumberedNames, ...]) -> set[str]:
    """The folders of several runs: those in which siblings differ, with the same pattern below them."""
    sequences = {group.folder for group in groups if is_sequence(group)}
    classes: dict[tuple[str, ...], dict[tuple[str, ...], bool]] = defaultdict(dict)
    for group in groups:
        if any(_below(group.folder, other) for other in sequences):
            continue  # a folder that holds a sequence is one run, with everything below it
        folders = tuple(group.folder.split("/"))
        long = is_sequence(group)
        classes[(*map(_kin, folders), group.series)][folders] = long
    roots: set[str] = set()
    for members in classes.values():
        depth = _last_fork(list(members))
        named = depth is not None and any(names_a_run(folders[depth]) for folders in members)
        kept = [folders for folders, long in members.items() if long or named]
        depth = _last_fork(kept)
        if depth is not None:
            roots |= {"/".join(folders[: depth + 1]) for folders in kept}
    return {root for root in roots if not any(_below(root, other) for other in roots)}


def _kin(part: str) -> str:
    """What the names of sibling folders share: all but numbers (`exp`, `exp2`), dates and ids; a role is kept whole."""
    if _ROLE.match(part):
        return f"={part}"
    kinds = {slot.kind for slot in slots(f"{part}/")}
    for kind in (Kind.DATE, Kind.HASH):
        if kind in kinds:
            return f"={kind}"
    return re.sub(rf"[-_.=]*{_NUMBER.pattern}", "", part)


def names_a_run(part: str) -> bool:
    """Whether a folder's name says that it is one run of several, however few checkpoints it holds."""
    return bool(_RUN.search(part)) or any(slot.kind in (Kind.DATE, Kind.HASH) for slot in slots(f"{part}/"))


def _last_fork(members: list[tuple[str, ...]]) -> int | None:
    """The deepest level at which folders of one parent differ."""
    ordered = sorted(members)
    return max(
        (
            next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            for one, other in pairwise(ordered)
        ),
        default=None,
    )


def _different(groups: tuple[NumberedNames, ...], architectures: Mapping[str, str]) -> set[str]:
    """The folders of sequences that no role explains, if their models are known to differ."""
    apart = [group.folder for group in unexplained(groups)]
    return set(apart) if len({architectures[folder] for folder in apart if folder in architectures}) > 1 else set()


def _inside(folder: str, root: str) -> bool:
    return folder == root or _below(folder, root)


def _below(folder: str, root: str) -> bool:
    return folder != root and (not root or folder.startswith(f"{root}/"))


def within(names: Mapping[str, int], folder: str) -> dict[str, int]:
    """The names below a folder, relative to it."""
    return {name[len(folder) + 1 :]: changed for name, changed in names.items() if name.startswith(f"{folder}/")}


def several_runs(names: tuple[str, ...], run: Path) -> tuple[str, str] | None:
    """The problem that several runs are watched as one, and its remedy; None if these names are of one run."""
    runs = discover(dict.fromkeys(names, 0)).runs
    if not runs:
        return None
    listed = [each.folder for each in runs[:MOST_BESIDE]]
    more = f" and {len(runs) - len(listed)} more" if len(runs) > len(listed) else ""
    together = f"{len(runs)} runs lie here and are watched as one ({', '.join(listed)}{more})"
    what = f"{together}: only their names and weights keep their windows apart"
    remedy = f"stop this and watch each by itself, such as: {command('start', run / runs[-1].folder)}"
    return printable(what), printable(remedy)
