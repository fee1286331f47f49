"""The environment, read once into one frozen record.

Every setting is an environment variable `MINIRAG_<NAME>`. Addresses that the environment leaves open are those of the
stack that `minirag up` runs on this machine: it writes them to `<home>/addresses.json`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, PostgresDsn, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from minirag_pipelines.core.errors import InvalidInput

ADDRESSES_FILE = "addresses.json"


class Settings(BaseSettings):
    """All settings. `database_url` and its like are secrets because they hold passwords."""

    model_config = SettingsConfigDict(env_prefix="MINIRAG_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".minirag"), description="Folder of the embedded stack's data, logs and addresses.")
    database_url: SecretStr | None = Field(default=None, description="PostgreSQL, for the pipeline and serving.")
    admin_database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL as a login that may migrate the schema; default: MINIRAG_DATABASE_URL."
    )
    dagster_database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL database of Dagster; default: <database>_dagster beside MiniRAG's own."
    )
    chroma_url: str | None = Field(default=None, description="The Chroma server, http://host:port.")
    ui_url: str | None = Field(default=None, description="Dagster's webserver, http://host:port.")
    code_location_host: str = Field(default="127.0.0.1", description="Where Dagster finds the code location.")
    code_location_port: int | None = Field(default=None, description="Its gRPC port.")

    parse_workers: int = Field(default=2, ge=1, le=64, description="Processes that parse documents.")
    parse_timeout_s: float = Field(default=120.0, gt=0, description="The longest that one document may take to parse.")
    parse_memory_mib: int = Field(default=2048, ge=256, description="The most memory that a parsing process may take.")
    max_document_mib: int = Field(default=200, ge=1, description="The largest document that is read.")
    max_unpacked_mib: int = Field(default=1024, ge=1, description="The most that a document may unpack to.")
    max_unpack_ratio: int = Field(default=200, ge=1, description="The same, as a multiple of the document's size.")
    # The libraries end at 256, some of which are their own.
    max_nesting_levels: int = Field(default=200, ge=1, le=250, description="The deepest nesting that is read.")
    max_pages: int = Field(default=20_000, ge=1, description="The most pages, slides or frames that are read.")
    languages: str = Field(default="eng", description="Languages of the documents, ISO 639-3, comma-separated.")
    allow_empty: bool = Field(
        default=False,
        description="Believe every source that lists nothing, or is not there: remove its documents.",
    )
    failed_share: float = Field(
        default=0.5, ge=0, le=1, description="A run fails when more than this share of a tenant's documents failed."
    )
    failed_least: int = Field(default=20, ge=1, description="But not when fewer documents failed than this.")
    build_slice_s: float = Field(
        default=60.0, gt=0, description="How long one run goes on building a tenant's next generation."
    )
    kept_generations: int = Field(
        default=1, ge=0, description="How many generations that were live once are kept for a rollback."
    )
    retire_after_s: float = Field(
        default=60.0, ge=0, description="How long a vector that nothing needs stays in Chroma, for searches under way."
    )
    keep_unused_days: float = Field(
        default=30.0, ge=0, description="How long what nothing points at any more stays in PostgreSQL."
    )

    @field_validator("database_url", "admin_database_url", "dagster_database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                TypeAdapter(PostgresDsn).validate_python(value.get_secret_value().replace("+psycopg2", ""))
            except ValidationError:
                # The value itself may hold a password: it is not repeated.
                raise ValueError("is not an address like postgresql://user:password@host:port/database") from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings)

    def with_addresses(self) -> Settings:
        """These settings, with addresses of the embedded stack wherever none is set."""
        try:
            found = json.loads((self.home / ADDRESSES_FILE).read_text())
        except (OSError, ValueError):
            return self
        if self.database_url is not None:
            # Logins of the embedded server are of no use beside another one.
            found = {name: value for name, value in found.items() if not name.endswith("database_url")}
        missing: dict[str, Any] = {name: value for name, value in found.items() if getattr(self, name, 0) is None}
        return Settings(**(self.model_dump() | missing))


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings. Raises InvalidInput with the variable's name and what is wrong with it."""
    try:
        return Settings().with_addresses()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "MINIRAG_" + "_".join(str(part) for part in first["loc"]).upper()
        raise InvalidInput(name, first["msg"]) from None
