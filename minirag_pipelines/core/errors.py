"""The errors that callers act on.

    MiniRAGError
    ├── InvalidInput            what was given can't be right: which field, why
    ├── NotFound                no such tenant, source, bot, token or document for this caller
    ├── AlreadyExists           a name that is taken
    ├── NotAuthenticated        no valid credential was shown
    ├── NotAllowed              the credential is valid, and not for this
    ├── SyncInProgress          another process is writing this tenant's index
    ├── WriterSuperseded        another process took over this tenant while we were away
    ├── RehearsalInterrupted    somebody waited for what a rehearsal held, so it was given up; begin anew
    ├── SourceUnreadable        a source could not be listed, so nothing of it was changed
    ├── NotRepeated             a run from another one's failure did not run again what had failed
    ├── DocumentUnreadable      one document can't be read or parsed; `permanent` until it changes
    ├── SchemaOutdated          the database is not at this version's schema
    ├── CollectionMismatch      Chroma holds something else under this name than Postgres says
    ├── GenerationUnsound       what was built is not fit to answer; the live generation goes on
    ├── TooManyFailures         most of a tenant's documents could not be read, parsed or embedded
    ├── StackFailed             a service of the embedded stack did not come up
    ├── AlreadyUp               the stack of this home runs
    ├── ModelUnknown            a model string nobody answers to, or its package is not installed
    ├── ProviderRefused         the provider will not take this request; a rerun changes nothing
    │   └── ContentRefused      because of what is in it: the next text may be taken
    ├── ProviderUnavailable     the provider may answer later                         (retryable)
    ├── WebserverUnavailable    Dagster's webserver can't be reached                  (retryable)
    ├── DatabaseUnavailable     PostgreSQL can't be reached                           (retryable)
    └── VectorStoreUnavailable  Chroma can't be reached                               (retryable)

Driver errors stop in the module that owns the driver, `raise … from error`. No message holds a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from minirag_pipelines.core.providers.models import Embedded


class MiniRAGError(Exception):
    """Base of all; `str()` is one sentence for a person."""

    retryable: ClassVar[bool] = False


class InvalidInput(MiniRAGError):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(MiniRAGError):
    """What another tenant owns is not found either."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"There is no {what} {name!r}." if name else f"There is no {what}.")
        self.what = what
        self.name = name


class AlreadyExists(MiniRAGError):
    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"There is already a {what} {name!r}.")
        self.what = what
        self.name = name


class NotAuthenticated(MiniRAGError):
    """Says the same for an unknown, a malformed, an expired and a revoked credential."""

    def __init__(self) -> None:
        super().__init__("The credential is not valid.")


class NotAllowed(MiniRAGError):
    def __init__(self, scope: str) -> None:
        super().__init__(f"The credential lacks the scope {scope!r}.")
        self.scope = scope


class SyncInProgress(MiniRAGError):
    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"A sync of tenant {tenant_id!r} is running; wait until it has ended.")
        self.tenant_id = tenant_id


class WriterSuperseded(MiniRAGError):
    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"Another process has taken over writing tenant {tenant_id!r}; this one stopped.")
        self.tenant_id = tenant_id


class RehearsalInterrupted(MiniRAGError):
    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"The rehearsal of a sync of tenant {tenant_id!r} gave way to a change.")
        self.tenant_id = tenant_id


class SourceUnreadable(MiniRAGError):
    """`absent` says that where the source should be there is nothing at all: it may be meant so."""

    def __init__(self, source: str, reason: str, *, absent: bool = False) -> None:
        super().__init__(f"Source {source!r} can't be listed: {reason}")
        self.source = source
        self.reason = reason
        self.absent = absent


class NotRepeated(MiniRAGError):
    def __init__(self, asset: str) -> None:
        super().__init__(f"`{asset}` failed, and was not run again: re-execute all steps of the run.")
        self.asset = asset


class DocumentUnreadable(MiniRAGError):
    """`code` groups reasons (`corrupt`, `encrypted`, `unsupported`, `too_large`, `timeout`, …)."""

    def __init__(self, code: str, reason: str, *, permanent: bool = True) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.permanent = permanent

    def __reduce__(self) -> tuple[object, ...]:
        return (_unreadable, (self.code, self.reason, self.permanent))


def _unreadable(code: str, reason: str, permanent: bool) -> DocumentUnreadable:
    """How a worker process hands one over."""
    return DocumentUnreadable(code, reason, permanent=permanent)


class SchemaOutdated(MiniRAGError):
    def __init__(self, found: str | None, needed: str) -> None:
        super().__init__(
            f"The database's schema is at {found or 'nothing'} and this version needs {needed}: run `minirag migrate`."
        )
        self.found = found
        self.needed = needed


class CollectionMismatch(MiniRAGError):
    def __init__(self, collection: str, reason: str) -> None:
        super().__init__(f"Collection {collection}: {reason}")
        self.collection = collection
        self.reason = reason


class GenerationUnsound(MiniRAGError):
    def __init__(self, number: int, reason: str) -> None:
        super().__init__(
            f"Generation {number} was not made live: {reason} The live one goes on answering; `minirag reconcile` with "
            "--repair mends what Chroma has lost."
        )
        self.number = number
        self.reason = reason


class TooManyFailures(MiniRAGError):
    def __init__(self, failed: int, documents: int, reasons: str) -> None:
        super().__init__(
            f"{failed:,} of {documents:,} documents failed ({reasons}); the others are served. "
            "`minirag documents TENANT --state quarantined` says why."
        )
        self.failed = failed
        self.documents = documents
        self.reasons = reasons


class StackFailed(MiniRAGError):
    def __init__(self, service: str, reason: str, log: str | None = None) -> None:
        super().__init__(f"{service} did not come up: {reason}" + (f" Its log: {log}" if log else ""))
        self.service = service
        self.reason = reason
        self.log = log


class AlreadyUp(MiniRAGError):
    def __init__(self, pid: int | None, ui_url: str | None) -> None:
        super().__init__("The stack is up already" + (f": {ui_url}" if ui_url else "."))
        self.pid = pid
        self.ui_url = ui_url


class ModelUnknown(MiniRAGError):
    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"Model {model!r}: {reason}")
        self.model = model
        self.reason = reason


class ProviderRefused(MiniRAGError):
    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"The provider of {model!r} refused: {reason}")
        self.model = model
        self.reason = reason


class ContentRefused(ProviderRefused):
    """What was sent is refused, whoever sends it; `text_index` says which of the texts, where that is known.

    `parts` is then what became of all texts that were asked for with it, in order: (start, end, result or refusal).
    """

    def __init__(
        self,
        model: str,
        reason: str,
        *,
        text_index: int | None = None,
        parts: Sequence[tuple[int, int, Embedded | ContentRefused]] = (),
    ) -> None:
        super().__init__(model, reason)
        self.text_index = text_index
        self.parts = parts


class ProviderUnavailable(MiniRAGError):
    retryable: ClassVar[bool] = True

    def __init__(self, model: str, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"The provider of {model!r} can't answer now: {reason}")
        self.model = model
        self.reason = reason
        self.retry_after_s = retry_after_s


class WebserverUnavailable(MiniRAGError):
    retryable: ClassVar[bool] = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"Dagster's webserver at {address} does not answer: {reason}")
        self.address = address
        self.reason = reason


class DatabaseUnavailable(MiniRAGError):
    retryable: ClassVar[bool] = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"PostgreSQL at {address} is not available: {reason}")
        self.address = address
        self.reason = reason


class VectorStoreUnavailable(MiniRAGError):
    retryable: ClassVar[bool] = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"Chroma at {address} can't be reached: {reason}")
        self.address = address
        self.reason = reason
