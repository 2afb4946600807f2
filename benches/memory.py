"""How much memory embedding photos takes: made ones of 12 megapixels, in a process of their own.

    python benches/memory.py --photos 100 --crop 224
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sslzoo.encoders import build_encoder, encoder_config, to_plain
from sslzoo.evaluation import Preprocessing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--width", type=int, default=4000, help="px; every second photo is turned")
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--format", default="JPEG", choices=["JPEG", "PNG"])
    parser.add_argument("--encoder", default="res6")
    parser.add_argument("--crop", type=int, default=224, help="px that the encoder sees")
    parser.add_argument("--patches", action="store_true", help="embed each patch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        to_plain(build_encoder(encoder_config(options.encoder, options.crop))).save_pretrained(folder / "model")
        Preprocessing(options.crop * 8 // 7, options.crop).write(folder / "model")
        make_photos(folder, options)
        embed = [sys.executable, "-m", "sslzoo.cli", "embed", folder / "model", folder / "photos", *["--patches"] * options.patches]
        began = time.perf_counter()
        subprocess.run([*embed, "--output", folder / "features.parquet"], check=True)
        seconds = time.perf_counter() - began
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    photos = f"{options.photos} photos of {options.width}x{options.height} px, {options.format}"
    print(f"{photos}: {most / 2**20:,.0f} MiB at most, {seconds:.0f} s")


def make_photos(folder: Path, options: argparse.Namespace) -> None:
    """Writes two photos, to which all the files lead."""
    (folder / "photos").mkdir()
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (75, 100, 3), np.uint8))
    photo = noise.resize((options.width, options.height), Image.Resampling.BICUBIC)
    for number, one in enumerate((photo, photo.transpose(Image.Transpose.ROTATE_90))):
        stream = io.BytesIO()
        one.save(stream, options.format)
        (folder / str(number)).write_bytes(stream.getvalue())
    for index in range(options.photos):
        os.link(folder / str(index % 2), folder / "photos" / f"{index:06}.{'jpg' if options.format == 'JPEG' else 'png'}")


if __name__ == "__main__":
    main()
