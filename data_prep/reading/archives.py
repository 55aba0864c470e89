"""Decode images that are still packed: a tar archive has no index, so it is read once from its
start to its end.
"""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep import fault
from data_prep.reading.images import ABSENT, MAX_BYTES, decode, shrink_and_pad
from data_prep.reading.raw import progress_bar

PART = 1 << 20  # bytes read at once on the way to the end


class Header(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive, and says nothing: here only zero
    blocks are the end.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except (
            tarfile.InvalidHeaderError,
            tarfile.TruncatedHeaderError,
            tarfile.EmptyHeaderError,
        ) as problem:
            raise tarfile.ReadError(
                f"damaged or cut off at byte {archive.offset:,}: {problem}"
            ) from None


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, whose members are to be gone through; then the rest is read, for the checksum
    stands at the end.

    Raises DataError when the archive is damaged.
    """
    try:
        with tarfile.open(path, tarinfo=Header) as archive:
            yield archive
            while archive.fileobj.read(PART):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as problem:
        # An archive that fits no way of packing: one line for each that was tried.
        is_tar = len(str(problem).split("\n")) == 1
        found = f"{type(problem).__name__}: {problem}"
        found = found if is_tar else "none: not a tar archive, packed or not"
        raise fault(f"a whole archive at {path}", found, "download it again") from None


def members(path: Path, suffix: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(names of the usable files with `suffix` in a tar archive, (name, why not) of the others);
    nothing is unpacked.

    Raises DataError when the archive is damaged.
    """
    good, bad = [], []
    with opened(path) as archive:
        for member in progress_bar(
            archive, desc=path.name, unit="member", leave=False, disable=None
        ):
            reason = unusable(member, suffix)
            if reason:
                bad.append((member.name, reason))
            elif not member.isdir():
                good.append(member.name)
    return good, bad


def unusable(member: tarfile.TarInfo, suffix: str) -> str:
    """Why this member of an archive is not read, "" for a plain file with `suffix` and for a
    folder.
    """
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        return "archive member climbs out of its folder"
    if member.issym() or member.islnk():
        return "archive member is a link"
    if member.isdir():
        return ""
    if not member.isfile() or name.suffix.lower() != suffix:
        return "not an XML file" if suffix == ".xml" else f"not a {suffix} file"
    return ""


def decoded_from_tar(
    path: Path, images: list[str], rows: np.ndarray, size: int, workers: int
) -> Iterator[tuple]:
    """Like decoding.decoded for member names images[row] of a tar archive: decoders release
    Python's lock, so threads do.

    At most three files a worker are in memory. Raises DataError when the archive is damaged.
    """
    todo = {images[int(row)]: int(row) for row in rows}
    with ThreadPoolExecutor(workers) as pool:
        pending = set()
        with opened(path) as archive:
            for member in archive:
                row = todo.pop(member.name, None)
                if row is None:
                    continue
                if member.size > MAX_BYTES:
                    yield row, None, f"file of {member.size:,} bytes: more than {MAX_BYTES:,}"
                    continue
                pending.add(pool.submit(_decode, row, archive.extractfile(member).read(), size))
                if len(pending) >= 3 * workers:
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
        yield from (future.result() for future in pending)
    yield from ((row, None, ABSENT) for row in todo.values())


def _decode(row: int, data: bytes, size: int) -> tuple:
    try:
        return row, shrink_and_pad(decode(data), size), ""
    except ValueError as problem:
        return row, None, str(problem)
