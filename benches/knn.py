"""The nearest-neighbour evaluation beside its bare matrix product, and beside the loop over batches that is usual in the field.

python benches/knn.py            2,000 queries: about a minute on one core
python benches/knn.py --whole    10,000 queries, as many as CIFAR-10 has
python benches/knn.py --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sslzoo.evaluation import KNN_PROTOCOLS, knn_accuracy

CLASSES = 10
CHUNK = 1024  # queries, as in `nearest`
BATCH = 512  # images


def problem(count: int, rows: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of the bank and of the queries, so noisy that about half of the queries err."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, width, generator=generator)
    parts = []
    for size in (rows, count):
        labels = torch.randint(CLASSES, (size,), generator=generator)
        parts += [(centres[labels] + 11 * torch.randn(size, width, generator=generator)).to(device), labels.to(device)]
    return tuple(parts)


def product(bank: Tensor, queries: Tensor) -> None:
    """The cosines, which are not kept."""
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    cosines = bank.new_empty(min(CHUNK, len(queries)), len(bank))
    for part in queries.split(CHUNK):
        torch.mm(part, bank.T, out=cosines[: len(part)])


def loop(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int, temperature: float) -> float:
    """Batch by batch, with the votes as a one-hot tensor; the whole for one k and temperature."""
    bank, right = F.normalize(bank, dim=1), 0
    for batch, true in zip(queries.split(BATCH), labels.split(BATCH), strict=True):
        cosines, rows = (F.normalize(batch, dim=1) @ bank.T).topk(k, dim=1)
        one_hot = torch.zeros(len(batch) * k, CLASSES, device=bank.device).scatter(1, bank_labels[rows].view(-1, 1), 1)
        votes = one_hot.view(len(batch), k, CLASSES) * (cosines / temperature).exp()[:, :, None]
        right += int((votes.sum(dim=1).argsort(dim=1, descending=True)[:, 0] == true).sum())
    return right / len(queries)


def seconds(run: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    run()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--rows", type=int, default=50000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("highest")  # all three in float32, as `knn_accuracy` is in any case
    protocol = KNN_PROTOCOLS["knn-instdisc-v2"]
    bank, bank_labels, queries, labels = problem(10000 if options.whole else 2000, options.rows, options.width, options.device)
    found: dict[str, dict] = {"sslzoo": {}, "loop": {}}

    def ours() -> None:
        found["sslzoo"] = knn_accuracy(bank, bank_labels, queries, labels, protocol)

    def loops() -> None:
        settings = [(k, temperature) for k in protocol.k for temperature in protocol.temperature]
        found["loop"] = {("top1", *setting): loop(bank, bank_labels, queries, labels, *setting) for setting in settings}

    runs = {"matrix product": lambda: product(bank, queries), "sslzoo": ours, "loop": loops}
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):  # in turn, so that a slow moment of the machine meets all of them
        for name, run in runs.items():
            times[name].append(seconds(run, options.device))
    print(f"{len(queries)} queries, {len(bank)} rows of {options.width}, k {protocol.k}, temperature {protocol.temperature}")
    print(f"{'':16} {'seconds':>8} {'to the product':>15}")
    for name, each in times.items():
        ratio = statistics.median(one / other for one, other in zip(each, times["matrix product"], strict=True))
        print(f"{name:16} {statistics.median(each):8.3f} {ratio:14.2f}x")
    for setting, value in found["loop"].items():
        assert found["sslzoo"][setting] == value, (setting, found["sslzoo"][setting], value)
    print("top-1 of all settings is the same:", ", ".join(f"{100 * value:.2f} %" for value in found["loop"].values()))


if __name__ == "__main__":
    main()
