-- A forgotten document answers no question from forgotten_at on; what was made of it is erased by the tenant's writer.
ALTER TABLE minirag.document ADD COLUMN erased_at timestamptz;
CREATE INDEX document_to_erase ON minirag.document (tenant_id, document_id)
 WHERE forgotten_at IS NOT NULL AND erased_at IS NULL;

-- The run that asked the model; none where it was before this column.
ALTER TABLE minirag.embedding ADD COLUMN run_id text;

-- What last went wrong with a document: with reading it, or with parsing the bytes it holds.
CREATE VIEW minirag.document_failure WITH (security_invoker = true) AS
    SELECT d.tenant_id, d.document_id, f.stage, f.code, f.reason, f.permanent, f.attempts, f.first_at, f.last_at, f.next_at
      FROM minirag.document d
     CROSS JOIN LATERAL (SELECT *
                           FROM minirag.failure f
                          WHERE f.tenant_id = d.tenant_id
                            AND (f.stage = 'read' AND f.key = d.document_id::text
                                 OR f.stage = 'parse' AND f.key = encode(d.content_hash, 'hex') || ':' || d.kind)
                          ORDER BY f.last_at DESC
                          LIMIT 1) AS f;
GRANT SELECT ON minirag.document_failure TO minirag_app;

-- Serves what asks for a version in one generation, and in any.
DROP INDEX minirag.published_version;
CREATE INDEX published_version ON minirag.published (tenant_id, version_id, generation);
