"""A card shows what the same recipe gave with other seeds, of runs that differ in nothing else."""

import json
import re

import pytest
from test_card import change, finish

from sslzoo.cli import main
from sslzoo.errors import InputError
from sslzoo.hub import ListedModel, check_card, markdown_table, read_entries
from sslzoo.hub.front_matter import read_card
from sslzoo.hub.seeds import add_seeds
from sslzoo.recipe import read_recipe
from sslzoo.reproduce import NOT_REPEATABLE, _other_seeds


@pytest.fixture
def runs(tmp_path):
    """Three runs with the seeds 0, 1 and 2, whose kNN top-1 at k = 20 is 76.54, 80 and 70 %."""
    made = []
    for seed, value in enumerate((0.7654321, 0.8, 0.7)):
        made.append(finish(tmp_path / f"seed{seed}", read_recipe("digits/simclr", {"epochs": 4, "seed": seed}), seed))
        change(made[-1], value=value)
    return made


def test_card_and_table_show_mean_and_range_of_the_seeds(runs, capsys, monkeypatch):
    monkeypatch.setattr("sslzoo.hub.card._pictures", lambda *_: {})
    monkeypatch.setattr("sslzoo.hub.card.draw_curves", lambda _: None)
    folders = [str(run.folder) for run in runs]
    assert main(["card", folders[0], "--seeds", folders[2], folders[1]]) == 0
    card = (runs[0].folder / "README.md").read_text()
    assert "| kNN top-1, k=20 | **76.54** | 75.51 (70.00–80.00) | digits, test | knn-instdisc-v2 |" in card
    assert "one of 3 runs of the same recipe, with the seeds 0, 1, 2" in card and "one run with one seed" not in card
    assert main(["card", folders[0]]) == 0 and (runs[0].folder / "README.md").read_text() == card, "the folder keeps them"
    assert not [one for one in check_card(runs[0]) if one.found != one.expected]
    metadata = read_card(runs[0].folder / "README.md")[0]
    (entry,) = read_entries([ListedModel(f"sslzoo/{runs[0].recipe.name}", metadata)])[0]
    row = markdown_table([entry]).splitlines()[2]
    assert "| 3 | 75.5 (70.0–80.0) | 50.0 (50.0–50.0) | – |" in row
    findings = list(_other_seeds(runs[0].results()["numbers"]))
    assert [finding.claimed for finding in findings] == [0.8, 0.7, 0.5, 0.5] and {one.verdict for one in findings} == {NOT_REPEATABLE}


def test_only_another_seed_of_the_same_recipe_measured_alike_is_taken(runs, tmp_path):
    run, other, third = runs
    before = run.results()
    faster = finish(tmp_path / "faster", read_recipe("digits/simclr", {"epochs": 4, "seed": 3, "lr": 0.02}))
    results = third.results()
    third.write_results({**results, "numbers": results["numbers"][:1]})
    copy = json.loads(json.dumps(other.results()))
    for folders, message in (
        ([other.folder, faster.folder], "faster is no other seed of the same recipe: its lr is 0.02, and 0.01 in"),
        ([other.folder, other.folder], "has the seed 1, and so has"), ([run.folder], "has the seed 0, and so has"),
        ([third.folder], "lacks kNN top-1 (k=200, T=0.1) by knn-instdisc-v2 on digits"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(message)):
            add_seeds(run, folders)
    copy["numbers"][0]["provenance"]["train_fingerprint"] = "1" * 64
    other.write_results(copy)
    with pytest.raises(InputError, match="of other images"):
        add_seeds(run, [other.folder])
    assert run.results() == before, "nothing was written"


@pytest.mark.parametrize("others", [5, [5], [{"seed": 1, "value": 2, "weights_sha256": "0" * 64}], [{"seed": 1, "value": 0.5}]])
def test_other_seeds_of_a_wrong_form_are_refused(runs, others):
    change(runs[0], other_seeds=others)
    with pytest.raises(InputError, match="other_seeds"):
        add_seeds(runs[1], [runs[0].folder])
