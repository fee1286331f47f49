-- name: due_after_rollback
-- Documents that the generation has not as they are now are to be published there: `changed` are there in another version,
-- `added` are not there at all; of these, `unreadable` ones have content now that waits to be read or can't be.
WITH due AS (
    SELECT d.document_id, b.document_id IS NULL AS added, d.pending IS NOT DISTINCT FROM 'content' AS unread
      FROM document d
      LEFT JOIN published b ON b.tenant_id = %(tenant_id)s AND b.generation = %(generation)s
                           AND b.document_id = d.document_id
     WHERE d.tenant_id = %(tenant_id)s
       AND d.removed_at IS NULL
       AND d.forgotten_at IS NULL
       AND d.version_id IS NOT NULL
       AND (d.pending IS DISTINCT FROM 'content'
            OR EXISTS (SELECT 1 FROM published p
                        WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(live)s
                          AND p.document_id = d.document_id))
       AND b.version_id IS DISTINCT FROM d.version_id
), marked AS (
    UPDATE document d
       SET pending = 'publication'
      FROM due
     WHERE d.tenant_id = %(tenant_id)s AND d.document_id = due.document_id AND d.pending IS NULL
)
SELECT count(*) FILTER (WHERE NOT added) AS changed,
       count(*) FILTER (WHERE added AND NOT unread) AS added,
       count(*) FILTER (WHERE added AND unread) AS unreadable
  FROM due;
