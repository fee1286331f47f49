"""A MiniRAG error, said in Dagster's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from minirag_pipelines.core.errors import MiniRAGError


@contextmanager
def as_dagster_failure() -> Iterator[None]:
    """Raise what is ours as a Failure: one sentence, and whether a retry may help (a RetryPolicy asks for that)."""
    try:
        yield
    except MiniRAGError as error:
        raise dg.Failure(str(error), metadata={"error": type(error).__name__}, allow_retries=error.retryable) from error
