"""Errors are told apart by callers, say one sentence, and survive a worker process."""

from __future__ import annotations

import inspect
import pickle

from minirag_pipelines.core import errors


def classes() -> list[type[errors.MiniRAGError]]:
    return [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, errors.MiniRAGError) and found is not errors.MiniRAGError
    ]


def test_the_drawn_tree_names_every_error() -> None:
    assert errors.__doc__
    drawn = {line.strip("│├└─ ").split()[0] for line in errors.__doc__.splitlines() if "─" in line}
    assert {found.__name__ for found in classes()} == drawn


def test_a_rerun_helps_exactly_where_something_is_unavailable() -> None:
    assert {found.__name__ for found in classes() if found.retryable} == {
        "ProviderUnavailable",
        "WebserverUnavailable",
        "DatabaseUnavailable",
        "VectorStoreUnavailable",
    }


def test_a_document_that_can_not_be_read_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(errors.DocumentUnreadable("timeout", "It took too long.", permanent=False)))  # noqa: S301
    assert (error.code, error.reason, error.permanent) == ("timeout", "It took too long.", False)
