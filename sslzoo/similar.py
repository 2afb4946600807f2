"""Similar images by an encoder's features: the nearest neighbours of one image, or near duplicates among all images of a folder."""

import csv
import io
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.contact_sheet import Cell, draw_contact_sheet, thumbnail
from sslzoo.data import ImageSet
from sslzoo.data.bands import decode_bands, read_header
from sslzoo.data.decode import BrokenImage
from sslzoo.data.memory import PixelSemaphore
from sslzoo.data.names import utf8_path
from sslzoo.data.pixel_format import PixelFormat, UnfitImage
from sslzoo.data.visible import visible
from sslzoo.encoders import features
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, features_origin, nearest, read_origin, required_resolution
from sslzoo.files import atomic_write_text
from sslzoo.inference import load_for_features, write_with_progress

FEATURES, PAIRS, SHEET = "features.parquet", "pairs.csv", "pairs.png"
_DIGITS = 4  # of cosines: further ones depend on the machine, and the order must not
_SAMPLE = 1000  # images whose cosines say how similar any two of them are
_MOST_GROUPS, _MOST_IN_GROUP = 24, 32  # that the contact sheet shows
_log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """Two images, by name (see `ImageSet.name`), and the cosine similarity of their features."""

    image: str
    similar: str
    cosine: float


class Similarities(NamedTuple):
    """What `similar` found. pairs: the most similar first. about: what they are, in one line."""

    pairs: list[Pair]
    about: str


class _Image(NamedTuple):
    """One image: (height, width, channels), its name, and its position in the data set if it is in there."""

    pixels: np.ndarray
    name: str
    position: int | None


def similar(
    name: str, source: str, output: Path, *, image: str | None = None, k: int = 10, threshold: float = 0.95, split: str = "train",
    image_column: str | None = None, label_column: str | None = None, cpu: bool = False,
) -> Similarities:  # fmt: skip
    """Finds the k nearest neighbours of an image in a data set or, without an image, the near duplicates among its images.

    name: the encoder's run folder or Hub id. source, split, image_column, label_column: the data set, as for `load_images`.
    image: a file, or the name of an image in the data set. It is no neighbour of its own.
    threshold: a pair of near duplicates has at least this cosine similarity, and one of the two is among the k nearest neighbours of the
        other.

    The search is exact. The folder `output` gets the pairs (`PAIRS`), a contact sheet (`SHEET`) and the features (`FEATURES`, see
    `write_features`); features that it holds already are used if they are of the same encoder, images and preprocessing.
    Broken images are left out; warnings name and count them. Raises `InputError`.
    """
    if k < 1:
        raise InputError(f"k is {k}: must be 1 or more")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}: must be a cosine similarity, above 0 and at most 1")
    if output.exists() and not output.is_dir():
        raise InputError(f"cannot write into '{output}': a folder is needed")
    encoder, preprocessing, images = load_for_features(name, source, split, image_column, label_column, cpu)
    query = None if image is None else _find(image, images, preprocessing)
    output.mkdir(parents=True, exist_ok=True)
    rows, positions = _features(encoder, preprocessing, images, output / FEATURES)
    if query is None:
        if len(rows) < 2:
            raise InputError(f"{source} has one image that can be read: near duplicates are looked for among several")
        found = near_duplicates(rows, k, threshold)
        pairs = [Pair(images.name(positions[first]), images.name(positions[second]), cosine) for first, second, cosine in found]
        about = _about_duplicates(rows, found, k, threshold)
        groups = _groups(found)
        heading = f"near duplicates, {min(len(groups), _MOST_GROUPS)} of {len(groups)} groups: cosine similarity {threshold:g} or more"
        cells = [[_cell(images, positions[row], note) for row, note in group[:_MOST_IN_GROUP]] for group in groups[:_MOST_GROUPS]]
    else:
        neighbours = _neighbours(encoder, preprocessing, query, rows, positions, k)
        pairs = [Pair(query.name, images.name(positions[row]), cosine) for row, cosine in neighbours]
        about = f"the {len(pairs)} nearest of {len(rows)} images; {_spread(rows)}" if len(rows) > 1 else "the only image"
        heading = f"the {len(pairs)} nearest of {len(rows)} images, by cosine similarity"
        shown = [_cell(images, positions[row], f"{cosine:.{_DIGITS}f}") for row, cosine in neighbours[: _MOST_GROUPS * _MOST_IN_GROUP]]
        cells = [[Cell(thumbnail(visible(query.pixels)), query.name, "the image"), *shown]]
    _write_pairs(output / PAIRS, pairs)
    draw_contact_sheet(output / SHEET, heading, cells)
    return Similarities(pairs, about)


def near_duplicates(rows: Tensor, k: int, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of rows whose cosine similarity is at least `threshold`, as (row, later row, cosine), the most similar first.

    One row of each pair is among the k nearest of the other. rows: (n, d), not normalised. Memory: a block of similarities at a time.
    """
    cosines, neighbours = (found.cpu() for found in nearest(rows, rows, k + 1))
    cosines, own = _rounded(cosines), torch.arange(len(rows))[:, None].expand_as(neighbours)
    found = (neighbours != own) & (cosines >= threshold)
    keys = torch.minimum(own, neighbours)[found] * len(rows) + torch.maximum(own, neighbours)[found]
    keys, places = torch.unique(keys, return_inverse=True)  # ascending, so that equal cosines stay in the order of the rows
    best = torch.zeros(len(keys), dtype=torch.float64).scatter_reduce_(0, places, cosines[found], "amax")
    order = best.argsort(descending=True, stable=True)
    first, second = keys[order] // len(rows), keys[order] % len(rows)
    return list(zip(first.tolist(), second.tolist(), best[order].tolist(), strict=True))


def _neighbours(
    encoder: PreTrainedModel, preprocessing: Preprocessing, query: _Image, rows: Tensor, positions: list[int], k: int
) -> list[tuple[int, float]]:
    """Rows and cosines of the k images nearest to the query, the nearest first."""
    pixels = torch.from_numpy(query.pixels.copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        embedding = features(encoder.eval(), preprocessing(pixels, torch.tensor([query.pixels.shape[:2]])).to(rows.device))
    cosines, found = (tensor[0].cpu() for tensor in nearest(embedding, rows, k + 1))
    pairs = zip(found.tolist(), _rounded(cosines).tolist(), strict=True)
    return sorted((pair for pair in pairs if positions[pair[0]] != query.position), key=lambda pair: (-pair[1], pair[0]))[:k]


def _features(encoder: PreTrainedModel, preprocessing: Preprocessing, images: ImageSet, file: Path) -> tuple[Tensor, list[int]]:
    """Features of all readable images, (n, width) on the encoder's device, and their positions. Written to the file if it has others."""
    import pyarrow.parquet as parquet

    if read_origin(file) == features_origin(encoder, images, preprocessing):
        _log.info("using the features in %s", file)
    else:
        write_with_progress(encoder, preprocessing, images, file)
    stored = parquet.ParquetFile(file)
    count, width = stored.metadata.num_rows, stored.schema_arrow.field("feature").type.list_size
    rows, positions = torch.empty(count, width), []
    for index in range(stored.num_row_groups):  # each is small
        group = stored.read_row_group(index, columns=["row", "feature"])
        values = group["feature"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        rows[len(positions) : len(positions) + len(group)] = torch.tensor(values)
        positions += group["row"].to_pylist()
    if not rows.isfinite().all():
        first = positions[int((~rows.isfinite().all(dim=1)).nonzero()[0])]
        raise InputError(f"the features of {images.name(first)} are not finite: the encoder's weights are broken")
    return rows.to(next(encoder.parameters()).device), positions


def _find(image: str, images: ImageSet, preprocessing: Preprocessing) -> _Image:
    """The image of this name in the data set, or in the file. Raises `InputError`."""
    file, names = Path(image).expanduser(), {image}
    if file.is_file():
        names.add(utf8_path(Path(os.path.relpath(file, Path(images.source).expanduser())).as_posix()))
    for position in range(len(images)):
        if images.name(position) in names:
            return _Image(_pixels(images, position), images.name(position), position)
    if not file.is_file():
        raise InputError(f"no file '{image}', and no image of this name in {images.source} ({images.split})")
    try:
        encoded, resolution = file.read_bytes(), required_resolution(preprocessing)
        form = PixelFormat(preprocessing.channels, read_header(encoded, preprocessing.channels, None, resolution).dtype)
        return _Image(decode_bands(encoded, form, None, resolution, PixelSemaphore()), file.name, None)
    except BrokenImage as error:
        raise InputError(f"cannot read the image '{image}': {error}") from error
    except UnfitImage as error:
        raise InputError(f"the image '{image}' {error}") from error


def _pixels(images: ImageSet, position: int) -> np.ndarray:
    """The image at a position, (height, width, channels). Raises `InputError` if it is broken."""
    for _, batch in images.read(torch.tensor([position]), 1):
        height, width = batch.sizes[0].tolist()
        return batch.pixels[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    raise InputError(f"cannot read the image '{images.name(position)}' of {images.source}")


def _cell(images: ImageSet, position: int, note: str) -> Cell:
    return Cell(thumbnail(visible(_pixels(images, position))), images.name(position), note)


def _groups(pairs: list[tuple[int, int, float]]) -> list[list[tuple[int, str]]]:
    """Rows that pairs connect, in groups; each with a note, its cosine to the most similar other one. In the order of the pairs."""
    group_of: dict[int, list[tuple[int, str]]] = {}
    for *rows, cosine in pairs:
        groups = [group_of.setdefault(row, [(row, f"{cosine:.{_DIGITS}f}")]) for row in rows]
        if groups[0] is not groups[1]:
            smaller, larger = sorted(groups, key=len)
            larger += smaller
            group_of.update(dict.fromkeys((row for row, _ in smaller), larger))
    seen = {id(group): group for group in (group_of[first] for first, _, _ in pairs)}
    return list(seen.values())


def _about_duplicates(rows: Tensor, pairs: list[tuple[int, int, float]], k: int, threshold: float) -> str:
    """The counts, and what the threshold means among these images; a warning where it means little."""
    counts = np.bincount([row for *both, _ in pairs for row in both], minlength=1)
    full = int((counts >= k).sum()) if len(rows) - 1 > k else 0
    more = f"; {full} images have {k} or more, of which some may be left out: --k allows more" if full else ""
    one_in_100, one_in_1000 = _quantiles(rows, 0.99, 0.999)
    if one_in_100 >= threshold:
        _log.warning(
            "1 in 100 of all pairs is as similar as the threshold, %g, and 1 in 1,000 has %.4f: raise --threshold", threshold, one_in_1000
        )
    return (
        f"{len(pairs)} pairs of near duplicates, of {int((counts > 0).sum())} among {len(rows)} images, whose features have a cosine "
        f"similarity of {threshold:g} or more (1: the encoder sees no difference); {_spread(rows)}{more}"
    )


def _spread(rows: Tensor) -> str:
    """How similar any two of these images are."""
    usual, high = _quantiles(rows, 0.5, 0.999)
    return f"of all pairs, half have {usual:.2f} or more and 1 in 1,000 has {high:.2f}"


def _quantiles(rows: Tensor, *shares: float) -> list[float]:
    """The cosine similarities below which these shares of all pairs are, from the pairs of evenly spaced rows."""
    sample = F.normalize(rows[torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).long()].float(), dim=1)
    cosines = (sample @ sample.T)[tuple(torch.triu_indices(len(sample), len(sample), 1))]
    return torch.quantile(cosines, torch.tensor(shares, device=cosines.device)).tolist()


def _rounded(cosines: Tensor) -> Tensor:
    return cosines.double().round(decimals=_DIGITS)


def _write_pairs(file: Path, pairs: list[Pair]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Pair._fields)
    writer.writerows((pair.image, pair.similar, f"{pair.cosine:.{_DIGITS}f}") for pair in pairs)
    atomic_write_text(file, text.getvalue())
