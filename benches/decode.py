"""How fast image files are decoded, next to Pillow, and what a second thread gains.

    python benches/decode.py [500x375 4000x3000] [--format jpeg] [--data FILE.parquet] [--threads 1 2] [--rounds 9]
    python benches/decode.py 500x375 --batches

Made photos of the named sizes, and the first JPEG images of a Parquet file, each at full size; `sslzoo` is `decode` as training calls it.
Both take turns in one process. CPU time counts all threads, so that what else the machine does falls on both alike: read the ratios,
images/s over Pillow's of the same round. Wall time shows what the interpreter's lock leaves of a second thread, if nothing else runs.

--batches: epochs of batches as training gets them, from a streamed data set with as many threads, next to a torch DataLoader that decodes
with Pillow in as many processes. Both give batches of uint8 at full size. CPU time is that of all processes; theirs to start counts too.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as arrow
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sslzoo.data import streamed
from sslzoo.data.broken import BrokenImages
from sslzoo.data.decode import decode
from sslzoo.data.pixel_format import RGB8
from sslzoo.data.rows import TableRows

_WINDOW = 0.5  # seconds that one decoder runs before the next one's turn
_FILES = 48  # of a Parquet file
_BATCH = 32  # images
_BATCHES = 16  # an epoch
_MOST_AT_A_TIME, _PIXELS_AT_A_TIME = 64, 2**18
_FORMATS = {"jpeg": {"quality": 90}, "png": {}, "webp": {"lossless": True}}


def with_pillow(encoded: bytes) -> np.ndarray:
    """The image as uint8 (height, width, 3), as data loaders decode it."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def with_sslzoo(encoded: bytes) -> np.ndarray:
    return decode(encoded, None)


_DECODERS = {"Pillow": with_pillow, "sslzoo": with_sslzoo}


def made_photo(width: int, height: int, kind: str) -> bytes:
    """A file with shapes of three sizes and a little noise, as JPEG about as large as a photo's. kind: as `_FORMATS` names them."""
    random = np.random.RandomState(0)
    photo = random.normal(0, 4, (height, width, 3)).astype(np.float32)
    for cells, strength in ((4, 0.5), (16, 0.25), (64, 0.15)):
        coarse = Image.fromarray(random.randint(0, 256, (cells, cells, 3), np.uint8))
        photo += strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(stream, kind, **_FORMATS[kind])
    return stream.getvalue()


def stored_photos(file: str) -> list[bytes]:
    """The first JPEG files in the column `image` of a Parquet file."""
    import pyarrow.parquet as parquet

    column = parquet.read_table(file, columns=["image"]).column("image")
    files = (row["bytes"].as_py() for row in column)
    found = [encoded for encoded in files if encoded[:2] == b"\xff\xd8"][:_FILES]
    if not found:
        raise SystemExit(f"{file} has no JPEG images")
    return found


def measure(files: list[bytes], threads: int, rounds: int) -> None:
    """Prints images/s of each decoder, by CPU and by wall, and the ratios to Pillow. A thread decodes several small images at a time."""
    speeds = {name: [] for name in _DECODERS}
    block = max(1, min(_MOST_AT_A_TIME, _PIXELS_AT_A_TIME // with_pillow(files[0])[..., 0].size))
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            for name, decoder in _DECODERS.items():
                wall, cpu, images = time.perf_counter(), time.process_time(), 0
                while time.perf_counter() - wall < _WINDOW:
                    some = [[files[(images + offset) % len(files)] for offset in range(block)] for _ in range(4 * threads)]
                    images += sum(pool.map(lambda part, decoder=decoder: len([decoder(file) for file in part]), some))
                speeds[name].append((images / (time.process_time() - cpu), images / (time.perf_counter() - wall)))
    print_speeds(speeds, f"{threads} thread{'s' if threads > 1 else ' '}")


class PillowImages(Sequence):
    """A data set of a DataLoader's kind."""

    def __init__(self, files: list[bytes]):
        self.files = files

    def __len__(self) -> int:
        return _BATCH * _BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(with_pillow(self.files[index % len(self.files)]).copy()).permute(2, 0, 1)


def measure_batches(files: list[bytes], workers: int, rounds: int) -> None:
    """Prints images/s of whole epochs of batches, by CPU and by wall."""
    rows = TableRows(arrow.chunked_array([[files[index % len(files)] for index in range(_BATCH * _BATCHES)]]))
    broken = BrokenImages("bench", "train", len(rows), 0.0)
    images = streamed.StreamedImages("bench", "train", None, "", rows, None, RGB8, None, None, broken, workers, torch.device("cpu"))
    loader = DataLoader(PillowImages(files), _BATCH, num_workers=workers)
    order = torch.arange(len(rows)).split(_BATCH)
    makers: dict[str, Callable[[], Iterable]] = {"DataLoader": lambda: loader, "sslzoo": lambda: images.batches(order)}
    speeds = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            wall, cpu = time.perf_counter(), sum(os.times()[:4])
            assert sum(1 for _ in make()) == _BATCHES
            speeds[name].append((len(rows) / (sum(os.times()[:4]) - cpu), len(rows) / (time.perf_counter() - wall)))
    print_speeds(speeds, f"{workers} at once")


def print_speeds(speeds: dict[str, list[tuple[float, float]]], how: str) -> None:
    """Images/s by CPU and by wall of each, and the ratios to the first one."""
    first = next(iter(speeds))
    for name, found in speeds.items():
        line = f"  {how}  {name:10}"
        for kind, index in (("CPU s", 0), ("second", 1)):
            ratios = [one[index] / other[index] for one, other in zip(found, speeds[first], strict=True)]
            line += f"{statistics.median(one[index] for one in found):>9.1f} images/{kind}, {statistics.median(ratios):.2f} x {first}"
            line += f" ({min(ratios):.2f} - {max(ratios):.2f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["500x375", "4000x3000"], help="px, width x height")
    parser.add_argument("--format", choices=list(_FORMATS), default="jpeg", help="of the made photos")
    parser.add_argument("--data", nargs="*", default=[], help="Parquet files")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", action="store_true", help="whole batches, next to a DataLoader")
    arguments = parser.parse_args()
    rows = {size: [made_photo(*map(int, size.split("x")), arguments.format)] for size in arguments.sizes}
    rows |= {file: stored_photos(file) for file in arguments.data}
    for name, files in rows.items():
        assert all(np.array_equal(with_pillow(encoded), with_sslzoo(encoded)) for encoded in files), "the pixels differ from Pillow's"
        print(f"{name}: {sum(map(len, files)) / len(files) / 1024:,.0f} KiB a file", flush=True)
        for threads in arguments.threads:
            (measure_batches if arguments.batches else measure)(files, threads, arguments.rounds)


if __name__ == "__main__":
    main()
