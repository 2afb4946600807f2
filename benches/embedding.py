"""How many images a CPU embeds at once: batches of 256 against those that `extract` takes on its own, in turn.

    python benches/embedding.py [res6:32 res18:32 res50:96 vit-xs4:32 vit-s16:224] [--images 512] [--rounds 3]

CPU time of one thread, and the system's part of it, which is memory that is given back and taken anew. Read the ratios.
"""

import argparse
import os
import statistics

import torch

from sslzoo.data import Subset, load_images
from sslzoo.encoders import build_encoder, encoder_config
from sslzoo.evaluation import Preprocessing, extract
from sslzoo.memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", default=["res6:32", "res18:32", "res50:96", "vit-xs4:32", "vit-s16:224"], help="and px")
    parser.add_argument("--images", type=int, default=512, help="of the embedded digits, enlarged")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every command does
    images = Subset(load_images("digits", "train", device="cpu"), torch.arange(arguments.images))
    for encoder in arguments.encoders:
        name, side = encoder.split(":")
        network, preprocessing = build_encoder(encoder_config(name, int(side))), Preprocessing(int(side), int(side))
        seconds = {256: [], None: []}
        for _ in range(arguments.rounds):
            for batch_size, found in seconds.items():
                user, system = os.times()[:2]
                extract(network, images, preprocessing, batch_size)
                found.append((os.times()[0] - user, os.times()[1] - system))
        ratios = [sum(large) / sum(own) for large, own in zip(*seconds.values(), strict=True)]
        (_, large), (_, own) = (tuple(map(statistics.median, zip(*found, strict=True))) for found in seconds.values())
        print(
            f"{name} {side} px: {statistics.median(ratios):.2f}x as fast as in batches of 256 ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"the system takes {own:.2f} instead of {large:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
