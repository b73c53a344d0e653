"""Source distributions, which carry a project's tests: fetched once from pip's package index, checked at every use."""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cache import CACHE, alone


class Source(NamedTuple):
    """A source distribution, pinned. `file` is its name on the index."""

    project: str
    version: str
    sha256: str
    file: str

    def unpack(self, into: Path, *wanted: str) -> Path:
        """The folder with those of its files and folders that are `wanted`. Skips the test when pip's index can't be reached."""
        archive = CACHE / self.file
        with alone():
            if not archive.exists():
                self._fetch()
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == self.sha256, f"{archive} is not {self.project} {self.version} as pinned"
        root = self.file.removesuffix(".tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.startswith(tuple(f"{root}/{name}" for name in wanted)) and (content := tar.extractfile(member)):
                    path = into / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
        return into / root

    def _fetch(self) -> None:
        """pip asks a distribution for its metadata, which runs its build backend: the one requirements.lock has installed."""
        listed = CACHE / f"{self.project}.txt"
        listed.write_text(f"{self.project}=={self.version} --hash=sha256:{self.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "30"]
        exactly = [
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            self.project,
            "--require-hashes",
            "-r",
            str(listed),
            "-d",
            str(CACHE),
        ]
        done = subprocess.run([*pip, *exactly], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"{self.project} {self.version}'s own suite did not run: pip can't fetch its source distribution: {reason}")
