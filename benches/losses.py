"""The cheap forms of what a step computes beside the naive ones: how much faster or smaller, and how far apart their results are.

python benches/losses.py              minutes on one core
python benches/losses.py --large      with 8192 outputs too: naive forms of about 20 s and 3 GB
python benches/losses.py --device cuda
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslzoo.encoders import build_encoder, encoder_config
from sslzoo.memory import peak_memory
from sslzoo.optim import LARS
from sslzoo.parts.ema import ema_update
from sslzoo.parts.gram import off_diagonal_squares
from sslzoo.parts.nt_xent import nt_xent
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.parts.variance_covariance import vicreg_terms

Result = list[Tensor]  # what both forms must agree on
Pair = tuple[Callable[[], Result], Callable[[], Result]]  # naive and cheap


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    invariance, variance, covariance = vicreg_terms(first, second)
    return 25 * invariance + 25 * variance + 2 * covariance


def vicreg_naive(first: Tensor, second: Tensor) -> Tensor:
    """Covariances as a matrix, of which a mask takes what is off the diagonal."""
    total = 25 * (first - second).square().mean()
    for rows in (first, second):
        centred = rows - rows.mean(dim=0)
        deviations = (centred.var(dim=0) + 1e-4).sqrt()
        covariance = centred.T @ centred / (len(rows) - 1)
        mask = ~torch.eye(len(covariance), dtype=torch.bool, device=rows.device)
        total = total + 12.5 * torch.relu(1 - deviations).mean() + covariance[mask].square().sum() / len(covariance)
    return total


def barlow(first: Tensor, second: Tensor) -> Tensor:
    first, second = (F.batch_norm(rows, None, None, training=True) / len(rows) ** 0.5 for rows in (first, second))
    return (1 - (first * second).sum(dim=0)).square().sum() + 0.005 * off_diagonal_squares(first, second)


def barlow_naive(first: Tensor, second: Tensor) -> Tensor:
    """Correlations as a matrix, the difference to the identity weighted off the diagonal."""
    first, second = (F.batch_norm(rows, None, None, training=True) for rows in (first, second))
    correlation = first.T @ second / len(first)
    identity = torch.eye(len(correlation), device=first.device)
    squares = (correlation - identity).square()
    return torch.where(identity > 0, squares, 0.005 * squares).sum()


def contrast(first: Tensor, second: Tensor) -> Tensor:
    return nt_xent(first, second, 0.1)


def contrast_naive(first: Tensor, second: Tensor) -> Tensor:
    """Row by row."""
    rows = F.normalize(torch.cat((first, second)), dim=1)
    total, count = 0, len(first)
    for index, row in enumerate(rows):
        others = torch.cat((rows[:index], rows[index + 1 :]))
        cosines = others @ row / 0.1
        total = total - (row @ rows[(index + count) % len(rows)] / 0.1) + cosines.logsumexp(dim=0)
    return total / len(rows)


def losses(naive: Callable, cheap: Callable, count: int, width: int, device: str) -> Pair:
    """Each on the same rows: the loss, and its gradients."""
    torch.manual_seed(0)
    pair = [torch.randn(count, width, device=device, requires_grad=True) for _ in range(2)]
    with torch.no_grad():
        pair[1].add_(pair[0])

    def run(loss: Callable) -> Result:
        return list(torch.autograd.grad(loss(*pair), pair))

    return (lambda: run(naive)), (lambda: run(cheap))


def swapped_prediction(images: int, prototypes: int, device: str) -> Pair:
    """DINO's loss of 2 + 6 views, from bottlenecks of 256 and the teacher's probabilities: its gradients."""
    torch.manual_seed(0)
    views = [F.normalize(torch.randn(images, 256, device=device), dim=1).requires_grad_() for _ in range(8)]
    directions = F.normalize(torch.randn(prototypes, 256, device=device), dim=1).requires_grad_()
    targets = torch.randn(images, 2, prototypes, device=device).softmax(dim=2)

    def naive() -> Result:
        """Logits and log-probabilities of all views."""
        global_logits, local_logits = (torch.cat(part) @ directions.T for part in (views[:2], views[2:]))
        log_probs = [(logits / 0.1).log_softmax(dim=1) for logits in (*global_logits.chunk(2), *local_logits.chunk(6))]
        all_pairs = targets.sum(dim=1) * torch.stack(log_probs).sum(dim=0)
        same_view = sum(targets[:, view] * log_probs[view] for view in range(2))
        return list(torch.autograd.grad(-(all_pairs - same_view).sum(dim=1).mean() / 14, [*views, directions]))

    def cheap() -> Result:
        loss = swapped_cross_entropy(targets, torch.stack(views, dim=1), lambda rows: rows @ directions.T / 0.1)
        return list(torch.autograd.grad(loss, [*views, directions]))

    return naive, cheap


def moving_average(encoder: str, device: str) -> Pair:
    student = build_encoder(encoder_config(encoder, 224)).to(device)
    teachers = [copy.deepcopy(student).requires_grad_(False) for _ in range(2)]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))

    @torch.no_grad()
    def naive() -> Result:
        for target, source in zip(teachers[0].parameters(), student.parameters(), strict=True):
            target.copy_(0.99 * target + 0.01 * source)
        return list(teachers[0].parameters())

    def cheap() -> Result:
        ema_update(teachers[1], student, 0.99)
        return list(teachers[1].parameters())

    return naive, cheap


class LoopLARS(torch.optim.Optimizer):
    """Tensor by tensor, and what is adapted is asked of the device."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                update, decay = parameter.grad, group["weight_decay"]
                size, slope = parameter.norm(), update.norm()
                if decay and size > 0 and slope > 0:
                    update = (update + decay * parameter) * (0.001 * size / (slope + decay * size + 1e-8))
                state = self.state[parameter]
                past = state.get("momentum_buffer")
                state["momentum_buffer"] = update.clone() if past is None else 0.9 * past + update
                parameter.sub_(group["lr"] * state["momentum_buffer"])


def lars(encoder: str, device: str) -> Pair:
    model = build_encoder(encoder_config(encoder, 224)).to(device)
    models: list[nn.Module] = [model, copy.deepcopy(model)]
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        gradient = torch.randn_like(parameters[0])
        for parameter in parameters:
            parameter.grad = gradient
    values = {"lr": 0.1, "weight_decay": 1e-4}
    optimizers = [LoopLARS(models[0].parameters(), values), LARS(models[1].parameters(), momentum=0.9, **values)]

    def stepper(index: int) -> Callable[[], Result]:
        def run() -> Result:
            optimizers[index].step()
            return [state["momentum_buffer"] for state in optimizers[index].state.values()]

        return run

    return stepper(0), stepper(1)


def memory_of(run: Callable[[], Result], device: torch.device) -> float:
    """The bytes that running it takes at most, beside what is there already; NaN where only the peak since the process began is known.

    On a CPU of tensors above 32 MiB: of smaller ones malloc keeps the memory, which then counts as there already.
    """
    reset = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif reset.exists():
        reset.write_text("5")  # the peak is what is in use now
    else:
        return float("nan")
    before = peak_memory(device)
    run()
    return peak_memory(device) - before


def apart(found: Result, expected: Result) -> float:
    """The largest relative difference of two tensors."""
    return max(
        float((one - other).detach().norm() / other.detach().norm().clamp(min=1e-12)) for one, other in zip(found, expected, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prototypes", type=int, default=65536, help="DINO's")
    parser.add_argument("--encoder", default="res50", help="whose weights EMA and LARS move")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = options.device
    pairs: dict[str, Pair] = {}
    for width in (2048, 8192) if options.large else (2048,):
        pairs[f"VICReg 256 x {width}"] = losses(vicreg_naive, vicreg, 256, width, device)
        pairs[f"Barlow Twins 256 x {width}"] = losses(barlow_naive, barlow, 256, width, device)
    pairs["NT-Xent 256 x 128"] = losses(contrast_naive, contrast, 256, 128, device)
    swapped = f"DINO 128 x {options.prototypes}"
    pairs[swapped] = swapped_prediction(128, options.prototypes, device)
    pairs[f"EMA {options.encoder}"] = moving_average(options.encoder, device)
    pairs[f"LARS {options.encoder}"] = lars(options.encoder, device)
    differences = {name: apart(cheap(), naive()) for name, (naive, cheap) in pairs.items()}
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for _ in range(options.rounds):  # in turn, so that a slow moment of the machine meets all of them
        for name, pair in pairs.items():
            for run, times in zip(pair, seconds[name], strict=True):
                began = time.perf_counter()
                run()
                if device != "cpu":
                    torch.accelerator.synchronize()
                times.append(time.perf_counter() - began)
    print(f"{'':26} {'naive ms':>10} {'cheap ms':>10} {'ratio':>7}  gradients, weights or momenta apart")
    for name, both in seconds.items():
        naive, cheap = (1000 * statistics.median(times) for times in both)
        ratio = statistics.median(one / other for one, other in zip(*both, strict=True))
        print(f"{name:26} {naive:10.2f} {cheap:10.2f} {ratio:6.1f}x  {differences[name]:.1e}")
    most = [[memory_of(run, torch.device(device)) / 2**20 for run in pairs[swapped]] for _ in range(options.rounds)]
    naive, cheap = map(statistics.median, zip(*most, strict=True))
    ratio = statistics.median(one / other for one, other in most)
    print(f"{'peak memory':26} {'naive MiB':>10} {'cheap MiB':>10} {'ratio':>7}")
    print(f"{swapped:26} {naive:10.0f} {cheap:10.0f} {ratio:6.1f}x")


if __name__ == "__main__":
    main()
