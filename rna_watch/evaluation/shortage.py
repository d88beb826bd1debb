"""Trouble of this machine's, not of the user's evaluator: too few descriptors, processes, bytes of memory or of disk."""

from __future__ import annotations

import errno

from rna_watch.errors import EngineError

SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EIO})


class ShortOf(EngineError):  # noqa: N818 - named after what happened
    """This machine lacks what an evaluation needs: raise the limit that the message names, or free some."""
