"""Every example at full size: how long it takes, what it ends with, and its picture for the README.

    python benchmarks/examples.py --data-dir DIR --thumbnails examples/figures

The tutorials and `five_losses.py` run on MNIST, the others on what they bring. What they print and draw is
kept in a folder; and so is what `pyro-vae train` draws (--only first_run). About 50 minutes on two cores, of
which the convolutional tutorial takes a third; --only runs some of them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted([*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "course").glob("*.py")])
TELLS = re.compile(r"(?=.*(ELBO|log p\(|nats))(?=.*\d\.\d)")
WIDTH, FIRST = 320, 1170
"""Of a thumbnail, and of the first run's picture, in pixels."""


def thumbnail(picture: Path, folder: Path) -> Path:
    """A small copy of a picture, in 64 colours."""
    with Image.open(picture) as image:
        small = image.convert("RGB").resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
    small.quantize(64, dither=Image.Dither.NONE).save(folder / picture.name, optimize=True)
    return folder / picture.name


def first_run(folder: Path, thumbnails: Path) -> None:
    """What ``pyro-vae train`` leaves, in 256 colours, for the README."""
    command = [sys.executable, "-m", "pyro_vae", "train", "--folder", "first_run"]
    subprocess.run(command, cwd=folder, check=True)
    with Image.open(folder / "first_run" / "figures" / "summary.png") as image:
        small = image.convert("RGB").resize((FIRST, round(image.height * FIRST / image.width)), Image.LANCZOS)
    small = small.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(thumbnails / "first_run.png", optimize=True)


def main() -> None:
    """Runs the examples and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mnist", help="for the examples that take it: mnist, or digits")
    parser.add_argument("--data-dir", help="folder of the data; downloaded into it when not there")
    parser.add_argument("--only", nargs="+", help="parts of the names of those to run")
    parser.add_argument("--thumbnails", type=Path, help="folder for the small pictures")
    parser.add_argument("--folder", type=Path, default=Path("runs/examples"), help="for output and pictures")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    failed = []
    print("| example | s | the last it says of an ELBO, log p(x) or nats |\n| --- | ---: | --- |")
    for path in EXAMPLES:
        if args.only and not any(part in path.stem for part in args.only):
            continue
        options = []
        if '"--data"' in path.read_text():
            options = ["--data", args.data]
            options += ["--data-dir", str(Path(args.data_dir).resolve())] if args.data_dir else []
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(path), *options], cwd=args.folder, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        (args.folder / f"{path.stem}.txt").write_text(done.stdout + done.stderr)
        told = [line.strip() for line in done.stdout.splitlines() if TELLS.search(line)]
        print(f"| {path.relative_to(ROOT)} | {seconds:.0f} | {told[-1] if told else ''} |", flush=True)
        if done.returncode:
            failed.append(f"{path.name}: {done.stderr.strip().splitlines()[-1]}")
        picture = args.folder / "figures" / f"{path.stem}.png"
        if args.thumbnails and picture.exists():
            thumbnail(picture, args.thumbnails)
    if args.thumbnails and (not args.only or "first_run" in args.only):
        first_run(args.folder, args.thumbnails)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
