-- name: planned_texts
-- What a generation would take in that it has not; it lives and dies with the rehearsal.
CREATE TEMPORARY TABLE planned_text (
    text_hash bytea, model text, generation integer, PRIMARY KEY (text_hash, model, generation)
);

-- name: planned_versions
CREATE TEMPORARY TABLE planned_version (version_id uuid PRIMARY KEY);

-- name: changed
-- Documents whose content the listing has found changed, as it counts them: all else that it marks is only read again.
SELECT DISTINCT f.document_id
  FROM difference f
 WHERE NOT f.forgotten
   AND (f.known AND (f.had_hash IS NULL OR f.content_hash IS DISTINCT FROM f.had_hash)
        OR NOT f.known AND f.content_hash <> f.had_hash)
 ORDER BY f.document_id;

-- name: renamed
-- Documents that the listing has paired with another URI, and no new ones, whose content is not known yet.
SELECT DISTINCT d.document_id, d.uri
  FROM difference f
  JOIN document d ON d.tenant_id = %(tenant_id)s AND d.document_id = f.document_id
                 AND d.content_hash = f.content_hash AND d.uri_key = f.uri_key
 WHERE NOT f.known AND f.had_hash IS NULL
 ORDER BY d.document_id;

-- name: to_erase
SELECT document_id
  FROM document
 WHERE tenant_id = %(tenant_id)s AND forgotten_at IS NOT NULL AND erased_at IS NULL
 ORDER BY document_id;

-- name: before
-- Documents as they are. `due` says whether reading one has failed, or parsing it with the parser of today (true), or
-- only with another one (false).
SELECT d.document_id, d.uri, d.kind, d.pending, d.removed_at IS NOT NULL AS removed, failed.due
  FROM document d
  LEFT JOIN LATERAL (SELECT bool_or(f.stage = 'read' OR f.maker = %(parsers)s::jsonb ->> d.kind) AS due
                       FROM failure f
                      WHERE f.tenant_id = %(tenant_id)s
                        AND (f.stage = 'read' AND f.key = d.document_id::text
                             OR f.stage = 'parse' AND f.key = encode(d.content_hash, 'hex') || ':' || d.kind)) AS failed
       ON d.pending = 'content'
 WHERE d.tenant_id = %(tenant_id)s AND d.document_id = ANY(%(document_ids)s)
 ORDER BY d.document_id;

-- name: used_models
-- Every model that the tenant has embedded with, found by steps through the index.
WITH RECURSIVE used AS (
    (SELECT model, vector FROM embedding WHERE tenant_id = %(tenant_id)s ORDER BY model, text_hash LIMIT 1)
    UNION ALL
    SELECT next.model, next.vector
      FROM used
     CROSS JOIN LATERAL (SELECT e.model, e.vector
                           FROM embedding e
                          WHERE e.tenant_id = %(tenant_id)s AND e.model > used.model
                          ORDER BY e.model, e.text_hash
                          LIMIT 1) AS next
)
SELECT model, octet_length(vector) / 4 AS dimension FROM used
 UNION
SELECT model, dimension FROM generation WHERE tenant_id = %(tenant_id)s
 ORDER BY model;

-- name: note_versions
INSERT INTO planned_version
SELECT unnest(%(version_ids)s::uuid[])
ON CONFLICT DO NOTHING
RETURNING version_id;

-- name: note_texts
-- Those of the texts that are not settled in the generation and that it was not to take in anyway.
INSERT INTO planned_text
SELECT wanted, %(model)s, %(generation)s
  FROM unnest(%(text_hashes)s::bytea[]) AS wanted
 WHERE (SELECT i.state FROM indexed i
         WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.text_hash = wanted)
       IS DISTINCT FROM 'there'
   AND NOT EXISTS (SELECT 1 FROM failure f
                    WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'embed' AND f.key = encode(wanted, 'hex')
                      AND f.maker = %(model)s AND f.permanent)
ON CONFLICT DO NOTHING
RETURNING text_hash;

-- name: unknown
-- Those of the texts that the model has made no vector of, and will not have for another generation.
SELECT wanted AS text_hash
  FROM unnest(%(text_hashes)s::bytea[]) AS wanted
 WHERE NOT EXISTS (SELECT 1 FROM embedding e
                    WHERE e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = wanted)
   AND NOT EXISTS (SELECT 1 FROM planned_text p
                    WHERE p.text_hash = wanted AND p.model = %(model)s AND p.generation <> %(generation)s)
 ORDER BY wanted;
