"""Collections on the Hub, one for each data set and one for each method, of the models that `publish` uploads."""

import logging

from huggingface_hub import HfApi

from sslzoo.data import source_name
from sslzoo.methods import method_class
from sslzoo.recipe import Recipe

from .hub_errors import explain
from .markdown import one_line
from .upload import with_retries

_MAX_TITLE = 60  # characters, as the Hub requires
_log = logging.getLogger(__name__)


def collection_titles(recipe: Recipe) -> list[str]:
    """The collections of a run's model: of its data set and of its method."""
    titles = (f"sslzoo: trained on {source_name(recipe.dataset)}", f"sslzoo: {method_class(recipe.method).__name__}")
    return [one_line(title)[:_MAX_TITLE] for title in titles]


def add_to_collections(api: HfApi, repository: str, recipe: Recipe) -> None:
    """Adds a published model to its collections in its own namespace, which are created if they do not exist.

    A private model is in none, as a collection would show what it was trained on. What is there already stays as it is. A collection that
    cannot be updated costs a warning: the model is published.
    """
    title = ""
    try:
        if with_retries(lambda: api.model_info(repository)).private:
            return
        for title in collection_titles(recipe):
            _add(api, repository, title)
    except Exception as error:  # the client and its transport each raise their own types
        which = f"the collection '{title}'" if title else "collections"
        _log.warning("%s is published, but not in %s: %s", repository, which, explain(error))


def _add(api: HfApi, repository: str, title: str) -> None:
    namespace = repository.partition("/")[0]
    slug = with_retries(lambda: api.create_collection(title, namespace=namespace, exists_ok=True)).slug
    with_retries(lambda: api.add_collection_item(slug, repository, "model", exists_ok=True))
