"""The cards that come with sslzoo match their runs, and the README's table matches the cards."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sslzoo.cli import main
from sslzoo.data import EMBEDDED
from sslzoo.hub import card_models, check_card, read_entries, write_card
from sslzoo.run import Run

ROOT = Path(__file__).parents[1]
CARDS = sorted(file.parent for file in (ROOT / "model_cards").glob("*/README.md"))


def test_every_method_has_a_card():
    assert {Run(folder).recipe.method for folder in CARDS} == {file.stem for file in (ROOT / "sslzoo/methods").glob("[a-z]*.py")}


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_card_written_again_is_the_same(folder, tmp_path, monkeypatch):
    if folder != CARDS[0]:  # the text does not depend on the drawing, which tests/test_card.py is about
        monkeypatch.setattr("sslzoo.hub.card.draw_curves", lambda run: None)
    shutil.copytree(folder, tmp_path / "again")
    (tmp_path / "again" / "README.md").unlink()
    card = write_card(tmp_path / "again")
    assert card.read_bytes() == (folder / "README.md").read_bytes()
    assert not [comparison for comparison in check_card(Run(folder)) if comparison.found != comparison.expected]
    pictures = {file.name for file in folder.glob("*.png")}
    # Only images of the embedded data set may be in this repository.
    wanted = {"curves.png", "maps.png", "neighbours.png"} if Run(folder).recipe.dataset == EMBEDDED else {"curves.png"}
    assert pictures == wanted == {name for name in ("curves.png", "maps.png", "neighbours.png") if f"({name})" in card.read_text()}
    assert ModelCard.load(card).data.eval_results, "measured"
    assert not list(folder.glob("*.safetensors")) and folder.name == Run(folder).recipe.name


def test_the_leaderboard_lists_every_card():
    valid, quarantined = read_entries(card_models())
    assert not quarantined and {entry.name for entry in valid} == {f"sslzoo/{folder.name}" for folder in CARDS}


def test_the_readme_table_matches_the_cards(capsys):
    assert main(["list", "--markdown"]) == 0
    table = capsys.readouterr().out.strip()
    assert len(table.splitlines()) == 2 + len(CARDS)
    assert f"<!-- sslzoo list --markdown -->\n{table}\n<!-- -->" in (ROOT / "README.md").read_text()
