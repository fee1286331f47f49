-- name: documents_to_build
SELECT document_id, version_id
  FROM documents_to_build(%(tenant_id)s, %(generation)s, %(live)s)
 WHERE document_id > %(after)s AND (missed OR NOT %(only_missed)s)
 ORDER BY document_id
 LIMIT %(most)s;

-- name: unbuilt
SELECT count(*) AS documents
  FROM documents_to_build(%(tenant_id)s, %(generation)s, %(live)s)
 WHERE missed OR NOT %(only_missed)s;

-- name: uncut
SELECT wanted AS version_id
  FROM unnest(%(version_ids)s::uuid[]) AS wanted
 WHERE NOT EXISTS (SELECT 1 FROM chunking k
                    WHERE k.tenant_id = %(tenant_id)s AND k.version_id = wanted AND k.chunker = %(chunker)s)
 ORDER BY wanted;

-- name: buildable
-- Those of the documents whose version has every text settled; `unlike_live` says that the live generation has another
-- version, or none.
SELECT *
  FROM (SELECT wanted.document_id, wanted.version_id, k.chunks,
               refused_chunks(%(tenant_id)s, %(generation)s, wanted.version_id) AS refused,
               NOT EXISTS (SELECT 1 FROM published p
                            WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(live)s
                              AND p.document_id = wanted.document_id AND p.version_id = wanted.version_id) AS unlike_live
          FROM unnest(%(document_ids)s::uuid[], %(version_ids)s::uuid[]) AS wanted (document_id, version_id)
          JOIN chunking k ON k.tenant_id = %(tenant_id)s AND k.version_id = wanted.version_id
                         AND k.chunker = %(chunker)s) AS cut
 WHERE refused IS NOT NULL
 ORDER BY document_id;

-- name: refused
-- Texts of the generation's documents that its model has refused for good.
SELECT count(*) AS texts
  FROM failure f
 WHERE f.tenant_id = %(tenant_id)s
   AND f.stage = 'embed'
   AND f.maker = %(model)s
   AND EXISTS (SELECT 1 FROM chunk c
                 JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s
                                 AND p.version_id = c.version_id
                WHERE c.tenant_id = %(tenant_id)s AND c.text_hash = decode(f.key, 'hex')
                  AND c.chunker = %(chunker)s);

-- name: settle_published
-- What waited for the generation that was live, and is in the one that is about to be.
UPDATE document d
   SET pending = NULL
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND EXISTS (SELECT 1 FROM published b
                WHERE b.tenant_id = %(tenant_id)s AND b.generation = %(generation)s
                  AND b.document_id = d.document_id AND b.version_id = d.version_id);

-- name: sample
-- Vectors that must be in the collection, spread evenly over all of them.
SELECT i.text_hash, e.vector
  FROM unnest(%(points)s::bytea[]) AS point
 CROSS JOIN LATERAL (SELECT text_hash FROM indexed
                      WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND state = 'there'
                        AND text_hash >= point
                      ORDER BY text_hash
                      LIMIT 1) AS i
  JOIN embedding e ON e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = i.text_hash
 GROUP BY i.text_hash, e.vector
 ORDER BY i.text_hash;
