"""Files of the repository that are pages of the site as well: the README, which is its first page, CONTRIBUTING, the cards and others.

They keep their paths, while those of docs/ are at the site's root. So `](docs/` of the README and `](../` of a page in docs/ become `](`,
and each link leads to the same file on the site as in the repository.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SHOWN = ("CONTRIBUTING.md", "EXPERIMENTS.md", "CHANGELOG.md", "LICENSE", "space/README.md", "recipes/tour.ipynb")
LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\s(?:src|href)=["']?(?:https?:)?//[^>]*>""")
NOT_LOADED = re.compile(r"""\brel=["']?(?:canonical|alternate|edit|next|prev)\b""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    for name in (*SHOWN, *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("model_cards/*/*") if file.suffix in (".md", ".png"))):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    prefix = "docs/" if page.file.src_uri in ("index.md", *SHOWN) else "../" if "/" not in page.file.src_uri else None
    return markdown.replace(f"]({prefix}", "](") if prefix else markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that loads fonts, scripts, styles or pictures from another host."""
    found = [tag for tag in LOADED.findall(output) if not NOT_LOADED.search(tag)]
    if found:
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output
