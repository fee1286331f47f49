-- Versions that a document was and is no longer, so that what nothing points at is found without looking at everything:
-- deleted when they have been left for long enough, or when the document is forgotten. No key to document: for what was
-- left before this table, the document is not known, and its id is nil.
CREATE TABLE minirag.left_version (
    tenant_id   text NOT NULL REFERENCES minirag.tenant,
    document_id uuid NOT NULL,
    version_id  uuid NOT NULL,
    left_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, document_id, version_id),
    FOREIGN KEY (tenant_id, version_id) REFERENCES minirag.version (tenant_id, version_id) ON DELETE CASCADE
);
CREATE INDEX left_version_at ON minirag.left_version (tenant_id, left_at);
CREATE INDEX left_version_version ON minirag.left_version (tenant_id, version_id);

-- The owner is bound by the policies too, and none is for it: without this it would see no row.
ALTER TABLE minirag.document NO FORCE ROW LEVEL SECURITY;
ALTER TABLE minirag.version NO FORCE ROW LEVEL SECURITY;
INSERT INTO minirag.left_version (tenant_id, document_id, version_id)
SELECT tenant_id, document_id, version_id FROM minirag.document WHERE removed_at IS NOT NULL AND version_id IS NOT NULL
 UNION
SELECT v.tenant_id, '00000000-0000-0000-0000-000000000000', v.version_id
  FROM minirag.version v
 WHERE NOT EXISTS (SELECT 1 FROM minirag.document d WHERE d.tenant_id = v.tenant_id AND d.version_id = v.version_id);
ALTER TABLE minirag.document FORCE ROW LEVEL SECURITY;
ALTER TABLE minirag.version FORCE ROW LEVEL SECURITY;

ALTER TABLE minirag.left_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE minirag.left_version FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON minirag.left_version TO minirag_app
    USING (tenant_id = current_setting('minirag.tenant_id', true))
    WITH CHECK (tenant_id = current_setting('minirag.tenant_id', true));
GRANT SELECT, INSERT, UPDATE, DELETE ON minirag.left_version TO minirag_app;

-- A generation is `deleted` when its collection is: what was cut and embedded for it stays for as long as versions do.
ALTER TABLE minirag.generation DROP CONSTRAINT generation_state_check;
ALTER TABLE minirag.generation ADD CONSTRAINT generation_state_check
    CHECK (state IN ('building', 'live', 'kept', 'retired', 'deleted'));

-- What a generation lacks of the live one: each document in the version that is published there or is about to be, unless
-- the generation's model refuses the most of that. `missed` are not there at all, or not as they are live although what
-- they hold today waits to be read: without them an answer would lack what it had.
CREATE FUNCTION minirag.documents_to_build(of_tenant text, in_generation integer, live_generation integer)
    RETURNS TABLE (document_id uuid, version_id uuid, missed boolean)
    LANGUAGE sql STABLE
    AS $$
        SELECT wanted.document_id, wanted.version_id, b.document_id IS NULL OR wanted.unread
          FROM (SELECT d.document_id, d.pending IS NOT DISTINCT FROM 'content' AS unread,
                       CASE WHEN d.pending = 'publication'
                             AND (SELECT true FROM minirag.failure f
                                    JOIN minirag.generation g ON g.tenant_id = of_tenant AND g.number = in_generation
                                                             AND g.model || '/' || g.chunker = f.maker
                                   WHERE f.tenant_id = of_tenant AND f.stage = 'publish'
                                     AND f.key = d.version_id::text
                                   LIMIT 1) IS NULL
                            THEN d.version_id ELSE p.version_id END AS version_id
                  FROM minirag.document d
                  LEFT JOIN minirag.published p ON p.tenant_id = of_tenant AND p.generation = live_generation
                                               AND p.document_id = d.document_id
                 WHERE d.tenant_id = of_tenant
                   AND d.removed_at IS NULL
                   AND d.forgotten_at IS NULL
                   AND (d.pending = 'publication' OR p.document_id IS NOT NULL)) AS wanted
          LEFT JOIN minirag.published b ON b.tenant_id = of_tenant AND b.generation = in_generation
                                       AND b.document_id = wanted.document_id
         WHERE wanted.version_id IS NOT NULL
           AND wanted.version_id IS DISTINCT FROM b.version_id
    $$;
GRANT EXECUTE ON FUNCTION minirag.documents_to_build(text, integer, integer) TO minirag_app;

-- Texts of the live generation that its model has refused (`keys`, or all) are offered to it again, but for those that a
-- document has which is not read again now: they would be neither in its collection nor refused. A generation behind the
-- live one that lacks such a text, too, waits for its vector.
CREATE FUNCTION minirag.offer_again(of_tenant text, keys text[]) RETURNS void
    LANGUAGE sql
    AS $$
        WITH offered AS (
            DELETE FROM minirag.failure f
             USING minirag.generation live
             WHERE live.tenant_id = of_tenant
               AND live.state = 'live'
               AND f.tenant_id = of_tenant
               AND f.stage = 'embed'
               AND f.maker = live.model
               AND (keys IS NULL OR f.key = ANY(keys))
               AND EXISTS (SELECT 1 FROM minirag.chunk c
                            WHERE c.tenant_id = of_tenant AND c.text_hash = decode(f.key, 'hex')
                              AND c.chunker = live.chunker)
               AND NOT EXISTS (SELECT 1
                                 FROM minirag.chunk c
                                 JOIN minirag.document d ON d.tenant_id = of_tenant AND d.version_id = c.version_id
                                                        AND d.pending IS NULL AND d.removed_at IS NULL
                                                        AND d.forgotten_at IS NULL
                                WHERE c.tenant_id = of_tenant AND c.text_hash = decode(f.key, 'hex'))
            RETURNING f.maker, decode(f.key, 'hex') AS text_hash
        )
        INSERT INTO minirag.indexed (tenant_id, generation, text_hash, state)
        SELECT of_tenant, g.number, o.text_hash, 'sending'
          FROM offered o
          JOIN minirag.generation g ON g.tenant_id = of_tenant AND g.model = o.maker AND g.state IN ('kept', 'building')
         WHERE EXISTS (SELECT 1
                         FROM minirag.chunk c
                         JOIN minirag.published p ON p.tenant_id = of_tenant AND p.generation = g.number
                                                 AND p.version_id = c.version_id
                        WHERE c.tenant_id = of_tenant AND c.text_hash = o.text_hash AND c.chunker = g.chunker)
        ON CONFLICT (tenant_id, generation, text_hash) DO NOTHING
    $$;
GRANT EXECUTE ON FUNCTION minirag.offer_again(text, text[]) TO minirag_app;
