-- name: quarantined
-- Documents that are not as their source has them, by reason.
SELECT code, count(*) AS documents
  FROM document_failure
 WHERE tenant_id = %(tenant_id)s
 GROUP BY code
 ORDER BY documents DESC, code;

-- name: documents
SELECT count(*) AS documents
  FROM document
 WHERE tenant_id = %(tenant_id)s AND removed_at IS NULL AND forgotten_at IS NULL;
