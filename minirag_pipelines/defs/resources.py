"""What assets work with: the stores, the tenant's writer, the models. Nothing connects before it is asked for.

Addresses come from the settings and never pass through Dagster's configuration: its database and the `repr` of a
resource would show them.
"""

from contextlib import ExitStack

import dagster as dg
from pydantic import PrivateAttr

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Database, Writer
from minirag_pipelines.core.errors import InvalidInput, MiniRAGError, NotRepeated
from minirag_pipelines.core.providers.models import Embedder
from minirag_pipelines.core.providers.registry import embedder_of
from minirag_pipelines.core.records import Generation, Source, Tenant
from minirag_pipelines.core.settings import Settings, settings
from minirag_pipelines.core.vector_store import VectorStore

# How long a run waits for another one of its tenant to end. The run queue keeps them apart already; a plan gives way
# when it has listed a source, or parsed a document.
WAIT_S = 30.0
# The asset that a sync ends with.
LAST = "collection"
# The run's tag that names the asset whose failure was kept for its end.
CARRIED = "minirag/carried"


class Stores(dg.ConfigurableResource["Stores"]):
    """PostgreSQL and Chroma, and the run's right to write its tenant: held from the first asset to the run's end."""

    _open: ExitStack = PrivateAttr(default_factory=ExitStack)
    _database: Database | None = PrivateAttr(default=None)
    _vectors: VectorStore | None = PrivateAttr(default=None)
    _writers: dict[str, Writer] = PrivateAttr(default_factory=dict)
    _unlisted: set[str] = PrivateAttr(default_factory=set)
    _carried: MiniRAGError | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        return settings()

    @property
    def database(self) -> Database:
        if self._database is None:
            url = self.settings.database_url
            if url is None:
                raise InvalidInput("MINIRAG_DATABASE_URL", "is not set.")
            self._database = self._open.enter_context(Database(url.get_secret_value()))
        return self._database

    @property
    def vectors(self) -> VectorStore:
        if self._vectors is None:
            if self.settings.chroma_url is None:
                raise InvalidInput("MINIRAG_CHROMA_URL", "is not set.")
            self._vectors = VectorStore(self.settings.chroma_url)
        return self._vectors

    def writer(self, tenant_id: str, run_id: str) -> Writer:
        """The tenant's writer, the same for all assets of the run. Raises SyncInProgress."""
        if tenant_id not in self._writers:
            self._writers[tenant_id] = self._open.enter_context(self.database.writer(tenant_id, run_id, wait_s=WAIT_S))
        return self._writers[tenant_id]

    def tenant(self, tenant_id: str) -> tuple[Tenant, list[Source]]:
        """The tenant's record and its sources. Raises NotFound."""
        with self.database.transaction(tenant_id) as transaction:
            catalog = Catalog(transaction)
            return catalog.tenant(), catalog.sources()

    @property
    def unlisted(self) -> set[str]:
        """Names of the sources that this run could not list."""
        return self._unlisted

    def carry(self, failure: MiniRAGError, context: dg.AssetExecutionContext) -> None:
        """Keep a failure for `collection` to raise, when all is done that it does not concern; the first one counts.

        Raises it in a run that does not come to `collection`.
        """
        if not _has(context.run, LAST):
            raise failure
        self._carried = self._carried or failure
        context.instance.add_run_tags(context.run.run_id, {CARRIED: context.asset_key.to_user_string()})

    def carried(self, context: dg.AssetExecutionContext) -> MiniRAGError | None:
        """The failure that was kept; in a run from another one's failure, that what had failed was not run again."""
        parent = context.run.parent_run_id and context.instance.get_run_by_id(context.run.parent_run_id)
        failed = parent.tags.get(CARRIED) if parent else None
        if self._carried is None and failed is not None and not _has(context.run, failed):
            context.instance.add_run_tags(context.run.run_id, {CARRIED: failed})
            return NotRepeated(failed)
        return self._carried

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """A run writes its events on pooled connections: by default each event opens one, a second in all."""
        if context.run is not None and context.instance is not None:
            context.instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self._open.close()
        self._database = None
        self._writers.clear()
        self._unlisted.clear()
        self._carried = None


def _has(run: dg.DagsterRun, asset: str) -> bool:
    steps, assets = run.step_keys_to_execute, run.asset_selection
    return (steps is None or asset in steps) and (assets is None or dg.AssetKey(asset) in assets)


class Providers(dg.ConfigurableResource["Providers"]):
    """The models that tenants embed with."""

    def embedder_of(self, whose: Tenant | Generation) -> Embedder:
        """The model of a tenant's settings, or of a generation that was made from them."""
        return embedder_of(whose)
