"""What is checked before anything is sent: the token and where it may write, and that a job's machine can see what the recipe names."""

import os
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import HfApi, get_token

from sslzoo.data import EMBEDDED, hub_id
from sslzoo.errors import InputError, PublishError, unknown
from sslzoo.hub.hub_errors import explain, status_code
from sslzoo.hub.upload import with_retries

_Result = TypeVar("_Result")


def request(what: str, call: Callable[[], _Result], *, once: bool = False) -> _Result:
    """The result of a request to the Hub. Raises `PublishError`.

    what: what cannot be done if it fails, such as "start the job". once: without retries, for what must not be done twice.
    """
    try:
        return call() if once else with_retries(call)
    except (InputError, PublishError):
        raise
    except Exception as error:  # the client and its transport raise their own types
        raise PublishError(f"cannot {what}: {explain(error, 'try again')}") from error


def writable_namespace(api: HfApi, namespace: str | None) -> str:
    """The namespace, where the token may write as far as the Hub tells; None: the one of the token's user. Raises `InputError`."""
    if not (api.token or get_token()):
        raise InputError("there is no token: sign in with `hf auth login`, or set HF_TOKEN")
    who = request("ask the Hub who you are", api.whoami)
    namespace = namespace or who["name"]
    organisations = {organisation["name"]: organisation for organisation in who.get("orgs", ())}
    if namespace not in (who["name"], *organisations):
        raise unknown("namespace of yours", namespace, [who["name"], *organisations])
    access = who.get("auth", {}).get("accessToken") or {}
    if access.get("role") == "read" or organisations.get(namespace, {}).get("roleInOrg") == "read":
        raise InputError(f"the token may not write in {namespace}: sign in with one that has write access, `hf auth login`")
    return namespace


def check_on_hub(key: str, source: str | None) -> None:
    """Raises `InputError` for a folder or file of this machine, which a job's machine cannot see. key: what it is called there."""
    if source is None or source == EMBEDDED:
        return
    if os.path.exists(source) or hub_id(source) is None:
        raise InputError(f"{key} is '{source}', which a job's machine cannot see: upload it to the Hub, and name its id there")


def dataset_images(api: HfApi, dataset: str, split: str) -> int | None:
    """How many images a data set's card on the Hub says the split has; None where it says nothing.

    Raises `InputError` where the Hub shows the token no such data set.
    """
    name, configuration = hub_id(dataset) or (dataset, None)

    def read() -> object:
        return api.dataset_info(name).card_data

    try:
        card = with_retries(read)
    except Exception as error:
        if status_code(error) in (401, 403, 404):
            raise InputError(f"the Hub shows you no data set '{name}': check its name, and that your token may read it") from error
        raise PublishError(f"cannot look up the data set: {explain(error, 'try again')}") from error
    described = getattr(card, "dataset_info", None)
    for info in described if isinstance(described, list) else [described]:
        if isinstance(info, dict) and configuration in (None, info.get("config_name")):
            for found in info.get("splits") or []:
                if isinstance(found, dict) and found.get("name") == split and isinstance(found.get("num_examples"), int):
                    return found["num_examples"]
    return None
