"""Fine-tunes an encoder as a plain transformers image classifier.

    python recipes/finetune_classifier.py runs/simclr-res6-digits digits runs/digits-classifier

Works for every architecture that AutoModelForImageClassification supports: ResNet, ViT, DINOv2, ConvNeXt and so on.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoModelForImageClassification, PreTrainedModel, get_cosine_schedule_with_warmup, logging

from sslzoo.data import load_images, without_broken
from sslzoo.encoders import model_folder
from sslzoo.evaluation import Data, Preprocessing, make_data, required_resolution


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run folder or Hub id")
    parser.add_argument("data", help="a labelled data set, as `sslzoo train` takes it")
    parser.add_argument("output", type=Path, help="the folder for the classifier")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64, help="per device")
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()  # hides the warning that the head is newly initialised
    set_seed(0)

    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    folder = model_folder(options.model)
    preprocessing = Preprocessing.read(folder)
    resolution = required_resolution(preprocessing)
    train, test = (
        load_images(options.data, split, channels=preprocessing.channels, resolution=resolution, device=accelerator.device)
        for split in ("train", options.test_split)
    )
    data = make_data(train, test, preprocessing)
    train = without_broken(data.train)
    names = train.label_names or [str(label) for label in range(data.classes.count)]
    model = AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32, id2label=dict(enumerate(names)), label2id={name: label for label, name in enumerate(names)}
    )
    model.config.__dict__.pop("sslzoo", None)  # the encoder is no longer the method's
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    model, optimizer = accelerator.prepare(model, optimizer)
    images_per_process = len(train) // accelerator.num_processes
    steps = options.epochs * -(-images_per_process // options.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    accelerator.print(f"accuracy with a fresh head: {100 * accuracy(model, data):.1f} %")

    for epoch in range(options.epochs):
        # The same order in all processes, each of which takes its share.
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        own = order[accelerator.process_index :: accelerator.num_processes][:images_per_process]
        model.train()
        for batch in train.batches(own.split(options.batch_size)):
            loss = model(pixel_values=preprocessing(batch.pixels, batch.sizes), labels=batch.labels).loss
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}, accuracy {100 * accuracy(model, data):.1f} %")

    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(options.output)
        preprocessing.write(options.output)
        print(f'transformers.pipeline("image-classification", model="{options.output}") loads it')


@torch.no_grad()
def accuracy(model: PreTrainedModel, data: Data) -> float:
    """Top-1 accuracy on the test images."""
    model.eval()
    correct = count = 0
    for _, batch in data.test.read(torch.arange(len(data.test)), 256):
        predictions = model(pixel_values=data.preprocessing(batch.pixels, batch.sizes)).logits.argmax(dim=1).cpu()
        correct += (predictions == data.classes.of_test[batch.labels.cpu()]).sum().item()
        count += len(predictions)
    return correct / count


if __name__ == "__main__":
    main()
