"""Command line: python -m data_prep NAME --raw R --out O; list; check DIR"""

import argparse
import json
import os
import sys
from pathlib import Path

from data_prep import DATASETS, DataError, datasets, fault

PHANTOM = (
    "none: it is generated (--studies, --seed), written as raw trees and prepared like real data"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 after an error, which is one line on
    stderr.
    """
    try:
        args = _parse(arguments)
        if args.folder and args.name not in ("check", "export_jsonl"):
            raise fault(
                "options that begin with --", args.folder, "see `python -m data_prep --help`"
            )
        if args.name == "list":
            _list()
        elif args.name == "check":
            return _check(args.folder)
        elif args.name == "export_jsonl":
            from data_prep.datasets.medvill_jsonl import export

            if not args.folder or not args.out:
                do = "python -m data_prep export_jsonl DIR --out FOLDER"
                raise fault("a prepared folder and --out", "not both", do)
            print(f"written: {export(args.folder, args.out)}")
        elif args.name == "phantom":
            _phantom(args)
        else:
            _prepare(args.name, args.raw, args.out, args)
    except (ValueError, FileNotFoundError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise DataError(f"{message}; see `python -m data_prep --help`")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    needs = {name: datasets.load(name).NEEDS for name in DATASETS} | {"phantom": PHANTOM}
    lines = [f"  {name:14} {told}" for name, told in needs.items()]
    parser = _Parser(
        prog="python -m data_prep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Bring a raw dataset into the prepared form: index.csv, images.h5, "
        "card.json, rejects.csv.",
        epilog="datasets, and what --raw points to (`list` shows their settings):\n"
        + "\n".join(lines)
        + "\n\nexamples:\n"
        "  python -m data_prep mimic_cxr --raw ~/mimic-cxr-jpg --out data/mimic --workers 8\n"
        "  python -m data_prep mimic_cxr --raw ~/mimic-cxr-jpg --out data/trial --limit 500 "
        "--set views=AP,PA\n"
        "  python -m data_prep mimic_cxr --raw ~/mimic-cxr --out data/dicom --set "
        "split=patient --set labels=reports\n"
        "  python -m data_prep openi --raw ~/openi --out data/openi --set images=all --set "
        "views=FRONTAL,LATERAL\n"
        "  python -m data_prep phantom --out data/phantom --studies 200 --seed 7 --size 64\n"
        "  python -m data_prep table --raw own.csv --out data/own --set image_column=file "
        "--set text_column=report\n"
        "  python -m data_prep check data/mimic\n"
        "  python -m data_prep export_jsonl data/mimic --out mimic-jsonl",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = (
        f"{', '.join(DATASETS)}; phantom; or list, which shows them, check, which checks "
        "a prepared folder, export_jsonl"
    )
    parser.add_argument("name", metavar="NAME", help=names)
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", help="check, export_jsonl: the prepared folder"
    )
    parser.add_argument(
        "--raw",
        metavar="R",
        help="folder with the raw data (never changed); phantom: where to write it",
    )
    parser.add_argument(
        "--out", metavar="O", help="folder to make; a killed run goes on when started again"
    )
    parser.add_argument(
        "--size",
        type=int,
        help="longer side of the stored squares in px (default 512; cxr_h5: as it is)",
    )
    parser.add_argument(
        "--workers", type=int, default=cores, help=f"processes (default: all {cores} cores)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N records by study_id"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="setting of the dataset, may be repeated; `list` shows them",
    )
    parser.add_argument(
        "--studies",
        type=int,
        default=2000,
        metavar="N",
        help="phantom: number of studies (default 2000)",
    )
    parser.add_argument(
        "--seed", type=int, default=7, metavar="S", help="phantom: seed (default 7)"
    )
    parser.add_argument(
        "--layout",
        default="mimic_cxr",
        metavar="L",
        help="phantom: which of its raw trees --out gets (default mimic_cxr; `list` shows them)",
    )
    return parser.parse_args(arguments)


def _list() -> None:
    """Each dataset: what --raw points to, and its settings with their defaults."""
    from data_prep.phantom.write import LAYOUTS
    from data_prep.prepared.preparation import HELP, SETTINGS

    for name in DATASETS:
        module = datasets.load(name)
        print(f"{name}\n  raw: {module.NEEDS}\n  settings, as --set NAME=VALUE:")
        told = getattr(module, "HELP", {}) | HELP
        for setting, default in (module.SETTINGS | SETTINGS).items():
            if isinstance(default, bool):
                default = "yes" if default else "no"
            print(f"    {setting}={default}".ljust(30) + f" {told.get(setting, '')}".rstrip())
    print(f"phantom\n  raw: {PHANTOM}")
    print("  --layout L, the raw tree to prepare, with the settings of the dataset beside it:")
    for layout, (reader, _, _) in LAYOUTS.items():
        print(f"    {layout:14} {reader}" + " (the default)" * (layout == "mimic_cxr"))


def _check(folder: str | None) -> int:
    """One line a check; 0 when all is well, 2 when not."""
    from data_prep.prepared.check import check

    if not folder:
        raise fault("a prepared folder", "none", "python -m data_prep check DIR")
    results = check(Path(folder).expanduser())
    for what, told in results:
        mark = "ok  " if not told else "note" if told.startswith("note: ") else "FAIL"
        print(f"{mark}  {what}" + f": {told.removeprefix('note: ')}" * bool(told))
    wrong = sum(bool(told) and not told.startswith("note: ") for _, told in results)
    print(
        f"{folder}: "
        + (
            f"{wrong} of {len(results)} checks failed"
            if wrong
            else f"all {len(results)} checks passed"
        )
    )
    return 2 if wrong else 0


def _phantom(args: argparse.Namespace) -> None:
    if not args.out and not args.raw:
        raise fault("--out or --raw", "neither", "say where to write the phantom")
    from data_prep.phantom.write import LAYOUTS, write_raw

    if args.layout not in LAYOUTS:
        raise fault(
            f"a layout of the phantom: {', '.join(LAYOUTS)}", repr(args.layout), "correct --layout"
        )
    reader, tree, settings = LAYOUTS[args.layout]
    args.settings = [f"{name}={value}" for name, value in settings.items()] + args.settings
    raw = Path(args.raw) if args.raw else Path(args.out) / "raw"
    write_raw(raw, args.studies, args.seed, args.workers, True)
    print(f"raw trees: {raw}")
    if args.out:
        _prepare(reader, raw / tree, args.out, args)


def _prepare(name: str, raw, out, args: argparse.Namespace) -> None:
    from data_prep.prepared import preparation

    datasets.load(name)
    if not raw or not out:
        raise fault(
            "--raw and --out",
            "only one of them" if raw or out else "neither",
            f"see `python -m data_prep list` for what {name} needs",
        )
    settings = {}
    for pair in args.settings:
        key, equals, value = pair.partition("=")
        if not equals:
            raise fault("--set NAME=VALUE", pair, "for example --set max_reject_share=0.1")
        settings[key] = value
    own_size = getattr(datasets.load(name), "own_size", lambda raw: 512)
    size = own_size(Path(raw).expanduser()) if args.size is None else args.size
    folder = preparation.prepare(
        name, raw, out, size=size, workers=args.workers, limit=args.limit, settings=settings
    )
    _show(folder)


def _show(folder: Path) -> None:
    """Print what became of the raw records, and where things are."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    width = max(len(step["step"]) for step in card["attrition"])
    print(f"\n{card['label']}: {card['rows']:,} rows, {card['images']:,} images")
    for step in card["attrition"]:
        dropped = f"-{step['dropped']:,}" if step["dropped"] else ""
        print(f"  {step['step']:{width}}  {step['rows']:>9,}  {dropped:>9}  {step['why']}".rstrip())
    for split, counts in card["counts"].items():
        print(f"  {split}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
    if card.get("expected"):
        # Why these data need not have the published counts.
        why = ["synthetic phantom"] * card["synthetic"]
        if card["limit"] is not None:
            why.append(f"limited to {card['limit']}")
        own = datasets.load(card["name"]).SETTINGS
        given = {key: value for key, value in card["settings"].items() if key in own}
        changed = [f"{key}={value}" for key, value in given.items() if value != own[key]]
        if changed:
            why.append(f"settings {' '.join(changed)}")
        here = f"; here: {', '.join(why)}" if why else ""
        print(f"  published ({card['expected'][0]['source']}){here}")
        for row in card["expected"]:
            found = "not counted" if row["found"] is None else f"{row['found']:,}"
            print(f"    {row['what']:10}  published {row['expected']:>9,}  found {found:>9}")
    print(
        "  in more than one split: "
        + ", ".join(f"{n:,} {k.replace('_', ' ')}" for k, n in card["overlap"].items())
    )
    for note in card["notes"]:
        print(f"  note: {note}")
    for name in ("index.csv", "images.h5", *card.get("extra", {}), "card.json", "rejects.csv"):
        if (folder / name).is_file():
            print(
                f"  {folder / name}"
                + f" ({card['rejects']:,} records not used)" * (name == "rejects.csv")
            )


if __name__ == "__main__":
    sys.exit(main())
