"""Speed, memory and restarts of image decoding.   python tests/benchmarks/decode.py --help"""

import argparse
import hashlib
import importlib.util
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from data_prep.reading import decoding, images  # noqa: E402

SHARED = ROOT.parent / "shared"
TARGETS = (224, 320, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=6, help="JPEGs of each kind for the speed (default 6)"
    )
    parser.add_argument(
        "--height", type=int, default=2000, help="their height in px (default 2000)"
    )
    parser.add_argument("--width", type=int, default=2500, help="their width in px (default 2500)")
    parser.add_argument("--size", type=int, default=512, help="stored squares in px (default 512)")
    parser.add_argument(
        "--repeats", type=int, default=7, help="the fastest of so many rounds counts (default 7)"
    )
    parser.add_argument(
        "--copies",
        type=int,
        default=800,
        help="files for 1 against 2 workers, 0 to skip (default 800; few measure the start)",
    )
    parser.add_argument(
        "--small",
        type=int,
        nargs="*",
        default=[1000, 10000],
        help="numbers of small images for memory",
    )
    parser.add_argument(
        "--kills", type=int, default=4, help="random moments of SIGKILL, 0 to skip (default 4)"
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        default=SHARED / "data/covid_cxr/images",
        help="folder of real JPEGs",
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        speed(folder, args)
        differences(args.pictures)
        if args.copies:
            workers(folder, args)
        if args.small:
            memory(folder / "small", args.small)
        if args.kills:
            kills(folder / "kills", args.kills)


# ---------------------------------------------------------------- speed, and what reduced decoding


def kinds(args: argparse.Namespace) -> dict[str, bytes]:
    """JPEG files of args.height x args.width px: smooth and noisy, weakly and strongly
    compressed.
    """
    made = {"seeded input": seeded(args.height, args.width)}
    real = SHARED / "data/nih/00000001_000.png"
    if real.is_file():
        grey = cv2.imread(str(real), cv2.IMREAD_GRAYSCALE)
        made["enlarged real"] = cv2.resize(
            grey, (args.width, args.height), interpolation=cv2.INTER_CUBIC
        )
        noise = np.random.default_rng(0).normal(0, 4, (args.height, args.width))
        made["real + noise 4"] = np.clip(made["enlarged real"] + noise, 0, 255).astype(np.uint8)
    return {
        f"{name}, q{quality}": encoded(grey, quality)
        for name, grey in made.items()
        for quality in (75, 90, 95)
    }


def seeded(height: int, width: int) -> np.ndarray:
    path = SHARED / "bench/inputs.py"
    if path.is_file():
        spec = importlib.util.spec_from_file_location("inputs", path)
        inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(inputs)
        return inputs.xray_u8(0, height, width)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    shapes = 110 + 70 * np.sin(4 * y) * np.cos(5 * x)
    return np.clip(
        shapes + np.random.default_rng(0).integers(-12, 13, shapes.shape), 0, 230
    ).astype(np.uint8)


def encoded(grey: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=quality)
    return file.getvalue()


def speed(folder: Path, args: argparse.Namespace) -> None:
    print(
        f"{args.height} x {args.width} px JPEGs to {args.size} px, ms of processor time an "
        "image, one process"
    )
    print(f"{'':20}{'kB':>6} {'decode':>7} {'full':>7} {'reduced':>7} | full/decode "
          "reduced/decode full/reduced |"
          f" {'1/8 only':>8} | levels mean max")  # fmt: skip
    for name, data in kinds(args).items():
        paths = [f"{name}-{k}.jpg" for k in range(args.images)]
        for path in paths:
            (folder / path).write_bytes(data)
        loops = {
            "decode": lambda path: Image.open(folder / path).load(),
            "full": lambda path: images.load(folder, path, args.size, full=True),
            "reduced": lambda path: images.load(folder, path, args.size),
            "1/8": lambda path: eighth(folder / path),
        }
        seconds = {loop: np.inf for loop in loops}
        for _ in range(args.repeats):
            for (
                loop,
                work,
            ) in loops.items():  # in turns, so that what else the machine does falls on all
                start = time.process_time()  # others may use this machine
                for path in paths:
                    work(path)
                seconds[loop] = min(seconds[loop], time.process_time() - start)
        decode, full, reduced, least = (seconds[loop] / args.images * 1e3 for loop in loops)
        mean, most = difference(data, args.size)
        print(f"{name:20}{len(data) // 1000:6} {decode:7.1f} {full:7.1f} {reduced:7.1f} | "
              f"{full / decode:11.2f} "
              f"{reduced / decode:14.2f} {full / reduced:12.2f} | {least:8.1f} | {mean:11.2f} "
              f"{most:3}")  # fmt: skip
    print(
        "1/8 only: the decoder's smallest picture, unusable here; what it takes is reading "
        "the compressed bits\n"
    )


def eighth(path: Path) -> None:
    image = Image.open(path)
    image.draft("L", (image.width // 8, image.height // 8))
    image.load()


def difference(data: bytes, size: int) -> tuple[float, int]:
    """(mean, largest) difference in grey levels between reduced and full decoding."""
    reduced, whole = (
        images.to_square(data, size).astype(int),
        images.to_square(data, size, full=True),
    )
    return np.abs(reduced - whole).mean(), np.abs(reduced - whole).max()


def differences(folder: Path) -> None:
    """The rule of images.reduction on real JPEGs."""
    rows = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        data = path.read_bytes()
        if data.startswith(b"\xff\xd8\xff"):
            sides = Image.open(path).size
            for size in TARGETS:
                scale = images.reduction(*sides, size)
                if scale > 1:
                    rows.append((size, f"1/{scale}", *difference(data, size)))
    if rows:
        table = pd.DataFrame(rows, columns=["size", "reduction", "mean", "max"])
        print("reduced against full decoding of real radiographs, grey levels")
        told = table.groupby(["size", "reduction"])["mean"].agg(
            pictures="size", average="mean", worst="max"
        )
        print(told.round(2).to_string())
        print(f"over 1 level on average: {(table['mean'] > 1).sum()} of {len(table)}\n")


# ---------------------------------------------------------------- workers


def workers(folder: Path, args: argparse.Namespace) -> None:
    data = encoded(seeded(args.height, args.width), 90)
    names = [f"copy{k}.jpg" for k in range(args.copies)]
    for name in names:
        (folder / name).write_bytes(data)
    print(
        f"{args.copies} JPEGs through decoding.decoded, seconds (without starting the "
        "processes: the last three quarters)"
    )
    took = {1: np.inf, 2: np.inf}
    for count in (1, 2, 1, 2):  # the faster of two, in turns
        stamps = []
        for _ in decoding.decoded(folder, names, np.arange(len(names)), args.size, count):
            stamps.append(time.perf_counter())
        took[count] = min(took[count], stamps[-1] - stamps[len(stamps) // 4])
    print(
        f"  1 worker {took[1]:.2f}, 2 workers {took[2]:.2f}: {took[1] / took[2]:.2f} times as fast"
    )
    print(
        f"  ({os.cpu_count()} cores; load of the machine, ours included: "
        f"{os.getloadavg()[0]:.1f})\n"
    )
    for name in names:
        (folder / name).unlink()


# ---------------------------------------------------------------- memory and restarts, through the

CHILD = """
import resource, sys
import data_prep
from data_prep.prepared import preparation, writing
writing.MARK_SECONDS = 0.05
raw, out, workers = sys.argv[1:]
preparation.prepare("covid_cxr", raw, out, size=64, workers=int(workers), progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def tree(raw: Path, count: int, side: int) -> Path:
    """A COVID-19 collection of noise."""
    (raw / "images").mkdir(parents=True)
    random_numbers = np.random.default_rng(0)
    for k in range(count):
        pixels = random_numbers.integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(raw / "images" / f"{k}.png", compress_level=0)
    rows = {
        "patientid": range(count),
        "offset": 0,
        "finding": "No Finding",
        "view": "PA",
        "modality": "X-ray",
    }
    rows |= {"folder": "images", "filename": [f"{k}.png" for k in range(count)]}
    pd.DataFrame(rows).to_csv(raw / "metadata.csv", index=False)
    return raw


def start(raw: Path, out: Path, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(raw), str(out), str(count)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def memory(folder: Path, counts: list[int]) -> None:
    print("peak memory of preparing, MiB (2 workers; the parent, which holds the table)")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    for count in counts:
        child = start(tree(folder / f"raw{count}", count, 64), folder / f"out{count}", 2)
        print(f"  {count:7,} images: {int(child.communicate()[0].split()[-1]) / unit:6.0f}")
    print()


def kills(folder: Path, count: int) -> None:
    raw = tree(folder / "raw", 400, 700)
    begun = time.monotonic()
    start(raw, folder / "whole", 1).wait()
    seconds, expected, moments = (
        time.monotonic() - begun,
        digest(folder / "whole"),
        random.Random(0),
    )
    print("killed at random moments (s) and started again:")
    for k in range(count):
        out, told = folder / f"out{k}", []
        while not (out / "card.json").exists() and len(told) < 3:
            child, moment = start(raw, out, 1 + k % 2), moments.uniform(0.2, 0.9) * seconds
            time.sleep(moment)
            child.send_signal(signal.SIGKILL)
            child.wait()
            told.append(f"{moment:.2f}")
        start(raw, out, 2 - k % 2).wait()
        print(
            f"  {', '.join(told)}: {'the same bytes' if digest(out) == expected else 'OTHER BYTES'}"
        )


def digest(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


if __name__ == "__main__":
    main()
