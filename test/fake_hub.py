"""A Hugging Face Hub in a folder."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path


class Hub:
    """A Hub with one model, that notes what is downloaded.

    Args:
        model: its files.
        cache: where downloads go.
    """

    def __init__(self, model: Path, cache: Path) -> None:
        self.model, self.cache = model, cache
        self.asked = 0

    def list_repo_files(self, repository: str) -> list[str]:
        self.asked += 1
        return [str(path.relative_to(self.model)) for path in sorted(self.model.rglob("*")) if path.is_file()]

    def snapshot_download(self, repository: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if not local_files_only:
            for name in self.list_repo_files(repository):
                if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                    (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(self.model / name, self.cache / name)
        if not self.cache.is_dir():
            raise FileNotFoundError("nothing of it is in the cache")
        return str(self.cache)

    @property
    def weights(self) -> set[str]:
        """What was downloaded that is no text."""
        stored = {str(path.relative_to(self.cache)) for path in self.cache.rglob("*") if path.is_file()}
        return {name for name in stored if not name.endswith((".json", ".txt", ".md"))}
