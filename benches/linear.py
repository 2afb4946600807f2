"""The fast linear protocol: what training the grid together saves, and how near it comes to the exact protocol.

python benches/linear.py                                             seconds on one core: made features
python benches/linear.py --encoder RUN --data ../shared/data/cifar10     minutes: both protocols on the first images of a data set

RUN: a run folder. DATA: a folder with train-*.parquet and test*.parquet.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import torch
from accelerate import Accelerator
from torch import Tensor

from sslzoo.data import load_images
from sslzoo.encoders import load_pretrained
from sslzoo.evaluation import PROTOCOLS, Preprocessing, make_data, quiet_session
from sslzoo.evaluation.linear_features import FEATURE_PROTOCOLS, FeatureLinearProtocol, Setting

FAST = "linear-features-v1"


def made(images: int, width: int, classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Features of classes that overlap, and labels."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    return (0.2 * centres[labels] + torch.randn(images, width, generator=generator)).to(device), labels.to(device)


def right(protocol: FeatureLinearProtocol, features: Tensor, labels: Tensor, classes: int, settings: list[Setting]) -> Tensor:
    """How many of the last tenth of the images each setting's classifier, trained on the others, is right on."""
    rows = torch.arange(len(features) * 9 // 10)
    classifiers = protocol.fit(features, labels, rows, classes, settings, torch.Generator().manual_seed(0))
    answers = classifiers.logits(features[len(rows) :]).argmax(dim=2)
    return (answers == labels[len(rows) :, None]).sum(dim=0)


def grid(options: argparse.Namespace) -> None:
    protocol = dataclasses.replace(FEATURE_PROTOCOLS[FAST], epochs=options.epochs)
    features, labels = made(options.images, options.width, options.classes, options.device)
    settings = protocol.settings
    ways = {
        "one setting": lambda: right(protocol, features, labels, options.classes, settings[:1]),
        "one after the other": lambda: torch.cat([right(protocol, features, labels, options.classes, [one]) for one in settings]),
        "together": lambda: right(protocol, features, labels, options.classes, settings),
    }
    found, seconds = {}, {name: [] for name in ways}
    for _ in range(options.rounds):  # in turn, so that a slow moment of the machine meets all of them
        for name, run in ways.items():
            began = time.perf_counter()
            found[name] = run().tolist()
            seconds[name].append(time.perf_counter() - began)
    # Rounding may turn an image over that lies on the border of two classes.
    apart = max(abs(one - other) for one, other in zip(found["together"], found["one after the other"], strict=True))
    held = options.images - options.images * 9 // 10
    assert apart <= 1 + held // 500, f"{apart} of {held} images apart"
    print(f"{len(settings)} settings, {options.images} x {options.width} features, {options.classes} classes, {options.epochs} epochs")
    for name, times in seconds.items():
        ratio = statistics.median(other / one for one, other in zip(seconds["together"], times, strict=True))
        print(f"{name:22} {statistics.median(times):8.2f} s {ratio:6.2f}x of together")
    print(f"accuracies of a setting on {held} images held out: at most {apart} images apart")


def first_images(source: Path, split: str, count: int, folder: Path) -> None:
    tables, missing = [], count
    for file in sorted(source.glob(f"{split}*.parquet")):
        tables.append(parquet.read_table(file).slice(0, missing))
        missing -= len(tables[-1])
    parquet.write_table(arrow.concat_tables(tables), folder / f"{split}.parquet")


def agreement(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    encoder, preprocessing = load_pretrained(options.encoder).to(device), Preprocessing.read(options.encoder)
    exact = dataclasses.replace(PROTOCOLS[options.exact], epochs=options.exact_epochs or PROTOCOLS[options.exact].epochs)
    if options.whole_images:
        exact = dataclasses.replace(exact, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        for split, count in (("train", options.train_images), ("test", options.test_images)):
            first_images(options.data, split, count, Path(folder))
        data = make_data(*(load_images(folder, split, device=device) for split in ("train", "test")), preprocessing)
        values = {}
        for name, protocol in ((FAST, FEATURE_PROTOCOLS[FAST]), (options.exact, exact)):
            began = time.perf_counter()
            measured = protocol.measure(encoder, data, quiet_session(Accelerator(cpu=device.type == "cpu"), options.seed))
            top1 = next(one for one in measured if one.metric == "linear_top1")
            values[name] = top1.value
            print(f"{name:20} {100 * top1.value:6.2f} % in {time.perf_counter() - began:6.1f} s  {top1.arguments}", flush=True)
    apart = 100 * (values[FAST] - values[options.exact])
    print(f"{exact.epochs} exact epochs, {len(data.train)} / {len(data.test)} images: {apart:+.2f} points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", type=Path, help="a run folder, whose encoder both protocols measure")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--exact", default="linear-simclr-v1", choices=["linear-simclr-v1", "linear-mae-v1"])
    parser.add_argument("--whole-images", action="store_true", help="the exact protocol without its crops, on what the fast one sees")
    parser.add_argument("--exact-epochs", type=int, help="instead of those of the exact protocol")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.encoder is None:
        grid(options)
    else:
        agreement(options)


if __name__ == "__main__":
    main()
