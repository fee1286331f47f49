-- What a tenant holds after a sync, for comparison with what its files say.

-- name: published
SELECT d.uri, v.content_hash,
       (SELECT coalesce(array_agg(c.text_hash ORDER BY c.ordinal), '{}')
          FROM chunk c
         WHERE c.tenant_id = %(tenant_id)s AND c.version_id = p.version_id AND c.chunker = %(chunker)s) AS text_hashes
  FROM published p
  JOIN document d ON d.tenant_id = %(tenant_id)s AND d.document_id = p.document_id
                 AND d.removed_at IS NULL AND d.forgotten_at IS NULL
  JOIN version v ON v.tenant_id = %(tenant_id)s AND v.version_id = p.version_id
 WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s
 ORDER BY d.uri;

-- name: indexed
SELECT text_hash, state
  FROM indexed
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s
 ORDER BY text_hash;

-- name: unfinished
SELECT (SELECT count(*) FROM document WHERE tenant_id = %(tenant_id)s AND pending IS NOT NULL) AS pending,
       (SELECT count(*) FROM failure WHERE tenant_id = %(tenant_id)s) AS failures;
