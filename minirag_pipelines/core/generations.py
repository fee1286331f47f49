"""Generations: which build of a tenant's index is live, which is being built, which are kept."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from minirag_pipelines.core.database import Row, Transaction, statements
from minirag_pipelines.core.errors import NotFound
from minirag_pipelines.core.records import ChunkerSettings, Generation, Tenant

SQL = statements("minirag_pipelines.core.sql", "generations.sql")


@dataclass(frozen=True, slots=True)
class Generations:
    """One tenant's generations, in the caller's transaction."""

    transaction: Transaction

    def generation(self, number: int) -> Generation:
        """As it is now. Raises NotFound."""
        row = self.transaction.run(SQL["generation"], number=number).fetchone()
        if row is None:
            raise NotFound("generation", str(number))
        return _generation(row)

    def find_live(self) -> Generation | None:
        """None before the first sync."""
        row = self.transaction.run(SQL["live"]).fetchone()
        return _generation(row) if row else None

    def live(self) -> Generation:
        """Raises NotFound before the first sync."""
        found = self.find_live()
        if found is None:
            raise NotFound("live generation of tenant", self.transaction.tenant_id)
        return found

    def find_building(self) -> Generation | None:
        """None while no generation is being built."""
        row = self.transaction.run(SQL["building"]).fetchone()
        return _generation(row) if row else None

    def kept(self) -> list[Generation]:
        """The one that was live last comes first."""
        return [_generation(row) for row in self.transaction.run(SQL["kept"])]

    def all(self) -> list[Generation]:
        """All but deleted ones, in the order of their numbers."""
        return [_generation(row) for row in self.transaction.run(SQL["generations"])]

    def add(self, tenant: Tenant, *, state: str, chunker: str, model: str, dimension: int) -> Generation:
        """The next number, with the tenant's settings; the collection's name can't be guessed from the tenant's id."""
        row = self.transaction.run(
            SQL["add"],
            state=state,
            chunk_tokens=tenant.chunker.max_tokens,
            chunk_overlap=tenant.chunker.overlap_tokens,
            chunker=chunker,
            embedding_model=tenant.embedding_model,
            model=model,
            dimension=dimension,
            portable=tenant.portable,
            collection=f"minirag-{secrets.token_hex(16)}",
        ).fetchone()
        return _generation(row)

    def set_state(self, number: int, state: str) -> None:
        self.transaction.run(SQL["set_state"], number=number, state=state)

    def delete(self, number: int) -> None:
        """Its texts and documents; its collection must be gone already. That it was is known until `remove`."""
        self.transaction.run(SQL["forget_texts"], number=number)
        self.transaction.run(SQL["forget_documents"], number=number)
        self.set_state(number, "deleted")

    def remove(self, number: int) -> None:
        """The row of one that is deleted."""
        self.transaction.run(SQL["remove"], number=number)


def _generation(row: Row) -> Generation:
    return Generation(
        tenant_id=row.tenant_id,
        number=row.number,
        state=row.state,
        chunker=ChunkerSettings(row.chunk_tokens, row.chunk_overlap),
        chunker_fingerprint=row.chunker,
        embedding_model=row.embedding_model,
        model_fingerprint=row.model,
        dimension=row.dimension,
        portable=row.portable,
        collection=row.collection,
        created_at=row.created_at,
        documents=row.documents,
        chunks=row.chunks,
        texts=row.texts,
        data_version=row.data_version,
        live_at=row.live_at,
    )
