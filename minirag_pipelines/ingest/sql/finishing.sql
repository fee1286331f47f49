-- name: quarantined
-- Documents that are not as their source has them, by reason.
SELECT code, count(*) AS documents
  FROM document_failure
 WHERE tenant_id = %(tenant_id)s
 GROUP BY code
 ORDER BY documents DESC, code;

-- name: unpublished
-- Documents of which no version answers, found among the pending ones.
SELECT count(*) AS documents
  FROM (SELECT document_id, removed_at, forgotten_at FROM document
         WHERE tenant_id = %(tenant_id)s AND pending IS NOT NULL
        OFFSET 0) AS d
 WHERE d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND (SELECT true FROM published p
         WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s AND p.document_id = d.document_id)
       IS NULL;
