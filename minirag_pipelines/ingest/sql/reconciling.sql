-- name: counters
-- What a generation's counters say beside what there is, as of one instant.
SELECT g.documents, g.chunks, g.texts,
       (SELECT count(*) FROM published p
         WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s) AS documents_counted,
       (SELECT coalesce(sum(p.chunks), 0)::bigint FROM published p
         WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s) AS chunks_counted,
       (SELECT count(*) FROM indexed i
         WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s
           AND i.state IN ('there', 'leaving')) AS texts_counted,
       (SELECT count(*) FROM indexed i
         WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.state = 'there') AS there
  FROM generation g
 WHERE g.tenant_id = %(tenant_id)s AND g.number = %(generation)s;

-- name: lock_generation
SELECT number FROM generation WHERE tenant_id = %(tenant_id)s AND number = %(generation)s FOR UPDATE;

-- name: set_counters
UPDATE generation
   SET documents = %(documents)s, chunks = %(chunks)s, texts = %(texts)s, data_version = data_version + 1
 WHERE tenant_id = %(tenant_id)s AND number = %(generation)s;

-- name: indexed_page
SELECT i.text_hash, i.state, i.changed_at,
       EXISTS (SELECT 1 FROM embedding e
                WHERE e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = i.text_hash) AS embedded
  FROM indexed i
 WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.text_hash > %(after)s
 ORDER BY i.text_hash
 LIMIT %(most)s;

-- name: indexed_now
SELECT i.text_hash, i.state, i.changed_at,
       EXISTS (SELECT 1 FROM embedding e
                WHERE e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = i.text_hash) AS embedded
  FROM indexed i
 WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.text_hash = ANY(%(text_hashes)s)
 ORDER BY i.text_hash;

-- name: sample
-- Texts from anywhere in a row: their hashes are evenly spread.
SELECT i.text_hash
  FROM indexed i
 WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.state = 'there'
   AND i.text_hash > %(after)s AND i.text_hash <= %(until)s
 ORDER BY i.text_hash
 LIMIT %(most)s;

-- name: stored
-- The vectors of texts, and one passage of each as a portable generation writes it.
SELECT e.text_hash, e.vector, c.headings, c.text
  FROM embedding e
  LEFT JOIN LATERAL (SELECT headings, text FROM chunk
                      WHERE tenant_id = %(tenant_id)s AND text_hash = e.text_hash AND chunker = %(chunker)s
                      ORDER BY version_id, ordinal
                      LIMIT 1) AS c ON %(portable)s
 WHERE e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = ANY(%(text_hashes)s)
 ORDER BY e.text_hash;

-- name: published_page
-- Published documents; `waiting` says that a sync is due to publish the document anew.
SELECT p.document_id, p.version_id, d.pending IS NOT NULL AS waiting,
       refused_chunks(%(tenant_id)s, %(generation)s, p.version_id) IS NOT NULL AS settled
  FROM published p
  JOIN document d ON d.tenant_id = %(tenant_id)s AND d.document_id = p.document_id
 WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s AND p.document_id > %(after)s
 ORDER BY p.document_id
 LIMIT %(most)s;

-- name: unsettled
-- Texts of these versions that are neither in the collection nor refused by its model for good.
SELECT DISTINCT c.text_hash
  FROM unnest(%(version_ids)s::uuid[]) AS wanted
 CROSS JOIN LATERAL (SELECT text_hash FROM chunk k
                      WHERE k.tenant_id = %(tenant_id)s AND k.version_id = wanted AND k.chunker = %(chunker)s
                     OFFSET 0) AS c
 WHERE (SELECT i.state FROM indexed i
         WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.text_hash = c.text_hash)
       IS DISTINCT FROM 'there'
   AND NOT EXISTS (SELECT 1 FROM failure f
                    WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'embed'
                      AND f.key = encode(c.text_hash, 'hex') AND f.maker = %(model)s AND f.permanent)
 ORDER BY c.text_hash;

-- name: holders
-- The documents in which a generation publishes one of these texts, and which of the texts.
SELECT p.document_id, c.text_hash
  FROM chunk c
  JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s AND p.version_id = c.version_id
 WHERE c.tenant_id = %(tenant_id)s AND c.chunker = %(chunker)s AND c.text_hash = ANY(%(text_hashes)s)
 ORDER BY p.document_id, c.text_hash;

-- name: make_pending
UPDATE document
   SET pending = 'publication'
 WHERE tenant_id = %(tenant_id)s
   AND document_id = ANY(%(document_ids)s)
   AND pending IS NULL
   AND removed_at IS NULL
   AND forgotten_at IS NULL;

-- name: unpublish
DELETE FROM published
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND document_id = ANY(%(document_ids)s)
RETURNING chunks;

-- name: doubt
-- A text whose vector is lost is not there any more; it may still be in Chroma.
UPDATE indexed
   SET state = %(state)s, changed_at = clock_timestamp()
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND state = 'there' AND text_hash = ANY(%(text_hashes)s)
RETURNING text_hash;
