"""A complete run on built-in data: train, evaluate, write the card, load the result with plain transformers. `make quickstart`."""

import logging
import time
from pathlib import Path

import datasets
import torch
import transformers
from PIL import Image

from sslzoo.data import ImageSet, load_images
from sslzoo.evaluation import KNN_PROTOCOLS, Preprocessing, extract, knn_accuracy
from sslzoo.hub import write_card
from sslzoo.recipe import Recipe, read_recipe
from sslzoo.training import train


def main() -> None:
    logging.basicConfig(format="%(message)s")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    recipe = read_recipe("digits/simclr")
    folder = Path("runs") / recipe.name
    started = time.perf_counter()
    print(f"Training {recipe.method} with encoder {recipe.encoder} on {recipe.dataset}, {recipe.epochs} epochs, into {folder} ...")
    run = train(recipe, folder, resume=True, cpu=True)
    trained = next(
        number["value"] for number in run.results()["numbers"]
        if (number["metric"], number["when"], number["arguments"]["k"], number["arguments"]["temperature"]) == ("knn_top1", "last", 20, 0.1)
    )  # fmt: skip
    bank, queries = (load_images(recipe.dataset, split, device=torch.device("cpu")) for split in ("train", "test"))
    print(f"\nkNN accuracy on {len(queries)} test images (k = 20, temperature 0.1):")
    print(f"  raw pixels         {100 * accuracy(pixels(bank), bank, pixels(queries), queries):5.1f} %")
    print(f"  untrained encoder  {100 * untrained(recipe, bank, queries):5.1f} %")
    print(f"  trained encoder    {100 * trained:5.1f} %")
    card = write_card(folder)

    model = transformers.AutoModel.from_pretrained(folder)
    pipe = transformers.pipeline("image-feature-extraction", model=str(folder), pool=True)
    width = torch.tensor(pipe(Image.new("RGB", (16, 16)))).numel()
    print(f"\ntransformers.AutoModel loads it as {type(model).__name__}; its pipeline gives {width} features an image.")
    print(f"\nThe run folder is also the Hub repository: {folder}")
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            print(f"  {file.name:32} {file.stat().st_size:>9,} bytes")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. The card is {card}. Next:")
    print("  .venv/bin/sslzoo list                                   the recipes")
    print("  .venv/bin/sslzoo train digits/dino                      another method")
    print("  .venv/bin/sslzoo train cifar10/simclr --set dataset=DATA   DATA: a Hub id, a folder of images or a Parquet file")
    print(f"  .venv/bin/sslzoo evaluate {folder}")
    print(f"  .venv/bin/sslzoo publish {folder} --to YOUR_NAME        to the Hub")


def pixels(images: ImageSet) -> torch.Tensor:
    """Raw pixels as features."""
    (batch,) = images.batches([torch.arange(len(images))])
    return batch.pixels.flatten(1).float()


def untrained(recipe: Recipe, bank: ImageSet, queries: ImageSet) -> float:
    """kNN accuracy of the untrained encoder."""
    torch.manual_seed(recipe.seed)
    encoder = recipe.make_method().encoder
    preprocessing = Preprocessing(recipe.eval_resize, recipe.eval_crop)
    return accuracy(extract(encoder, bank, preprocessing)[0], bank, extract(encoder, queries, preprocessing)[0], queries)


def accuracy(bank: torch.Tensor, bank_images: ImageSet, queries: torch.Tensor, query_images: ImageSet) -> float:
    """kNN top-1 at k = 20, temperature 0.1."""
    accuracies = knn_accuracy(bank, bank_images.labels, queries, query_images.labels, KNN_PROTOCOLS["knn-instdisc-v2"])
    return accuracies["top1", 20, 0.1]


if __name__ == "__main__":
    main()
