"""An adapter or a set of images uploaded to a repository of the Hugging Face hub, with a card.

In: an `Upload`. Out: the repository's address once one commit holds it all. Nothing else needs the hub, and its client
is imported only when something is uploaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

from fulora.errors import InputError, fault, one_line
from sweeps.publish.fingerprint import check_unchanged
from sweeps.publish.upload import Upload

_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."


def push(upload: Upload, *, endpoint: str | None = None) -> str:
    """Upload in one commit and return the repository's address; a repository that does not exist is created.

    `endpoint` None: HF_ENDPOINT, else the hub itself. Raises InputError where the hub is switched off, cannot be
    reached or refuses, and where the adapter is replaced meanwhile. The client uploads large files to Xet storage; an
    endpoint that has only Git LFS needs HF_HUB_DISABLE_XET=1 in the environment before Python starts.
    """
    from huggingface_hub import constants

    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if constants.is_offline_mode():
        rule = "is not contacted: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set"
        raise InputError(fault("hub", endpoint, rule, "Unset it to upload; --dry-run works without the hub."))
    try:
        with warnings.catch_warnings():
            # The loss table belongs to the adapter.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            _commit(upload, endpoint)
    except InputError:
        raise
    except Exception as error:  # the client raises OSError, its own, its transport's and hf_xet's errors
        raise InputError(_explained(error, upload.to, endpoint)) from error
    return f"{endpoint}/{'datasets/' if upload.repo_type == 'dataset' else ''}{upload.to}"


def _commit(upload: Upload, endpoint: str) -> None:
    """Create the repository where needed and commit all files at once."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = get_token()
    if not token:
        raise InputError(fault("hub", endpoint, "needs a token to upload, and none is set", _LOGIN))
    api = HfApi(endpoint=endpoint, token=token)
    check_unchanged(upload.files)
    kind = upload.repo_type
    api.create_repo(upload.to, private=upload.private or None, exist_ok=True, repo_type=kind)
    if upload.private and not api.repo_info(upload.to, repo_type=kind).private:
        remedy = "Make it private in its settings, name another, or leave out --private."
        raise InputError(fault("to", upload.to, "exists and is public; nothing was uploaded", remedy))
    additions = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=what if isinstance(what, bytes) else what.path)
        for name, what in upload.contents.items()
    ]
    api.preupload_lfs_files(upload.to, additions, free_memory=False, repo_type=kind)
    check_unchanged(upload.files)
    api.create_commit(upload.to, additions, commit_message=upload.summary, repo_type=kind)


def _explained(error: Exception, to: str, endpoint: str) -> str:
    """Return an error of the hub's client as a fault."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    causes = list(_causes(error))
    answers = [cause for cause in causes if isinstance(cause, HfHubHTTPError)]
    if answers:
        status, said = answers[0].response.status_code, one_line(answers[0].server_message or "")
        if status == 401:
            return fault("hub", endpoint, "does not accept the token: unauthorised (401)", _LOGIN)
        if status == 403:
            return fault("to", to, f"may not be written with this token: forbidden (403). {said}".rstrip(". "), _LOGIN)
        return fault("hub", endpoint, f"refused the upload ({status}) {said}".strip(), _again(endpoint))
    if any(isinstance(cause, (HTTPError, ConnectionError, TimeoutError)) for cause in causes):
        rule = f"cannot be reached ({one_line(causes[-1])})"
        # hf_xet, which is not the client's transport, raises ConnectionError of a store that is not there.
        again = "" if any(isinstance(cause, HTTPError) for cause in causes) else f" {_again(endpoint)}"
        return fault("hub", endpoint, rule, f"Check the network, a proxy and HF_ENDPOINT.{again}")
    return fault("hub", endpoint, f"did not take the upload ({one_line(error)})", _again(endpoint))


def _again(endpoint: str) -> str:
    from huggingface_hub import constants

    if endpoint == "https://huggingface.co" or constants.HF_HUB_DISABLE_XET:
        return "Push again; files that were uploaded are not sent twice."
    return "If this endpoint has no Xet storage, set HF_HUB_DISABLE_XET=1; then push again."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
