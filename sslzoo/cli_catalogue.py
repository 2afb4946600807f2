"""The commands that only look: lists of recipes, methods and encoders, what a recipe says, and runs next to each other."""

import argparse
import fnmatch
import json

from sslzoo.errors import InputError


def list_recipes(options: argparse.Namespace) -> None:
    """`sslzoo list`."""
    from sslzoo.hub import card_models, catalogue, markdown_table, read_entries

    if options.markdown:
        print(markdown_table(read_entries(card_models())[0]))
        return
    rows = [row for row in catalogue() if _is_chosen(row, options)]
    if not rows:
        raise InputError("no recipe fits: `sslzoo list` shows all")
    for row in rows:
        if options.json:
            print(json.dumps(row))
        else:
            data = f" on {row['other_data']}" if row["other_data"] else ""
            numbers = "  ".join(
                f"{metric} {'-' if ours is None else f'{100 * ours:.1f}{data}'} (page {'-' if theirs is None else f'{100 * theirs:.1f}'})"
                for metric, (ours, theirs) in _ours_and_theirs(row).items()
            )
            print(f"{row['recipe']:28} {row['encoder']:8} batch {row['batch_size']:<5} epochs {row['epochs']:<4} {numbers}")


def _is_chosen(row: dict, options: argparse.Namespace) -> bool:
    """By a part of the name or a pattern such as "*/dino*", the method, and whether nothing has been measured yet."""
    named = not options.filter or any(text in row["recipe"] or fnmatch.fnmatchcase(row["recipe"], text) for text in options.filter)
    return named and options.method in (None, row["method"]) and not (options.missing and row["measured"])


def _ours_and_theirs(row: dict) -> dict[str, tuple[float | None, float | None]]:
    return {metric: (row["measured"].get(metric), row["reference"].get(metric)) for metric in {**row["reference"], **row["measured"]}}


def list_methods(_: argparse.Namespace) -> None:
    """`sslzoo methods`."""
    from sslzoo.methods import method_class, method_names

    for name in method_names():
        paper = method_class(name).paper
        print(f"{name:14} {paper.year}  {paper.title}  {paper.url}")


def list_encoders(_: argparse.Namespace) -> None:
    """`sslzoo encoders`."""
    import torch

    from sslzoo.encoders import ENCODERS, build_encoder, encoder_config

    for name in ENCODERS:
        config = encoder_config(name, 224)
        with torch.device("meta"):
            encoder = build_encoder(config)
        patch = getattr(config, "patch_size", None)
        patches = f"patches of {patch} px" if isinstance(patch, int) else ""
        print(f"{name:15} {encoder.num_parameters() / 1e6:6.1f} M parameters  {type(encoder).__name__:24} {patches}".rstrip())
    print("a Hub id or a folder with weights of transformers names any other: see docs/published-weights.md")


def explain_recipe(options: argparse.Namespace) -> None:
    """`sslzoo explain`."""
    from sslzoo.explain import explain
    from sslzoo.recipe import parse_changes

    for setting in explain(options.recipe, parse_changes(options.set)):
        if options.json:
            print(json.dumps(setting._asdict()))
        else:
            print(f"{setting.key}: {json.dumps(setting.value)}  ({setting.source})\n    {setting.meaning}")


def compare_runs(options: argparse.Namespace) -> None:
    """`sslzoo compare`."""
    from sslzoo.hub import comparison_table, draw_comparison

    print(comparison_table(options.folders))
    if options.curves:
        print(draw_comparison(options.folders, options.curves))
