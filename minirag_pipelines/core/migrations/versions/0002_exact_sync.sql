-- A forgotten document answers no question from forgotten_at on; what was made of it is erased by the tenant's writer.
ALTER TABLE minirag.document ADD COLUMN erased_at timestamptz;
CREATE INDEX document_to_erase ON minirag.document (tenant_id, document_id)
 WHERE forgotten_at IS NOT NULL AND erased_at IS NULL;

-- The run that asked the model; none where it was before this column.
ALTER TABLE minirag.embedding ADD COLUMN run_id text;

-- Stage publish: so much of a version was refused by the model that its document stays as it was; key is the version.
ALTER TABLE minirag.failure DROP CONSTRAINT failure_stage_check;
ALTER TABLE minirag.failure ADD CONSTRAINT failure_stage_check CHECK (stage IN ('read', 'parse', 'embed', 'publish'));

-- What last went wrong with a document: with reading it, parsing the bytes it holds, or publishing what they were made to.
CREATE VIEW minirag.document_failure WITH (security_invoker = true) AS
    SELECT d.tenant_id, d.document_id, f.stage, f.code, f.reason, f.permanent, f.attempts, f.first_at, f.last_at, f.next_at
      FROM minirag.document d
     CROSS JOIN LATERAL (SELECT *
                           FROM minirag.failure f
                          WHERE f.tenant_id = d.tenant_id
                            AND (f.stage = 'read' AND f.key = d.document_id::text
                                 OR f.stage = 'parse' AND f.key = encode(d.content_hash, 'hex') || ':' || d.kind
                                 OR f.stage = 'publish' AND f.key = d.version_id::text)
                          ORDER BY f.last_at DESC
                          LIMIT 1) AS f
     WHERE d.pending IS NOT NULL AND d.removed_at IS NULL AND d.forgotten_at IS NULL;
GRANT SELECT ON minirag.document_failure TO minirag_app;

-- Serves what asks for a version in one generation, and in any.
DROP INDEX minirag.published_version;
CREATE INDEX published_version ON minirag.published (tenant_id, version_id, generation);

-- How many chunks of a version the generation's model has refused for good; NULL while a text is neither in the
-- collection nor refused. The state of a text is looked up by itself: joined, a table that has never been analysed is
-- read as a whole each time.
DROP FUNCTION minirag.settled(text, integer, uuid);
CREATE FUNCTION minirag.refused_chunks(of_tenant text, in_generation integer, of_version uuid) RETURNS bigint
    LANGUAGE sql STABLE
    AS $$
        SELECT CASE WHEN bool_and(missing.refused) IS NOT FALSE THEN count(*) END
          FROM (SELECT EXISTS (SELECT 1 FROM minirag.failure f
                                WHERE f.tenant_id = of_tenant AND f.stage = 'embed'
                                  AND f.key = encode(c.text_hash, 'hex') AND f.maker = g.model AND f.permanent) AS refused
                  FROM minirag.generation g
                  JOIN minirag.chunk c ON c.tenant_id = of_tenant AND c.version_id = of_version AND c.chunker = g.chunker
                 WHERE g.tenant_id = of_tenant
                   AND g.number = in_generation
                   AND (SELECT i.state FROM minirag.indexed i
                         WHERE i.tenant_id = of_tenant AND i.generation = in_generation AND i.text_hash = c.text_hash)
                       IS DISTINCT FROM 'there') AS missing
    $$;
GRANT EXECUTE ON FUNCTION minirag.refused_chunks(text, integer, uuid) TO minirag_app;
