-- Every table is owned by minirag_owner, led by tenant_id, and under a forced policy; minirag_app, the only role that
-- the pipeline and serving use, owns nothing and bypasses nothing. No tenant set means no rows.

CREATE TABLE minirag.tenant (
    tenant_id       text PRIMARY KEY CHECK (tenant_id ~ '^[a-z][a-z0-9-]{1,62}$'),
    name            text NOT NULL,
    embedding_model text NOT NULL,
    chunk_tokens    integer NOT NULL CHECK (chunk_tokens >= 16),
    chunk_overlap   integer NOT NULL CHECK (chunk_overlap BETWEEN 0 AND chunk_tokens / 2),
    portable        boolean NOT NULL DEFAULT false,
    writer_epoch    bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE minirag.source (
    tenant_id  text NOT NULL REFERENCES minirag.tenant,
    source_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    kind       text NOT NULL,
    config     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    PRIMARY KEY (tenant_id, source_id)
);
CREATE UNIQUE INDEX source_name ON minirag.source (tenant_id, name) WHERE removed_at IS NULL;

CREATE TABLE minirag.bot (
    tenant_id  text NOT NULL REFERENCES minirag.tenant,
    bot_id     uuid NOT NULL DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    model      text NOT NULL,
    prompt     text NOT NULL DEFAULT '',
    top_k      integer NOT NULL CHECK (top_k BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, bot_id),
    UNIQUE (tenant_id, name)
);

-- The hash of 256 random bits needs no constraint of its own to be unique, and one would reach across tenants.
CREATE TABLE minirag.token (
    tenant_id    text NOT NULL REFERENCES minirag.tenant,
    token_id     uuid NOT NULL DEFAULT gen_random_uuid(),
    name         text NOT NULL,
    token_hash   bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    PRIMARY KEY (tenant_id, token_id)
);
CREATE INDEX token_by_hash ON minirag.token (token_hash);

-- What a parser made of certain bytes. version_id is made from content hash, kind and parser.
CREATE TABLE minirag.version (
    tenant_id    text NOT NULL REFERENCES minirag.tenant,
    version_id   uuid NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    kind         text NOT NULL,
    parser       text NOT NULL,
    title        text,
    text         text NOT NULL,
    elements     jsonb NOT NULL,
    pages        integer,
    warnings     text[] NOT NULL DEFAULT '{}',
    size_bytes   bigint NOT NULL,
    run_id       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, version_id)
);

-- version_id is what the document's content was parsed to; content_hash runs ahead of it while parsing is pending or
-- has failed. pending says what is still to be done: read the content, or publish the version.
CREATE TABLE minirag.document (
    tenant_id     text NOT NULL REFERENCES minirag.tenant,
    document_id   uuid NOT NULL DEFAULT gen_random_uuid(),
    source_id     uuid NOT NULL,
    uri           text NOT NULL,
    uri_key       bytea NOT NULL CHECK (octet_length(uri_key) = 32),
    kind          text NOT NULL,
    size_bytes    bigint,
    content_hash  bytea,
    version_id    uuid,
    pending       text CHECK (pending IN ('content', 'publication')),
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    removed_at    timestamptz,
    forgotten_at  timestamptz,
    PRIMARY KEY (tenant_id, document_id),
    FOREIGN KEY (tenant_id, source_id) REFERENCES minirag.source (tenant_id, source_id),
    FOREIGN KEY (tenant_id, version_id) REFERENCES minirag.version (tenant_id, version_id)
);
CREATE UNIQUE INDEX document_uri ON minirag.document (tenant_id, uri_key) WHERE removed_at IS NULL;
CREATE INDEX document_removed_uri ON minirag.document (tenant_id, uri_key, removed_at) WHERE removed_at IS NOT NULL;
CREATE INDEX document_pending ON minirag.document (tenant_id, pending, document_id) WHERE pending IS NOT NULL;
CREATE INDEX document_version ON minirag.document (tenant_id, version_id);

-- Which sources list a document, and what each said of it when its content was last due.
CREATE TABLE minirag.listed (
    tenant_id   text NOT NULL,
    source_id   uuid NOT NULL,
    document_id uuid NOT NULL,
    size_bytes  bigint,
    modified_at timestamptz,
    etag        text,
    PRIMARY KEY (tenant_id, source_id, document_id),
    FOREIGN KEY (tenant_id, source_id) REFERENCES minirag.source (tenant_id, source_id),
    FOREIGN KEY (tenant_id, document_id) REFERENCES minirag.document (tenant_id, document_id)
);
CREATE INDEX listed_document ON minirag.listed (tenant_id, document_id);

-- A row says that the version has been cut with this chunker, into no chunks too.
CREATE TABLE minirag.chunking (
    tenant_id  text NOT NULL,
    version_id uuid NOT NULL,
    chunker    text NOT NULL,
    chunks     integer NOT NULL,
    tokens     bigint NOT NULL,
    run_id     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, version_id, chunker),
    FOREIGN KEY (tenant_id, version_id) REFERENCES minirag.version (tenant_id, version_id) ON DELETE CASCADE
);

CREATE TABLE minirag.chunk (
    tenant_id  text NOT NULL,
    version_id uuid NOT NULL,
    chunker    text NOT NULL,
    ordinal    integer NOT NULL,
    start_char integer NOT NULL,
    end_char   integer NOT NULL CHECK (end_char >= start_char),
    headings   jsonb NOT NULL,
    page       integer,
    tokens     integer NOT NULL,
    text       text NOT NULL,
    text_hash  bytea NOT NULL,
    PRIMARY KEY (tenant_id, version_id, chunker, ordinal),
    FOREIGN KEY (tenant_id, version_id, chunker) REFERENCES minirag.chunking ON DELETE CASCADE
);
CREATE INDEX chunk_text ON minirag.chunk (tenant_id, text_hash, chunker);

-- Float32, little-endian.
CREATE TABLE minirag.embedding (
    tenant_id  text NOT NULL REFERENCES minirag.tenant,
    model      text NOT NULL,
    text_hash  bytea NOT NULL,
    vector     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, model, text_hash)
);
ALTER TABLE minirag.embedding ALTER COLUMN vector SET STORAGE EXTERNAL;

-- chunker and model are fingerprints; the settings they were made from stand beside them.
CREATE TABLE minirag.generation (
    tenant_id       text NOT NULL REFERENCES minirag.tenant,
    number          integer NOT NULL,
    state           text NOT NULL CHECK (state IN ('building', 'live', 'kept', 'retired')),
    chunk_tokens    integer NOT NULL,
    chunk_overlap   integer NOT NULL,
    chunker         text NOT NULL,
    embedding_model text NOT NULL,
    model           text NOT NULL,
    dimension       integer NOT NULL CHECK (dimension > 0),
    portable        boolean NOT NULL,
    collection      text NOT NULL,
    documents       bigint NOT NULL DEFAULT 0,
    chunks          bigint NOT NULL DEFAULT 0,
    texts           bigint NOT NULL DEFAULT 0,
    data_version    bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    live_at         timestamptz,
    retired_at      timestamptz,
    PRIMARY KEY (tenant_id, number)
);
CREATE UNIQUE INDEX generation_live ON minirag.generation (tenant_id) WHERE state = 'live';
CREATE UNIQUE INDEX generation_building ON minirag.generation (tenant_id) WHERE state = 'building';

-- The only pointer that answers follow.
CREATE TABLE minirag.published (
    tenant_id    text NOT NULL,
    generation   integer NOT NULL,
    document_id  uuid NOT NULL,
    version_id   uuid NOT NULL,
    chunks       integer NOT NULL,
    run_id       text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, generation, document_id),
    FOREIGN KEY (tenant_id, generation) REFERENCES minirag.generation (tenant_id, number),
    FOREIGN KEY (tenant_id, document_id) REFERENCES minirag.document (tenant_id, document_id),
    FOREIGN KEY (tenant_id, version_id) REFERENCES minirag.version (tenant_id, version_id)
);
CREATE INDEX published_version ON minirag.published (tenant_id, generation, version_id);

-- Every id that may be in Chroma has a row here; only 'there' means present.
CREATE TABLE minirag.indexed (
    tenant_id  text NOT NULL,
    generation integer NOT NULL,
    text_hash  bytea NOT NULL,
    state      text NOT NULL CHECK (state IN ('sending', 'there', 'leaving')),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, generation, text_hash),
    FOREIGN KEY (tenant_id, generation) REFERENCES minirag.generation (tenant_id, number)
);
CREATE INDEX indexed_unsettled ON minirag.indexed (tenant_id, generation, state, changed_at) WHERE state <> 'there';

-- key is what failed (a document's id, a content hash and kind, a text hash); maker is what failed on it (nothing, a
-- parser, a model), so that a new maker tries again.
CREATE TABLE minirag.failure (
    tenant_id text NOT NULL REFERENCES minirag.tenant,
    stage     text NOT NULL CHECK (stage IN ('read', 'parse', 'embed')),
    key       text NOT NULL,
    maker     text NOT NULL,
    code      text NOT NULL,
    reason    text NOT NULL,
    permanent boolean NOT NULL,
    attempts  integer NOT NULL,
    first_at  timestamptz NOT NULL DEFAULT now(),
    last_at   timestamptz NOT NULL DEFAULT now(),
    next_at   timestamptz,
    PRIMARY KEY (tenant_id, stage, key, maker),
    CHECK (permanent = (next_at IS NULL))
);

-- cost_usd counts the requests whose price is known; unpriced those whose price is not.
CREATE TABLE minirag.usage (
    tenant_id         text NOT NULL REFERENCES minirag.tenant,
    day               date NOT NULL,
    stage             text NOT NULL,
    model             text NOT NULL,
    requests          bigint NOT NULL,
    unpriced          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cost_usd          numeric NOT NULL,
    PRIMARY KEY (tenant_id, day, stage, model)
);

DO $$
DECLARE
    owned text;
BEGIN
    FOREACH owned IN ARRAY ARRAY['tenant', 'source', 'bot', 'token', 'version', 'document', 'listed', 'chunking', 'chunk',
                                 'embedding', 'generation', 'published', 'indexed', 'failure', 'usage'] LOOP
        EXECUTE format('ALTER TABLE minirag.%I ENABLE ROW LEVEL SECURITY', owned);
        EXECUTE format('ALTER TABLE minirag.%I FORCE ROW LEVEL SECURITY', owned);
        EXECUTE format(
            'CREATE POLICY own_tenant ON minirag.%I TO minirag_app
             USING (tenant_id = current_setting(''minirag.tenant_id'', true))
             WITH CHECK (tenant_id = current_setting(''minirag.tenant_id'', true))', owned);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON minirag.%I TO minirag_app', owned);
    END LOOP;
END $$;

-- Whether every text of a version is settled in a generation: in its collection, or refused by its model for good. The
-- state of a text is looked up by itself: joined, a table that has never been analysed is read as a whole each time.
CREATE FUNCTION minirag.settled(of_tenant text, in_generation integer, of_version uuid) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
        SELECT NOT EXISTS (
            SELECT 1
              FROM minirag.generation g
              JOIN minirag.chunk c ON c.tenant_id = of_tenant AND c.version_id = of_version AND c.chunker = g.chunker
             WHERE g.tenant_id = of_tenant
               AND g.number = in_generation
               AND (SELECT i.state FROM minirag.indexed i
                     WHERE i.tenant_id = of_tenant AND i.generation = in_generation AND i.text_hash = c.text_hash)
                   IS DISTINCT FROM 'there'
               AND NOT EXISTS (SELECT 1 FROM minirag.failure f
                                WHERE f.tenant_id = of_tenant AND f.stage = 'embed'
                                  AND f.key = encode(c.text_hash, 'hex') AND f.maker = g.model AND f.permanent))
    $$;
GRANT EXECUTE ON FUNCTION minirag.settled(text, integer, uuid) TO minirag_app;

-- What must be known before a tenant is: answered by functions of a role with policies of its own.
GRANT USAGE ON SCHEMA minirag TO minirag_app, minirag_operator;
GRANT SELECT ON minirag.tenant, minirag.token TO minirag_operator;
CREATE POLICY operator_reads ON minirag.tenant FOR SELECT TO minirag_operator USING (true);
CREATE POLICY operator_reads ON minirag.token FOR SELECT TO minirag_operator USING (true);

CREATE FUNCTION minirag.tenant_ids() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$ SELECT tenant_id FROM minirag.tenant ORDER BY tenant_id $$;

CREATE FUNCTION minirag.token_owner(shown_hash bytea) RETURNS TABLE (tenant_id text, token_id uuid, scopes text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
        SELECT t.tenant_id, t.token_id, t.scopes
          FROM minirag.token t
         WHERE t.token_hash = shown_hash
           AND t.revoked_at IS NULL
           AND (t.expires_at IS NULL OR t.expires_at > now())
    $$;

GRANT CREATE ON SCHEMA minirag TO minirag_operator;
ALTER FUNCTION minirag.tenant_ids() OWNER TO minirag_operator;
ALTER FUNCTION minirag.token_owner(bytea) OWNER TO minirag_operator;
REVOKE CREATE ON SCHEMA minirag FROM minirag_operator;
REVOKE ALL ON FUNCTION minirag.tenant_ids(), minirag.token_owner(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION minirag.tenant_ids(), minirag.token_owner(bytea) TO minirag_app;
