"""Check every entry of a torch.save archive, because torch.load does not verify checksums."""

import zipfile
from collections import Counter
from pathlib import Path

from .errors import InputError, reason_of

MAGIC = b"PK\x03\x04"
_BLOCK = 2**20


def check_archive(path: Path) -> None:
    """Read every entry once, and compare it with its checksum.

    Raises:
        InputError: if the CRC-32, name or size of an entry is wrong (the message names the entry), or if the archive is
            truncated, compressed, or has an entry twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_directory(path, entries)
            for entry in entries:
                _check_entry(path, archive, entry)
    except InputError:
        raise
    except Exception as error:  # zipfile raises nearly anything for a directory of random bytes
        raise InputError(f"{path} is not a complete archive ({reason_of(error)}): fetch it again.") from error


def _check_directory(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Check that entries are as torch.save writes them: not compressed, not larger than the file, unique names."""
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path} unpacks to more bytes than it has, so PyTorch did not save it.")
    names = Counter(entry.filename.lower() for entry in entries)  # PyTorch's reader ignores case
    name, times = max(names.items(), key=lambda pair: pair[1], default=("", 0))
    if times > 1:
        raise InputError(f"{path} holds the entry {name!r} {times} times, but every name must be unique.")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise InputError(
                f"{path} is damaged or was not saved by PyTorch: its entry {entry.filename!r} is compressed, or of "
                "another size than it says. Fetch it again."
            )


def _check_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Compare an entry with its checksum, and its name and size with those stored before its content."""
    try:
        with archive.open(entry) as content:
            while content.read(_BLOCK):
                pass
    except Exception as error:
        raise InputError(
            f"{path} is damaged in its entry {entry.filename!r} ({reason_of(error)}): fetch it again. If it was "
            "saved under torch.serialization.set_crc32_options(False), save it again with checksums."
        ) from error
