"""Drift between PostgreSQL and Chroma, found in full and mended from stored vectors: no model is ever asked.

What is there twice is compared: the ids of both stores, a generation's counters and what they count; and of a sample
the vectors, the texts that a portable generation writes, and whether a search for a vector finds it. Memory is a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minirag_pipelines.core.database import Database
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.comparing import Comparison, Drift
from minirag_pipelines.ingest.repairing import Mended, Repair

# How many vectors of each generation are compared where not all are.
SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was found; after a repair also what it did, and what another look found then."""

    tenant_id: str
    found: tuple[Drift, ...]
    mended: Mended | None = None
    left: tuple[Drift, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether there is drift now."""
        return any(one.drifted for one in (self.found if self.mended is None else self.left))


def reconcile(
    database: Database,
    vectors: VectorStore,
    tenant_id: str,
    *,
    repair: bool = False,
    sample: int = SAMPLE,
    run_id: str | None = None,
    wait_s: float = 30.0,
) -> Reconciliation:
    """Compare every live, building and kept generation of a tenant with Chroma, and mend what differs if asked to.

    Without `repair` nothing is written and no sync is held up. A repair is the tenant's writer meanwhile: it raises
    SyncInProgress when another one does not end within `wait_s`. Raises VectorStoreUnavailable, DatabaseUnavailable.
    """
    if not repair:
        return Reconciliation(tenant_id, tuple(_compare_all(database, vectors, tenant_id, sample)))
    with database.writer(tenant_id, run_id, wait_s=wait_s) as writer:
        found = tuple(_compare_all(database, vectors, tenant_id, sample))
        mended = Mended()
        if not any(drift.drifted for drift in found):
            return Reconciliation(tenant_id, found, mended, found)
        for generation, drift in zip(_generations(database, tenant_id), found, strict=True):
            if drift.drifted:
                Repair(writer, vectors, generation, drift, mended).run()
        return Reconciliation(tenant_id, found, mended, tuple(_compare_all(database, vectors, tenant_id, sample)))


def _generations(database: Database, tenant_id: str) -> list[Generation]:
    with database.transaction(tenant_id) as transaction:
        return [one for one in Generations(transaction).all() if one.state != "retired"]


def _compare_all(database: Database, vectors: VectorStore, tenant_id: str, sample: int) -> Iterator[Drift]:
    for generation in _generations(database, tenant_id):
        yield Comparison(database, vectors, generation, sample).run()
