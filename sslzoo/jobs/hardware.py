"""The hardware of Hugging Face Jobs with its price, and how long a recipe takes there, where that has been measured."""

import re
from typing import NamedTuple

from huggingface_hub import HfApi, JobHardwareInfo

from sslzoo.errors import InputError, PublishError, unknown
from sslzoo.hub import card_models, read_entries
from sslzoo.hub.entry import Entry
from sslzoo.recipe import Recipe

from .access import request

_UNITS_AN_HOUR = {"second": 3600, "minute": 60, "hour": 1}


class Work(NamedTuple):
    """What a recipe trains: images an epoch, None where the Hub does not say, and epochs."""

    images: int | None
    epochs: int

    def __str__(self) -> str:
        if self.images is None:
            return f"{self.epochs} epochs of a data set whose card does not say how many images it has"
        return f"{self.epochs} epochs of {self.images:,} images, {self.images * self.epochs:,} in all"


def find_hardware(api: HfApi, flavor: str) -> JobHardwareInfo:
    """The flavor in the Hub's list. Raises `InputError` for an unknown one, and for one with several GPUs."""
    offered = {hardware.name: hardware for hardware in request("read the Hub's list of hardware", api.list_jobs_hardware)}
    if flavor not in offered:
        raise unknown("hardware of Hugging Face Jobs", flavor, offered)
    accelerator = offered[flavor].accelerator
    if accelerator is not None and str(accelerator.quantity) != "1":
        raise InputError(f"{flavor} has {accelerator.quantity} accelerators, and a job trains on one: take a flavor with one")
    return offered[flavor]


def price_per_hour(hardware: JobHardwareInfo) -> float:
    """US dollars. Raises `PublishError` where the Hub counts in units that this version does not know."""
    if hardware.unit_label not in _UNITS_AN_HOUR:
        raise PublishError(f"the Hub prices {hardware.name} by the {hardware.unit_label}, which this version of sslzoo does not know")
    return hardware.unit_cost_usd * _UNITS_AN_HOUR[hardware.unit_label]


def describe(hardware: JobHardwareInfo) -> str:
    """ "a10g-small: Nvidia A10G - small, 4 vCPU, 15 GB of memory, 24 GB on the GPU" """
    gpu = f", {hardware.accelerator.vram} on the GPU" if hardware.accelerator else ""
    return f"{hardware.name}: {hardware.pretty_name}, {hardware.cpu}, {hardware.ram} of memory{gpu}"


def estimate(recipe: Recipe, work: Work, hardware: JobHardwareInfo, price: float) -> str:
    """Hours and dollars from the speed that a card of sslzoo states for this training on this GPU; else what is known, and no guess."""
    if work.images is None:
        return "unknown, as the number of images is; the job's log says how much time is left"
    images = work.images * work.epochs
    model = hardware.accelerator.model if hardware.accelerator else None  # flavors do not say which CPU they have
    measured = _measured(recipe, model) if model else None
    if measured is None:
        return (
            f"unknown: no card of sslzoo says how fast {recipe.method} with {recipe.encoder_name} at {recipe.image_size} px is on "
            f"{model or 'these CPUs'}. At 1,000 images/s it would be {images / 1000 / 3600:.2g} h; the job's log says how much time is left"
        )
    hours = images / _speed(measured) / 3600
    return f"{hours:.1f}, so ${hours * price:.2f}, at the {_speed(measured):,.0f} images/s of {measured.name} on {measured.hardware}"


def _measured(recipe: Recipe, gpu: str) -> Entry | None:
    """The slowest of the same trainings on such a GPU that a card of sslzoo describes."""
    training = recipe.method, recipe.encoder_name, recipe.image_size, recipe.batch_size, 1
    same = [
        entry
        for entry in read_entries(card_models())[0]
        if (entry.method, entry.encoder, entry.image_size, entry.batch_size, entry.processes) == training
        and gpu in re.split(r"\W", entry.hardware)
    ]
    return min(same, key=_speed, default=None)


def _speed(entry: Entry) -> float:
    """Images a second over the entire run, with its evaluations."""
    return entry.images * entry.epochs / entry.seconds
