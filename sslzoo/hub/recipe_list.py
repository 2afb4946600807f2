"""The catalogue: every shipped recipe with the reference page's numbers and those measured here."""

from typing import Any

from sslzoo.errors import InputError
from sslzoo.recipe.names import derived_name
from sslzoo.recipe.yaml_files import read_values, shipped_recipes

from .entry import KNN_PROTOCOL, KNN_SETTING, Entry
from .leaderboard import read_entries
from .listing import OWN_NAMESPACE, card_models, cards_folder

_PAGE_PROTOCOLS = (KNN_PROTOCOL, "linear-simclr-v1", "linear-mae-v1", "finetune-simclr-v1", "finetune-mae-v1")
_LAST_EPOCH = (("of", "last epoch"),)


def catalogue() -> list[dict[str, Any]]:
    """One row per recipe: recipe, dataset, method, variant, encoder, batch_size, epochs, name, reference, measured and other_data.

    dataset: the recipe's folder. variant: what follows the method in the file's name. reference: the page's numbers by metric, as
    fractions. measured: ours, from the card of that name; empty where there is none. other_data: the card's data set where that is not the
    recipe's, else None. Raises `InputError` for a malformed card.
    """
    entries, quarantined = read_entries(card_models())
    if quarantined:
        raise InputError(f"{cards_folder()}: the card of {quarantined[0].name} is malformed: {quarantined[0].reason}")
    by_name = {entry.name: entry for entry in entries}
    rows = []
    for name, file in shipped_recipes().items():
        values = read_values(file)
        run_name = values.get("name") or derived_name(values["method"], values["encoder"], values["dataset"])
        dataset, _, stem = name.partition("/")
        entry = by_name.get(f"{OWN_NAMESPACE}/{run_name}")
        rows.append(
            {
                "recipe": name, "dataset": dataset, "variant": stem[len(values["method"]) + 1 :] or None, "name": run_name,
                **{key: values[key] for key in ("method", "encoder", "batch_size", "epochs")},
                "reference": {key.removeprefix("reference."): value for key, value in values.items() if key.startswith("reference.")},
                "measured": _measured(entry, values.get("reference_k")) if entry else {},
                "other_data": entry.dataset if entry and entry.dataset != values["dataset"] else None,
            }
        )  # fmt: skip
    return rows


def _measured(entry: Entry, reference_k: int | None) -> dict[str, float]:
    """The measurements that can be compared with the page's numbers: by its protocols, at its k, after the last epoch."""
    knn = KNN_SETTING if reference_k is None else (("k", reference_k), ("temperature", 0.1))
    settings = {"knn": knn, "linear": _LAST_EPOCH, "finetune": _LAST_EPOCH}
    return {
        measurement.metric: measurement.value for measurement in entry.comparable
        if measurement.protocol in _PAGE_PROTOCOLS and measurement.setting == settings[measurement.metric.partition("_")[0]]
    }  # fmt: skip
