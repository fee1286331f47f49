"""What a command works with: the stores, started for its duration when none are running."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minirag_pipelines.cli.output import progress
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Database
from minirag_pipelines.core.errors import InvalidInput
from minirag_pipelines.core.records import Tenant, checked_tenant_id
from minirag_pipelines.core.settings import Settings, settings

ADDRESSES = ("database_url", "admin_database_url", "dagster_database_url", "chroma_url")


@dataclass(frozen=True, slots=True)
class Session:
    settings: Settings
    database: Database

    def tenant(self, tenant_id: str) -> Tenant:
        """Raises NotFound, and InvalidInput for an id that is none."""
        with self.database.transaction(checked_tenant_id(tenant_id)) as transaction:
            return Catalog(transaction).tenant()

    def overviews(self, tenants: Iterable[str]) -> list[dict[str, Any]]:
        """Each tenant with its counts. Raises NotFound."""
        found = []
        for tenant_id in tenants:
            with self.database.transaction(tenant_id) as transaction:
                found.append(Catalog(transaction).overview()._asdict())
        return found


@contextmanager
def catalog_of(tenant_id: str) -> Iterator[Catalog]:
    """What is configured for a tenant, in one transaction. Raises NotFound, and InvalidInput for an id that is none."""
    checked_tenant_id(tenant_id)
    with session() as opened, opened.database.transaction(tenant_id) as transaction:
        catalog = Catalog(transaction)
        catalog.tenant()
        yield catalog


@contextmanager
def session() -> Iterator[Session]:
    """The stores, with this version's schema, and their addresses in the environment of what is started from here."""
    from minirag_pipelines.core.schema import migrate
    from minirag_pipelines.stack.embedded import available

    with available(settings()) as chosen:
        if chosen.database_url is None or chosen.chroma_url is None:
            raise InvalidInput("MINIRAG_DATABASE_URL, MINIRAG_CHROMA_URL", "are to be set both, or neither.")
        with progress("Preparing the database"):
            migrate((chosen.admin_database_url or chosen.database_url).get_secret_value())
        _export(chosen)
        with Database(chosen.database_url.get_secret_value()) as database:
            yield Session(chosen, database)


def _export(chosen: Settings) -> None:
    """Dagster's assets read the environment, in this process and in others."""
    for name in ADDRESSES:
        value = getattr(chosen, name)
        if value is not None:
            os.environ[f"MINIRAG_{name.upper()}"] = value if isinstance(value, str) else value.get_secret_value()
    os.environ["MINIRAG_HOME"] = str(chosen.home.resolve())
    settings.cache_clear()
