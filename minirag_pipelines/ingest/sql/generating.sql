-- name: due_after_rollback
-- Documents that the generation has not as they are now are to be published there.
WITH due AS (
    SELECT d.document_id
      FROM document d
      JOIN published b ON b.tenant_id = %(tenant_id)s AND b.generation = %(generation)s
                      AND b.document_id = d.document_id
     WHERE d.tenant_id = %(tenant_id)s
       AND d.removed_at IS NULL
       AND d.forgotten_at IS NULL
       AND b.version_id IS DISTINCT FROM d.version_id
), marked AS (
    UPDATE document d
       SET pending = 'publication'
      FROM due
     WHERE d.tenant_id = %(tenant_id)s AND d.document_id = due.document_id AND d.pending IS NULL
)
SELECT count(*) AS changed FROM due;
