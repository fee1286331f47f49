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
-- OFFSET 0: those that are pending are found by their own index, also on a table that was never analysed.
CREATE VIEW minirag.document_failure WITH (security_invoker = true) AS
    SELECT d.tenant_id, d.document_id, f.stage, f.code, f.reason, f.permanent, f.attempts, f.first_at, f.last_at, f.next_at
      FROM (SELECT * FROM minirag.document WHERE pending IS NOT NULL OFFSET 0) AS d
     CROSS JOIN LATERAL (SELECT *
                           FROM (SELECT * FROM minirag.failure
                                  WHERE tenant_id = d.tenant_id AND stage = 'read' AND key = d.document_id::text
                                  UNION ALL
                                 SELECT * FROM minirag.failure
                                  WHERE tenant_id = d.tenant_id AND stage = 'parse'
                                    AND key = encode(d.content_hash, 'hex') || ':' || d.kind
                                  UNION ALL
                                 SELECT * FROM minirag.failure
                                  WHERE tenant_id = d.tenant_id AND stage = 'publish' AND key = d.version_id::text) AS one
                          ORDER BY last_at DESC
                          LIMIT 1) AS f
     WHERE d.removed_at IS NULL AND d.forgotten_at IS NULL;
GRANT SELECT ON minirag.document_failure TO minirag_app;

-- Led by tenant and generation, it cost as little by estimate as the primary key on a table that was never analysed: every
-- document that was looked up read all published ones. It also serves what asks for a version in any generation.
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
          FROM (SELECT (SELECT true FROM minirag.failure f
                         WHERE f.tenant_id = of_tenant AND f.stage = 'embed'
                           AND f.key = encode(c.text_hash, 'hex') AND f.maker = g.model AND f.permanent
                         LIMIT 1) IS NOT NULL AS refused
                  FROM minirag.generation g
                  JOIN minirag.chunk c ON c.tenant_id = of_tenant AND c.version_id = of_version AND c.chunker = g.chunker
                 WHERE g.tenant_id = of_tenant
                   AND g.number = in_generation
                   AND (SELECT i.state FROM minirag.indexed i
                         WHERE i.tenant_id = of_tenant AND i.generation = in_generation AND i.text_hash = c.text_hash)
                       IS DISTINCT FROM 'there') AS missing
    $$;
GRANT EXECUTE ON FUNCTION minirag.refused_chunks(text, integer, uuid) TO minirag_app;
