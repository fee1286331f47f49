-- name: document
SELECT d.document_id, d.uri, d.kind,
       CASE WHEN d.forgotten_at IS NOT NULL THEN 'forgotten'
            WHEN d.removed_at IS NOT NULL THEN 'removed'
            WHEN f.reason IS NOT NULL AND d.pending IS NOT NULL THEN 'quarantined'
            WHEN d.pending IS NOT NULL OR p.document_id IS NULL THEN 'pending'
            ELSE 'live' END AS state,
       CASE WHEN d.removed_at IS NULL AND d.pending IS NOT NULL THEN f.reason
            WHEN d.removed_at IS NULL AND p.chunks = 0 THEN 'The document is empty.' END AS reason,
       d.first_seen_at, d.removed_at, d.forgotten_at, d.content_hash, d.size_bytes,
       coalesce(p.version_id, d.version_id) AS version_id,
       s.name AS source, s.kind AS source_kind, s.config, s.removed_at AS source_removed_at
  FROM document d
  JOIN source s ON s.tenant_id = %(tenant_id)s AND s.source_id = d.source_id
  LEFT JOIN generation g ON g.tenant_id = %(tenant_id)s AND g.state = 'live'
  LEFT JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = g.number AND p.document_id = d.document_id
  LEFT JOIN document_failure f ON f.tenant_id = %(tenant_id)s AND f.document_id = d.document_id
 WHERE d.tenant_id = %(tenant_id)s AND d.document_id = %(document_id)s;

-- name: holders
-- The documents that have a version, as questions would find them first: published in the live generation, published in
-- another one, pointing at it; the oldest first.
SELECT d.document_id, d.uri, held.published,
       count(*) FILTER (WHERE held.published) OVER () AS published_in
  FROM (SELECT document_id, bool_or(live) AS live, bool_or(published) AS published
          FROM (SELECT p.document_id, g.state = 'live' AS live, true AS published
                  FROM generation g
                  JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = g.number
                                  AND p.version_id = %(version_id)s
                 WHERE g.tenant_id = %(tenant_id)s
                 UNION ALL
                SELECT document_id, false, false
                  FROM document
                 WHERE tenant_id = %(tenant_id)s AND version_id = %(version_id)s) AS pointers
         GROUP BY document_id) AS held
  JOIN document d ON d.tenant_id = %(tenant_id)s AND d.document_id = held.document_id
 ORDER BY held.live DESC, held.published DESC, d.forgotten_at IS NOT NULL, d.removed_at IS NOT NULL,
          d.first_seen_at, d.document_id
 LIMIT %(most)s;

-- name: version
SELECT version_id, content_hash, kind, parser, title, pages, warnings, size_bytes, run_id, created_at
  FROM version
 WHERE tenant_id = %(tenant_id)s AND version_id = %(version_id)s;

-- name: chunking
-- How a version was cut: by one chunker, or by that of the live generation before others. The settings are those of a
-- generation with this chunker; without one they are not known any more.
SELECT k.chunker, k.chunks, k.run_id, k.created_at, g.chunk_tokens, g.chunk_overlap, g.embedding_model
  FROM chunking k
  LEFT JOIN LATERAL (SELECT number, state, chunk_tokens, chunk_overlap, embedding_model
                       FROM generation
                      WHERE tenant_id = %(tenant_id)s AND chunker = k.chunker
                      ORDER BY state = 'live' DESC, number DESC
                      LIMIT 1) AS g ON true
 WHERE k.tenant_id = %(tenant_id)s
   AND k.version_id = %(version_id)s
   AND (%(chunker)s::text IS NULL OR k.chunker = %(chunker)s)
 ORDER BY (g.state = 'live') DESC NULLS LAST, g.number DESC NULLS LAST, k.created_at DESC, k.chunker
 LIMIT 1;

-- name: chunks
SELECT ordinal, start_char, end_char, headings, page, tokens, text, text_hash
  FROM chunk
 WHERE tenant_id = %(tenant_id)s
   AND version_id = %(version_id)s
   AND chunker = %(chunker)s
   AND (%(ordinal)s::integer IS NULL OR ordinal = %(ordinal)s)
 ORDER BY ordinal;

-- name: embeddings
-- Of each text, in each generation with this chunker: its vector's making, and whether the collection holds it.
SELECT t.text_hash, g.number, g.embedding_model, g.model, g.dimension, e.run_id, e.created_at,
       i.state, f.reason AS refused
  FROM unnest(%(text_hashes)s::bytea[]) AS t (text_hash)
  JOIN generation g ON g.tenant_id = %(tenant_id)s AND g.chunker = %(chunker)s AND g.state <> 'retired'
  LEFT JOIN embedding e ON e.tenant_id = %(tenant_id)s AND e.model = g.model AND e.text_hash = t.text_hash
  LEFT JOIN indexed i ON i.tenant_id = %(tenant_id)s AND i.generation = g.number AND i.text_hash = t.text_hash
  LEFT JOIN failure f ON f.tenant_id = %(tenant_id)s AND f.stage = 'embed' AND f.key = encode(t.text_hash, 'hex')
                     AND f.maker = g.model AND f.permanent
 ORDER BY t.text_hash, g.number;

-- name: publications
SELECT g.number, g.state, g.embedding_model, g.chunker, p.version_id, p.run_id, p.published_at
  FROM generation g
  JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = g.number AND p.document_id = %(document_id)s
 WHERE g.tenant_id = %(tenant_id)s
 ORDER BY g.number;
