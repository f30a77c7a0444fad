"""What the processes of a run tell each other where they are not joined yet, or no more."""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import Iterator, Optional

from torch.distributed import DistError, Store, TCPStore

from mf_ros.cli.options import BAD_INPUT
from mf_ros.errors import MfRosError

_FAILED = "mf_ros/first_process_failed"
_WAIT = datetime.timedelta(seconds=15)


def is_first() -> bool:
    """Whether this process speaks for the run: the only one, or the first that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Let the first process tell an error that all have: the others end without a word when it failed as well.

    Another one tells its error where the first does not fail within some seconds. Without torchrun's store, through
    which the first is heard, each tells its own.

    Raises:
        SystemExit: the first process tells what is wrong.
    """
    try:
        yield
    except (MfRosError, OSError) as error:
        store = _store()
        if store is None:
            raise
        if is_first():
            store.set(_FAILED, "")
            raise
        try:
            store.wait([_FAILED], _WAIT)
        except DistError:
            raise error from None
        raise SystemExit(BAD_INPUT) from None


def _store() -> Optional[Store]:
    """The store of torchrun, which outlives the processes that it started."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_WAIT)
    except (DistError, LookupError, ValueError):
        return None
