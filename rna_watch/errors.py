"""The error tree: each class says what a person should do, and carries the exit code of the command."""

EXIT_CODES = {
    0: "done",
    1: "failed: the message says what, where and what to do",
    2: "wrong usage: the command, an option or the configuration is wrong",
    3: "nothing to do: no checkpoint, or all were done before",
    130: "interrupted with Ctrl-C",
}


class RnaWatchError(Exception):
    """Something failed; the message says what, where and what to do."""

    exit_code = 1


class UsageError(RnaWatchError):
    """The command, an option or the configuration is wrong: correct it and call again."""

    exit_code = 2


class NothingToDo(RnaWatchError):  # noqa: N818 - it is an outcome, not a failure
    """There is nothing to work on: point at a folder with checkpoints, or wait for some."""

    exit_code = 3


class IncompleteCheckpoint(RnaWatchError):  # noqa: N818 - named after the state of the file
    """The file is still being written, or was cut off: wait for it, or write it again."""


class Unreadable(IncompleteCheckpoint):
    """The file cannot be read for now, which says nothing of its content: check disk and mount; it is tried again."""


class RefusedCheckpoint(RnaWatchError):  # noqa: N818 - named after our answer
    """The file cannot be used; the message says why and what would help."""


class AllIgnored(UsageError, RefusedCheckpoint):  # noqa: N818 - it states the fact
    """Every tensor that could be extrapolated is ignored: take a pattern of --ignore back."""


class InputChanged(RnaWatchError):  # noqa: N818 - named after what happened
    """A checkpoint changed or vanished while it was being read: the result was thrown away."""


class StoreError(RnaWatchError):
    """Our own folder cannot be written (full, read-only, gone): make room or name another with --output."""


class StoreAway(RnaWatchError):  # noqa: N818 - it may come back
    """Our own folder cannot be reached at the moment (unmounted, a server that does not answer): work goes on when it can."""


class RunIsWatched(RnaWatchError):  # noqa: N818 - it states the fact
    """Another process watches this run: look with `rna-watch status`, end it with `rna-watch stop`."""


class EvaluationFailed(RnaWatchError):  # noqa: N818 - named after what happened
    """The user's evaluator raised, timed out or returned something unusable."""


class EngineError(RnaWatchError):
    """The engine (Ray) could not start or lost its workers."""


class ClusterLost(EngineError):  # noqa: N818 - named after what happened
    """Ray's cluster, or all of its nodes that can be used, are gone for now: this machine goes on, and Ray is begun anew."""


class Cancelled(RnaWatchError):  # noqa: N818 - it is a request, not a failure
    """Work was given up because the command is stopping."""


class Superseded(RnaWatchError):  # noqa: N818 - named after what happened
    """A checkpoint was written again while its old version was in work: that work is given up, the new version is next."""
