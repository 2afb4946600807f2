"""Errors of the Hub: which ones a retry may cure, and an explanation in one line without signed addresses or tokens."""

import re
from collections.abc import Iterator

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from sslzoo.errors import first_line, unknown


def status_code(error: Exception) -> int | None:
    """The HTTP status of the response behind the error, which the client may have wrapped; None where there was no response."""
    responses = (getattr(cause, "response", None) for cause in _causes(error))
    return next((response.status_code for response in responses if response is not None), None)


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed: rate limits, server errors, a concurrent commit (412), a lost connection."""
    status = status_code(error)
    if status is not None:
        return status in (408, 412, 429) or status >= 500
    return not isinstance(error, (ValueError, TypeError, OfflineModeIsEnabled, LocalTokenNotFoundError))


def explain(error: Exception, again: str = "publish again") -> str:
    """What happened and what to do about it, in one line; signed addresses lose their signature. again: how to repeat what failed."""
    status = status_code(error)
    message = next((text for cause in _causes(error) if (text := getattr(cause, "server_message", None))), None) or first_line(error)
    message = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", " ".join(message.split())[:300])
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return f"there is no token, or the Hub does not accept it (401): sign in with `hf auth login` and {again}"
    if status == 403:
        return f"the token may not write there (403: {message}): use a token with write access, or a namespace of yours"
    if status == 404:
        return f"the Hub does not find it (404: {message}): check the namespace, and that the token may access it"
    if status is not None:
        return f"the Hub answered {status} ({message})" + (f": {again} later" if is_transient(error) else "")
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set: unset it and {again}"
    if "/xet-write-token/" in message:
        return f"this Hub has no Xet storage: set HF_HUB_DISABLE_XET=1 and {again}"
    if isinstance(error, ValueError):
        return f"the Hub's client refuses it ({message})"
    return f"{type(error).__name__} ({message}): check the connection and {again}, what was uploaded is not sent twice"


def suggest_namespace(api: HfApi, namespace: str, error: Exception) -> str:
    """ " (unknown namespace of yours ...)" where the Hub refuses a namespace that is not the token's user's, else ""."""
    if status_code(error) not in (403, 404):
        return ""
    try:
        who = api.whoami()
        own = [who["name"], *(organisation["name"] for organisation in who.get("orgs", ()))]
    except Exception:  # the first error is the one to report
        return ""
    return "" if namespace in own else f" ({unknown('namespace of yours', namespace, own)})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
