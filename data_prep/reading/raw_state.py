"""What a raw folder holds now, as fingerprints: when a prepared folder is out of date."""

import hashlib
import json
import os
from pathlib import Path

from data_prep.reading.raw import TABLE_SUFFIXES


def fingerprint_raw(raw: Path, patterns: tuple[str, ...], given: dict[str, str], out: Path) -> dict:
    """What tells whether the raw data changed, cheap and without times: each table's SHA-256,
    entries of the folder.

    Covers tables in the raw folder itself, files of `patterns` (one digest a pattern) and what the
    settings `given` point to: a file, or the tables in a folder. Images and hidden files are not
    looked at. What lies in `raw` but was prepared, as `out`, is not counted.
    """
    named = {}
    for name, path in given.items():
        if not path:
            continue
        path = Path(path).expanduser()
        files = [path]
        if path.is_dir():
            suffixes = (*TABLE_SUFFIXES, ".jsonl", ".txt")
            files = [p for p in path.iterdir() if p.name.lower().endswith(suffixes)]
        files = [p for p in files if p.is_file()]
        named |= {name: _digest(files, raw)} if files else {}
    if raw.is_file():
        if raw.suffix.lower() in (
            ".h5",
            ".hdf5",
        ):  # pixels, like image files: too much to be read on every call
            beside = {
                path.name: _digest([path], raw.parent) for path in sorted(raw.parent.glob("*.csv*"))
            }
            return {
                "raw_tables": {raw.name: f"{raw.stat().st_size} bytes"} | beside | named,
                "raw_entries": 1,
            }
        return {"raw_tables": {raw.name: _digest([raw], raw.parent)} | named, "raw_entries": 1}
    own = {os.path.relpath(out.resolve(), raw.resolve()).split(os.sep)[0]} - {".."}
    own |= {f"{name}.partial" for name in own}
    entries = [
        p
        for p in raw.iterdir()
        if not p.name.startswith(".") and p.name not in own and not (p / "card.json").is_file()
    ]
    tables = {
        p.name: [p] for p in entries if p.name.lower().endswith(TABLE_SUFFIXES) and p.is_file()
    }
    for pattern in (
        patterns
    ):  # the parent as it is written: where the raw folder is a link, not that of its target
        home = raw.parent if pattern.startswith("../") else raw
        tables[pattern] = [p for p in home.glob(pattern.removeprefix("../")) if p.is_file()]
    tables = {name: _digest(tables[name], raw) for name in sorted(tables) if tables[name]}
    return {"raw_tables": tables | named, "raw_entries": len(entries)}


def _digest(files: list[Path], home: Path) -> str:
    """12 hex digits of names, sizes and contents; a file that cannot be read is the reader's to
    complain about.
    """
    lines = []
    for path in files:
        try:
            with open(path, "rb") as file:
                told = [
                    os.fstat(file.fileno()).st_size,
                    hashlib.file_digest(file, "sha256").hexdigest(),
                ]
        except OSError:
            told = ["cannot be read"]
        lines.append(
            [path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name, *told]
        )
    return hashlib.sha256(json.dumps(sorted(lines)).encode()).hexdigest()[:12]
