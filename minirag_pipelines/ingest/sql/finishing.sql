-- name: failed
-- Documents whose content could not be read or parsed, by reason.
SELECT f.code, count(*) AS documents
  FROM document d
  JOIN document_failure f ON f.tenant_id = %(tenant_id)s AND f.document_id = d.document_id
 WHERE d.tenant_id = %(tenant_id)s AND d.pending = 'content' AND d.removed_at IS NULL AND d.forgotten_at IS NULL
 GROUP BY f.code
 ORDER BY documents DESC, f.code;

-- name: documents
SELECT count(*) AS documents
  FROM document
 WHERE tenant_id = %(tenant_id)s AND removed_at IS NULL AND forgotten_at IS NULL;
